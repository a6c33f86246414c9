"""The gateway as an ASGI application: `uvicorn gateway.main:app`, or `create_app` with settings of one's own."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import FrameType

import structlog
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.middleware import Middleware

from gateway.auth import Gate
from gateway.cors import Cors
from gateway.direct import Direct
from gateway.documents import openapi_page
from gateway.errors import install_error_handlers
from gateway.limits import BodyLimit
from gateway.observe import Observe
from gateway.overload import TurnAway
from gateway.proxies import Forwarded
from gateway.rates import RateLimit
from gateway.routes import DIRECT, install_routes
from gateway.services import REDIS_SECONDS, make_services
from shared.env_file import warn_where_others_may_read
from shared.logs import configure_logs
from shared.settings import Settings, SettingsError, load_settings
from shared.store import StoreError, connect, connect_blocking
from shared.store.safety import SafetyWatch

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
SAFETY_SECONDS = 5.0  # between looks; those that a server answered are further apart
TITLE = "multi-agent-service"
VERSION = "1"
DESCRIPTION = (
    "Runs LangGraph agents as jobs: submit one, get its id at once, and learn what became of it by polling, by "
    "waiting, or by a signed webhook.\n\n"
    "Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problems with a stable `code`. "
    "Times are RFC 3339, in UTC."
)


def create_app(
    settings: Settings | None = None, *, redis: Redis | None = None, notices_redis: Redis | None = None
) -> FastAPI:
    """The application. `redis` answers requests, `notices_redis` holds one subscription: by default at REDIS_URL.

    Raises `SettingsError`.
    """
    settings = settings or load_settings()
    settings.require_secret_key()
    redis = redis or connect(settings.require_redis_url(), answer_within=REDIS_SECONDS, tries=2)
    notices_redis = notices_redis or connect_blocking(settings.require_redis_url())
    services = make_services(settings, redis, notices_redis)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with services.waiters.reading(), _watching(SafetyWatch(redis, wait_replicas=settings.wait_replicas)):
            with _before_shutdown(services.waiters.release):
                keys_kept_up = services.keys.kept_up() if settings.auth_required else nullcontext()
                async with keys_kept_up, services.tenants.kept_up():
                    yield
        await redis.aclose()
        await notices_redis.aclose()

    app = FastAPI(
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # we have our own
        middleware=[
            *([Middleware(Forwarded, trusted=settings.trusted_proxies)] if settings.trusted_proxies else []),
            Middleware(Observe, recycle_after=settings.gateway_recycle_requests),
            *([Middleware(Cors, origins=settings.cors_origins)] if settings.cors_origins else []),
            Middleware(TurnAway),
            Middleware(
                Gate,
                auth_required=settings.auth_required,
                allowed_hosts=settings.allowed_hosts,
                docs_public=settings.docs_public,
                keys=services.keys,
            ),
            Middleware(
                RateLimit,
                limit=settings.rate_limit_per_minute,
                rates=services.rates,
                tenants=services.tenants,
            ),
            Middleware(
                BodyLimit,
                max_bytes=settings.max_body_bytes,
                bytes_at_once=settings.max_body_bytes_at_once,
                seconds=settings.request_seconds,
            ),
            Middleware(Direct, routes=DIRECT),
        ],
    )
    app.state.services = services
    install_error_handlers(app)
    install_routes(app)
    app.openapi = lambda: openapi_page(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _watching(watch: SafetyWatch) -> AsyncIterator[None]:
    """Look at how Redis is set up, now and then."""

    async def look() -> None:
        while True:
            try:
                await watch.look()
            except StoreError:
                pass  # its absence is told elsewhere
            except Exception:
                logger.exception("cannot look at how Redis is set up")
            await asyncio.sleep(SAFETY_SECONDS)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def _before_shutdown(release: Callable[[], None]) -> Iterator[None]:
    """Call `release` as soon as a signal asks this process to stop.

    The server waits for its open requests before it tells the application, and a long poll is open for up to a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for this thread: whoever runs the server in it has its own way to stop
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(release)
        server = before[signal.Signals(number)]
        if callable(server):
            server(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _app_of_this_process() -> FastAPI:
    try:
        settings = load_settings()
        configure_logs(settings)
        warn_where_others_may_read()
        return create_app(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def __getattr__(name: str) -> FastAPI:
    # `app` is made when a server asks for it, so that importing this module needs no settings.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = _app_of_this_process()
    globals()["app"] = app
    return app
