"""A copy of what operators have set for single tenants in each process, so that a request asks Redis for none of it."""

from __future__ import annotations

from gateway.copies import KeptCopy
from shared.store import TenantLimits, TenantStore

NOTHING_SET = TenantLimits()


class Tenants(KeptCopy):
    """The limits as they were half a second ago at most, or when Redis was last there."""

    def __init__(self, store: TenantStore) -> None:
        self.store = store
        self._limits: dict[str, TenantLimits] = {}

    def limits(self, tenant: str) -> TenantLimits:
        """What is set for this tenant."""
        return self._limits.get(tenant, NOTHING_SET)

    async def changes(self) -> bytes | None:
        return await self.store.changes()

    async def read(self) -> bytes | None:
        changes, self._limits = await self.store.all()
        return changes
