"""Whether the file that holds this process's secrets is its owner's alone."""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

from shared.settings import Settings

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
GROUP_AND_OTHERS = 0o077


def warn_where_others_may_read() -> None:
    """Log a warning where `.env` is there, and is open to its group or to others."""
    named = Settings.model_config.get("env_file")
    if not isinstance(named, str | Path) or sys.platform == "win32":
        return
    file = Path(named)
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    if mode & GROUP_AND_OTHERS:
        logger.warning(
            "others than its owner may open the file that holds the secrets: chmod 600 it",
            file=str(file.absolute()),
            mode=f"{mode & 0o777:03o}",
        )
