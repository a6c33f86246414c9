"""What a real server tells of itself, and what it may keep to itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.main import create_app
from shared.settings import Settings
from shared.store import connect
from shared.store.safety import look_at_server
from tests.conditions import until
from tests.servers import SECRET_KEY, Processes, Valkey


@pytest.fixture(scope="module")
def unsafe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("unsafe"), appendfsync="everysec", maxmemory_policy="allkeys-lru")
    yield server
    server.stop()


async def test_a_real_server_that_is_safe_is_known_to_be(valkey_url: str) -> None:
    async with connect(valkey_url) as redis:
        safety = await look_at_server(redis)
    assert (safety.unsafe, safety.unknown) == ((), ())


async def test_a_server_that_refuses_config_is_unknown_and_what_it_tells_all_the_same_is_told(unsafe: Valkey) -> None:
    with unsafe.client() as client:
        client.acl_setuser("tenant", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"])
    async with connect(unsafe.url.replace("redis://", "redis://tenant:x@")) as redis:
        safety = await look_at_server(redis)
    assert safety.unknown == ("appendfsync",)
    assert len(safety.unsafe) == 1
    assert "maxmemory-policy is allkeys-lru" in safety.unsafe[0]


async def test_a_gateway_warns_at_its_start_of_a_server_that_is_not_safe(unsafe: Valkey) -> None:
    settings: dict[str, Any] = {"redis_url": unsafe.url, "secret_key": SECRET_KEY, "auth_required": False}
    app = create_app(Settings(**settings))
    with capture_logs() as logs:
        async with app.router.lifespan_context(app):
            warnings = await until(lambda: [line for line in logs if "unsafe" in line])
    assert warnings[0]["log_level"] == "warning"
    assert len(warnings[0]["unsafe"]) == 2


def test_a_worker_warns_at_its_start_of_a_server_that_is_not_safe(unsafe: Valkey, processes: Processes) -> None:
    line = processes.worker(unsafe.url, WORKER_ROLES="webhooks").wait_for_line("Redis may lose or refuse jobs", 30)
    assert "appendfsync is everysec" in line
    assert '"warning"' in line
