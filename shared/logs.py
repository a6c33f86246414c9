"""Structured logs: JSON or console lines, each with the job, attempt, worker or request it belongs to.

Bind ids once with `structlog.contextvars.bind_contextvars(job=…, attempt=…)`; every line of that task carries them. A
job's content is never logged at INFO, a secret never at all.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from logging.handlers import WatchedFileHandler
from typing import Any

import structlog

from shared.secrets import hide, masked
from shared.settings import Settings, SettingsError


def _drop_color_message(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("color_message", None)
    return event


def _mask_secrets(_: Any, __: str, line: Any) -> str:
    return masked(line)


_SHARED_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
    _drop_color_message,
]


def configure_logs(settings: Settings) -> None:
    """Send structlog and the standard library's loggers to one place, in one form.

    That place is standard error, or `LOG_FILE`, which is opened anew when logrotate has moved it. Raises
    `SettingsError` where that file cannot be written.
    """
    hide(settings)
    # Found out for each line, and shown in none.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler: logging.Handler
    if settings.log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            settings.log_file.parent.mkdir(parents=True, exist_ok=True)
            handler = WatchedFileHandler(settings.log_file, encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"LOG_FILE is wrong: cannot write {settings.log_file}: {error.strerror}") from None
    renderer: list[structlog.typing.Processor]
    if settings.log_format == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        colors = settings.log_file is None and sys.stderr.isatty()
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED_PROCESSORS,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _mask_secrets],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("DEBUG" if settings.debug else settings.log_level)
    for noisy in ("httpx", "httpcore", "openai", "asyncio", "aiosqlite", "watchfiles", "arq", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for uvicorn_logger in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(uvicorn_logger).handlers.clear()
        logging.getLogger(uvicorn_logger).propagate = True
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED_PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
