"""For arq's own command line: `arq --check worker.arq_settings.WorkerSettings` exits 0 while a worker lives.

There are no functions here, so `arq worker.arq_settings.WorkerSettings` refuses to start a plain arq worker on our
keys: it would know nothing of leases.
"""

from __future__ import annotations

from arq.connections import RedisSettings

from shared.settings import load_settings
from shared.store.keys import key


class WorkerSettings:
    """What `arq --check` needs: where Redis is and the key that the workers keep fresh."""

    redis_settings = RedisSettings.from_dsn(load_settings().require_redis_url())
    queue_name = key("leases")
    health_check_key = key("health")
