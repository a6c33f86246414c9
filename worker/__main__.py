"""`python -m worker`: one worker process, or several (`--processes N`). Stops on SIGTERM and SIGINT, handing jobs back.
`python -m worker install` installs the packages that the graphs need; `check` sees whether a worker would start.

Exit status: 0 stopped, 1 failed, 2 a setting is wrong, 3 a node blocked the event loop past its job's time limit: start
it again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from uuid_utils import uuid7

from shared.env_file import warn_where_others_may_read
from shared.jobs import rfc3339
from shared.logs import configure_logs
from shared.settings import Settings, SettingsError, load_settings
from shared.store import JobStore, KeeperStore, Registry, StoreError, connect, connect_blocking, connect_sync
from shared.store.connection import wait_until_reachable
from shared.store.safety import SafetyWatch
from worker.metrics_port import Readiness, serve_metrics
from worker.node_threads import NodeThreads
from worker.signals import StopSignals

if TYPE_CHECKING:
    from worker.graphs.catalogue import Catalogue
    from worker.webhooks import WebhookSender

logger = structlog.get_logger("worker")
ANSWER_SECONDS = 5.0
KEEPER_SECONDS = 1.0
BLOCKING_SECONDS = 3.0  # longer than any wait for work, so that a connection that hangs is noticed
CONNECTIONS = 64
LOOKUP_THREADS = 4
OTHER_FILES = 80  # the sender's and the keeper's connections to Redis, the log, modules that are being imported
CATALOGUE_SECONDS = 15.0
EXPIRE_BATCH = 100
SENDER_STOP_SECONDS = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker, or several, until told to stop. Gives the exit status."""
    options = _parser().parse_args(arguments)
    asked: int | None = options.processes
    try:
        if options.command == "install":
            from worker.graphs.config import read_graphs_config
            from worker.graphs.dependencies import install

            return install(read_graphs_config(load_settings().graphs_config), dry_run=options.dry_run)
        if options.command == "check":
            from worker.check import check

            return check(load_settings())
        settings = load_settings() if asked is None else load_settings(worker_processes=asked)
        configure_logs(settings)
        warn_where_others_may_read()
        if settings.worker_processes > 1:
            from worker.processes import keep_workers

            return keep_workers(settings)
        worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid7().hex[-6:]}"
        structlog.contextvars.bind_contextvars(worker=worker_id)
        url = settings.require_redis_url()
        if "webhooks" in settings.worker_roles:
            settings.require_secret_key()
        wait_until_reachable(url)
        readiness = Readiness()
        serve_metrics(settings.worker_metrics_host, settings.worker_metrics_port, readiness)
        catalogue = load_catalogue(settings)
        gc.freeze()  # what was imported stays: no full collection need look at it again
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    look_at_files(settings)
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    signals = StopSignals(settings.drain_seconds)
    # Sync nodes run here; a pool of its own size, so that each job can have one.
    # The others are for name look-ups, which share the loop's pool.
    loop.set_default_executor(NodeThreads(settings.worker_concurrency + LOOKUP_THREADS))
    sender: WebhookSender | None = None
    if "webhooks" in settings.worker_roles:
        from worker.webhooks import sender_from_settings

        sender = sender_from_settings(settings, worker_id)
    try:
        run(loop, work(settings, url, worker_id, catalogue, loop, signals, sender, readiness), signals)
    except Exception:
        logger.exception("worker failed")
        return 1
    finally:
        if sender is not None:
            sender.stop(SENDER_STOP_SECONDS)
    logger.info("stopped")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m worker", description="Run jobs. Settings: the environment.")
    parser.add_argument("--processes", type=int, metavar="N", help="this many workers, one per core: WORKER_PROCESSES")
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("check", help="see whether a worker would start, and which graphs it would load, and end")
    install = commands.add_parser("install", help="install the packages that the graphs of GRAPHS_CONFIG need")
    install.add_argument("--dry-run", action="store_true", help="print the command, and change nothing")
    return parser


def run(loop: asyncio.AbstractEventLoop, worker: Coroutine[Any, Any, None], signals: StopSignals) -> None:
    """Run the worker to its end. A node's `sys.exit()` stops the loop, but is its own job's failure only."""
    task = loop.create_task(worker)
    while not task.done():
        try:
            loop.run_until_complete(task)
        except SystemExit:
            logger.warning("a node called sys.exit()")
            loop.call_soon(signals.take_wakeup_fd)
    task.result()


