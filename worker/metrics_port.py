"""The port of one worker: its metrics for Prometheus, and whether it lives and is ready for probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shared.settings import SettingsError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Readiness:
    """Whether the worker does its work: `is_ready` says no until its graphs are loaded, and is replaced then."""

    def __init__(self) -> None:
        self.is_ready: Callable[[], bool] = lambda: False


def serve_metrics(host: str, port: int, readiness: Readiness) -> None:
    """Answer on this port, off where it is 0. Raises `SettingsError` where it is taken.

    `/live` answers 200, `/ready` 200 or 503, all else the metrics. It is a thread's work: a node that blocks the event
    loop keeps none of it from being answered.
    """
    if not port:
        return
    from prometheus_client import start_http_server

    from shared.metrics import REGISTRY
    from worker.gauges import register_process_metrics

    register_process_metrics()
    try:
        server, _ = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError as error:
        reason = f"cannot listen on {host}:{port}: {error.strerror}"
        raise SettingsError(f"WORKER_METRICS_HOST or WORKER_METRICS_PORT is wrong: {reason}") from None
    metrics = server.get_app()
    assert metrics is not None  # noqa: S101 - start_http_server has just set it
    server.set_app(_with_probes(metrics, readiness))


def _with_probes(metrics: WSGIApplication, readiness: Readiness) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/live", "/ready"):
            return metrics(environ, start_response)
        well = path == "/live" or readiness.is_ready()
        start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if well else b"not ready\n"]

    return answer
