"""What operators have set for single tenants: one small hash, which scripts read and every gateway has a copy of."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from redis.asyncio import Redis

from shared.store import scripts
from shared.store.connection import run
from shared.store.errors import store_errors
from shared.store.keys import key

_DEFAULT = "-"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Jobs that run and that wait at once, and requests a minute of each key. None: the service's default; 0: any."""

    max_running: int | None = None
    max_waiting: int | None = None
    requests_per_minute: int | None = None

    def dump(self) -> str:
        """As it is kept; empty where nothing is set."""
        values = [_DEFAULT if value is None else str(value) for value in astuple(self)]
        return "" if set(values) == {_DEFAULT} else " ".join(values)


class TenantStore:
    """The limits of all tenants. All raise `StoreError`s."""

    def __init__(self, redis: Redis, *, wait_replicas: int = 0) -> None:
        self.redis = redis
        self.wait_replicas = wait_replicas

    async def put(self, tenant: str, limits: TenantLimits) -> None:
        """Set the limits of a tenant, in place of those it had. Claims and submits keep to them from now on."""
        await run(self.redis, scripts.TENANT_LIMITS, 0, tenant, limits.dump(), replicas=self.wait_replicas)

    async def get(self, tenant: str) -> TenantLimits:
        """The limits of a tenant; all None where nothing is set."""
        with store_errors():
            found = await self.redis.hget(key("tenant_limits"), tenant)  # type: ignore[misc]
        return _read(found) if found else TenantLimits()

    async def changes(self) -> bytes | None:
        """A value that is another one after each change."""
        with store_errors():
            return await self.redis.get(key("tenant_limits_changes"))  # type: ignore[no-any-return]

    async def all(self) -> tuple[bytes | None, dict[str, TenantLimits]]:
        """`changes`, and the limits of each tenant that has some, by name."""
        with store_errors():
            pipeline = self.redis.pipeline(transaction=True)
            pipeline.get(key("tenant_limits_changes"))
            pipeline.hgetall(key("tenant_limits"))
            changes, found = await pipeline.execute()
        return changes, {tenant.decode(): _read(found[tenant]) for tenant in sorted(found)}


def _read(kept: bytes) -> TenantLimits:
    return TenantLimits(*(None if part == _DEFAULT else int(part) for part in kept.decode().split(" ")))
