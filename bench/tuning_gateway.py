"""What the gateway's settings do to a submit, and how clients had best ask."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis

from bench.processes import ROOT, child, free_port, publish, until, worker, workers_ready
from bench.session import Session
from bench.turns import Knob, Measured, Served, Spent, cpu, in_turns, served

CONNECTIONS = 32
IDLE = 150  # submits one after the other, for the time of one
WAITERS = 100
TUNED = str(ROOT / "bench" / "tuning.langgraph.json")


def submitted(gateway: Served, jobs: int, **more: int) -> Measured:
    """So many submits over several connections; `more` are processes whose CPU is counted with the gateway's."""
    spent = Spent(gateway=gateway.pid, **more)
    rate = child("bench.load", "submit", gateway.base, jobs, CONNECTIONS)["per_second"]
    micros = sum(spent.micros(name, jobs) for name in ("gateway", *more))
    return {"submits/s over 32 connections": rate, "CPU µs a submit": micros}


def one_by_one(base: str) -> float:
    """Submits/s of a client that waits for each answer before it sends the next."""
    return child("bench.load", "submit", base, IDLE, 1)["per_second"]


def with_settings(session: Session, name: str, ways: Mapping[str, dict[str, str]]) -> Knob:
    """Gateways that differ in these settings, on one Valkey, with no worker."""
    publish(session.url, session.folder)
    with ExitStack() as running:
        gateways = {
            way: running.enter_context(served(session.url, session.folder / f"gateway-{number}.log", **settings))
            for number, (way, settings) in enumerate(ways.items())
        }

        def measured(gateway: Served) -> Callable[[], Measured]:
            return lambda: submitted(gateway, session.jobs)

        for gateway in gateways.values():
            submitted(gateway, 300)  # warm
        return in_turns(name, session.rounds(), {way: measured(gateway) for way, gateway in gateways.items()})


def processes(session: Session) -> Knob:
    counts = {str(count): {"GATEWAY_WORKERS": str(count)} for count in (1, 2, 4)}
    return with_settings(session, "GATEWAY_WORKERS", counts)


def log_level(session: Session) -> Knob:
    levels = {level: {"LOG_LEVEL": level} for level in ("INFO", "WARNING", "DEBUG")}
    return with_settings(session, "LOG_LEVEL, gateway", levels)


def batches(session: Session) -> Knob:
    """One by one, and in batches of 10 and of 500."""
    publish(session.url, session.folder)
    with redis.Redis.from_url(session.url) as client, served(session.url, session.folder / "gateway.log") as gateway:
        server = int(client.info("server")["process_id"])  # type: ignore[index]

        def measured(size: int) -> Callable[[], Measured]:
            def run() -> Measured:
                spent = Spent(gateway=gateway.pid, valkey=server)
                what = ("batches", gateway.base, session.jobs, size) if size > 1 else (
                    "submit", gateway.base, session.jobs, CONNECTIONS)  # fmt: skip
                rate = child("bench.load", *what)["per_second"]
                both = spent.micros("gateway", session.jobs) + spent.micros("valkey", session.jobs)
                return {"jobs/s": rate, "CPU µs a job, gateway and Valkey": both}

            return run

        ways = {"one by one": measured(1), "batches of 10": measured(10), "batches of 500": measured(500)}
        return in_turns("submits", session.rounds(), ways)


def asking(session: Session) -> Knob:
    """A hundred clients at once that each learn the end of a job of 1 s."""
    with (
        worker(session.url, session.folder / "worker.log", GRAPHS_CONFIG=TUNED, WORKER_CONCURRENCY=str(WAITERS)),
        served(session.url, session.folder / "gateway.log") as gateway,
    ):
        workers_ready(session.url, 1)

        def measured(every: float) -> Callable[[], Measured]:
            def run() -> Measured:
                spent = Spent(gateway=gateway.pid)
                found = child("bench.tuning_jobs", gateway.base, WAITERS, str(every))
                return {
                    "ms from a job's end to its answer, p50": found["late"] * 1000,
                    "CPU µs of the gateway a job": spent.micros("gateway", WAITERS),
                }

            return run

        measured(0)()  # warm
        ways = {"wait": measured(0), "poll each 1 s": measured(1.0), "poll each 0.1 s": measured(0.1)}
        return in_turns("the end of a job of 1 s", session.rounds(), ways)


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[Served]:
    """An nginx before a gateway, with connections to it that are kept."""
    port, address = free_port(), urlsplit(upstream)
    folder.mkdir()
    text = f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; events {{ }}
        http {{
            access_log {folder}/access.log; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/1; uwsgi_temp_path {folder}/2; scgi_temp_path {folder}/3;
            upstream gateway {{ server {address.netloc}; keepalive 64; }}
            server {{ listen 127.0.0.1:{port}; keepalive_requests 100000;
                location / {{ proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection "";
                              proxy_set_header Host $host; }} }}
        }}"""
    (folder / "nginx.conf").write_text(text)
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise FileNotFoundError("nginx is not installed")
    started = subprocess.Popen([program, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
    try:
        until(lambda: (folder / "pid").exists(), 10, "nginx does not start")
        yield Served(f"http://127.0.0.1:{port}{address.path}", started.pid)
    finally:
        started.terminate()
        started.wait()


def proxy(session: Session) -> Knob:
    publish(session.url, session.folder)
    with (
        served(session.url, session.folder / "gateway.log") as gateway,
        nginx(session.folder / "nginx", gateway.base) as front,
    ):

        def measured(base: str) -> Callable[[], Measured]:
            def run() -> Measured:
                found = submitted(Served(base, gateway.pid), session.jobs, proxy=front.pid)
                return {**found, "submits/s of one client": one_by_one(base)}

            return run

        return in_turns("a proxy", session.rounds(), {"none": measured(gateway.base), "nginx": measured(front.base)})


def starts(session: Session) -> Knob:
    """What a process costs that is started anew: the price of recycling."""

    def one_gateway() -> Measured:
        with served(session.url, session.folder / "gateway.log") as gateway:
            return {"CPU s until it serves": cpu(gateway.pid)}

    def one_worker() -> Measured:
        with worker(session.url, session.folder / "worker.log") as started:
            workers_ready(session.url, 1)
            spent = cpu(started.pid)
        with redis.Redis.from_url(session.url) as client:
            until(lambda: not client.keys("mas:worker:*"), 10, "the worker is still there")
        return {"CPU s until it serves": spent}

    return in_turns("recycling", session.rounds(), {"a gateway process": one_gateway, "a worker": one_worker})