async def work(
    settings: Settings, url: str, worker_id: str, catalogue: Catalogue, loop: asyncio.AbstractEventLoop,
    signals: StopSignals, sender: WebhookSender | None, readiness: Readiness,
) -> None:  # fmt: skip
    """Build the worker's parts and run it."""
    from arq.connections import ArqRedis

    from worker.checkpoints.threads import ThreadMemory
    from worker.keeper import Keeper
    from worker.queue import JobWorker
    from worker.runner import Runner

    redis = ArqRedis(connect(url, connections=CONNECTIONS, answer_within=ANSWER_SECONDS).connection_pool)
    ttl_seconds, replicas = settings.result_ttl_seconds, settings.wait_replicas
    store = JobStore(redis, result_ttl_seconds=ttl_seconds, wait_replicas=replicas)
    registry = Registry(redis)
    safety = SafetyWatch(redis, wait_replicas=settings.wait_replicas)
    threads = ThreadMemory(settings.thread_database)
    started_at = rfc3339(int(time.time() * 1000))
    published_at = -CATALOGUE_SECONDS

    def state() -> dict[str, Any]:
        return {
            "id": worker_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": started_at,
            "roles": settings.worker_roles,
            "queues": settings.worker_queues,
            "graphs": worker.graphs,
            "concurrency": settings.worker_concurrency,
            "threads": threads.state,
            "running": [lease.job.id for lease in list(worker.running.values())],
        }

    async def housekeeping() -> None:
        nonlocal published_at
        await safety.look()
        while max(await store.expire(EXPIRE_BATCH)) == EXPIRE_BATCH:
            pass
        if time.monotonic() - published_at >= CATALOGUE_SECONDS:
            await catalogue.publish(registry)
            published_at = time.monotonic()

    await catalogue.describe()
    with contextlib.suppress(StoreError):  # a full Redis must not keep the worker from draining it
        await catalogue.publish(registry)
    warm_models(settings)
    keeper = Keeper(
        KeeperStore(
            connect_sync(url, answer_within=keeper_patience(settings.lease_seconds)),
            worker_id,
            result_ttl_seconds=ttl_seconds,
            wait_replicas=replicas,
        ),
        settings.lease_seconds,
        loop,
        state,
        sending=sender.sending if sender else lambda: (),
        leave_at=lambda: signals.leave_at,
        exit_process=exit_process,
    )
    runner = Runner(
        store,
        worker_id,
        catalogue,
        threads,
        job_timeout_seconds=settings.job_timeout_seconds,
        max_output_bytes=settings.max_output_bytes,
    )
    worker = JobWorker(
        settings,
        redis=redis,
        blocking=connect_blocking(url, answer_within=BLOCKING_SECONDS),
        store=store,
        keeper=keeper,
        runner=runner,
        housekeeping=housekeeping,
    )
    if sender is not None:
        sender.start(lambda: keeper.may_recover)
    signals.listen(loop, worker.handle_sig)
    logger.info("worker ready", graphs=worker.graphs, queues=settings.worker_queues, roles=settings.worker_roles)
    # The keeper's thread has its connection: leases are renewed, and Redis answers.
    readiness.is_ready = lambda: keeper.connected_since is not None
    watching = loop.create_task(threads.watch())
    try:
        await worker.main()
    finally:
        watching.cancel()
        await worker.close()
        if not worker.running:  # an attempt that does not stop may be using it
            await threads.close()


def keeper_patience(lease_seconds: float) -> float:
    """For how long the keeper waits for an answer: where its connection hangs, it must renew over another in time."""
    return min(ANSWER_SECONDS, max(lease_seconds / 3, KEEPER_SECONDS))


def load_catalogue(settings: Settings) -> Catalogue:
    """Import the graphs. Imports are most of a worker's start."""
    from worker.graphs.catalogue import Catalogue
    from worker.graphs.config import read_graphs_config
    from worker.graphs.loading import load_graphs

    if "jobs" not in settings.worker_roles:
        return Catalogue([], [])
    return Catalogue(*load_graphs(read_graphs_config(settings.graphs_config)))


def warm_models(settings: Settings) -> None:
    """Import the providers' client now, where a graph uses our models with a key: it would hold up the first job."""
    if "worker.models" in sys.modules and any(getattr(settings, f"{name}_api_key") for name in settings.model_order):
        from worker.models import chat_model

        chat_model()


def look_at_files(settings: Settings) -> None:
    """Warn where this process may open fewer files than all its work at once would need."""
    import resource  # not there on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    jobs = settings.worker_concurrency if "jobs" in settings.worker_roles else 0
    webhooks = settings.webhook_concurrency if "webhooks" in settings.worker_roles else 0
    # A job has at least a connection to its model or database.
    needed = OTHER_FILES + CONNECTIONS + jobs + webhooks
    if files < needed:
        logger.warning("the limit of open files is low: connections may fail (ulimit -n)", limit=files, needed=needed)


def exit_process(status: int) -> None:
    """End without waiting for anything: threads of abandoned sync nodes must not hold up the exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:  # Ctrl-C before the worker was ready for it
        status = 128 + signal.SIGINT
    exit_process(status)
