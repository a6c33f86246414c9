"""What is told of a server that could lose or refuse jobs, and what of one that keeps its settings to itself."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError, NoPermissionError, ResponseError
from structlog.testing import capture_logs

from shared.store import StoreUnavailable
from shared.store.safety import SafetyWatch, look_at_server

SAFE: dict[str, Any] = {
    "memory": {"maxmemory_policy": "noeviction"},
    "persistence": {"aof_enabled": 1, "aof_last_write_status": "ok"},
    "replication": {"connected_slaves": 1},
    "appendfsync": {"appendfsync": "always"},
    "save": {"save": ""},
}


class Server:
    """Answers INFO and CONFIG GET with what it was given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {**SAFE, **answers}

    def pipeline(self, *, transaction: bool) -> Server:
        self.asked: list[str] = []
        return self

    def info(self, section: str) -> None:
        self.asked.append(section)

    def config_get(self, name: str) -> None:
        self.asked.append(name)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        return [self.answers[name] for name in self.asked]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"memory": {"maxmemory_policy": "allkeys-lru"}}, "maxmemory-policy is allkeys-lru"),
        ({"persistence": {"aof_enabled": 0}}, "appendonly is off, so that a crash loses jobs"),
        ({"persistence": {"aof_enabled": 0}, "save": {"save": "60 1"}}, "no more than its last snapshot"),
        (
            {"appendfsync": {"appendfsync": "everysec"}},
            "appendfsync is everysec, so that a crash can lose the last second",
        ),
        ({"appendfsync": {"appendfsync": "no"}}, "appendfsync is no,"),
        ({"persistence": {"aof_enabled": 1, "aof_last_write_status": "err"}}, "the last write to the append-only file"),
    ],
)
async def test_each_unsafe_setting_is_told(answers: dict[str, Any], told: str) -> None:
    safety = await look_at_server(Server(**answers))  # type: ignore[arg-type]
    assert len(safety.unsafe) == 1
    assert told in safety.unsafe[0]
    assert safety.unknown == ()


async def test_of_a_safe_server_nothing_is_told() -> None:
    safety = await look_at_server(Server(), wait_replicas=1)  # type: ignore[arg-type]
    assert (safety.unsafe, safety.unknown) == ((), ())


async def test_too_few_replicas_are_told_where_they_are_waited_for() -> None:
    safety = await look_at_server(Server(), wait_replicas=2)  # type: ignore[arg-type]
    assert "WAIT_REPLICAS is 2, but 1 are connected" in safety.unsafe[0]


async def test_what_a_server_does_not_tell_is_unknown_and_not_unsafe() -> None:
    forbidden = NoPermissionError("no permissions to run the 'config|get' command")
    safety = await look_at_server(Server(appendfsync=forbidden, save=forbidden))  # type: ignore[arg-type]
    assert (safety.unsafe, safety.unknown) == ((), ("appendfsync",))
    none = ResponseError("unknown command")
    safety = await look_at_server(Server(**dict.fromkeys(SAFE, none)), wait_replicas=1)  # type: ignore[arg-type]
    assert safety.unsafe == ()
    assert safety.unknown == ("maxmemory-policy", "appendonly", "appendfsync")


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await look_at_server(Server(memory=ConnectionError("gone")))  # type: ignore[arg-type]


async def test_an_unsafe_server_is_warned_of_at_the_start_and_when_it_changes_and_not_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(appendfsync={"appendfsync": "everysec"})
    watch = SafetyWatch(server)  # type: ignore[arg-type]
    with capture_logs() as logs:
        await watch.look()
        server.answers["memory"] = {"maxmemory_policy": "allkeys-lru"}
        await watch.look()  # it was looked at just now
    assert [(line["log_level"], len(line["unsafe"])) for line in logs] == [("warning", 1)]
    monkeypatch.setattr("shared.store.safety.LOOK_AGAIN_SECONDS", 0.0)
    with capture_logs() as logs:
        await watch.look()
        await watch.look()
        server.answers |= SAFE
        await watch.look()
    assert [line["log_level"] for line in logs] == ["warning", "info"]
