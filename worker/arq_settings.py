"""For arq's own command line: `arq --check worker.arq_settings.WorkerSettings` exits 0 while a worker lives.

There are no functions here, so `arq worker.arq_settings.WorkerSettings` refuses to start a plain arq worker on our
keys: it would know nothing of leases.
"""

from __future__ import annotations

from arq.connections import RedisSettings

from shared.redis_url import is_sentinel_url, parse_sentinel_url
from shared.settings import load_settings
from shared.store.keys import key


def redis_settings(url: str) -> RedisSettings:
    """REDIS_URL in arq's words, which know no other login for the sentinels than that of the servers."""
    if not is_sentinel_url(url):
        return RedisSettings.from_dsn(url)
    known = parse_sentinel_url(url)
    return RedisSettings(
        host=list(known.sentinels),
        sentinel=True,
        sentinel_master=known.name,
        database=known.db,
        ssl=known.tls is not None,
        **known.login,  # type: ignore[arg-type]
        **(known.tls or {}),
    )


class WorkerSettings:
    """What `arq --check` needs: where Redis is and the key that the workers keep fresh."""

    redis_settings = redis_settings(load_settings().require_redis_url())
    queue_name = key("leases")
    health_check_key = key("health")
