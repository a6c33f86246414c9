"""The API keys of all tenants: one small hash, which every gateway has a copy of in memory."""

from __future__ import annotations

from redis.asyncio import Redis

from shared.api_keys import ApiKey, read_key
from shared.store import scripts
from shared.store.connection import run
from shared.store.errors import store_errors
from shared.store.keys import key

_CHANGES = b"changes"


class KeyStore:
    """Where keys are kept. All raise `StoreError`s."""

    def __init__(self, redis: Redis, *, wait_replicas: int = 0) -> None:
        self.redis = redis
        self.wait_replicas = wait_replicas

    async def save(self, api_key: ApiKey) -> None:
        """Keep a key."""
        await run(self.redis, scripts.API_KEY, 0, api_key.id, api_key.dump(), replicas=self.wait_replicas)

    async def revoke(self, key_id: str) -> bool:
        """Forget a key. False: there is none of this id."""
        return bool(await run(self.redis, scripts.API_KEY, 0, key_id, "", replicas=self.wait_replicas))

    async def changes(self) -> bytes | None:
        """A value that is another one after each change."""
        with store_errors():
            (changes,) = await self.redis.hmget(key("api_keys"), [_CHANGES.decode()])  # type: ignore[misc]
        return changes  # type: ignore[no-any-return]

    async def all(self) -> tuple[bytes | None, list[ApiKey]]:
        """`changes` and all keys, oldest first."""
        with store_errors():
            found = dict(await self.redis.hgetall(key("api_keys")))  # type: ignore[misc]
        changes = found.pop(_CHANGES, None)
        keys = [known for content in found.values() if (known := read_key(content)) is not None]
        return changes, sorted(keys, key=lambda one: (one.created_at_ms, one.id))
