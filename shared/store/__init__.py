"""Redis: the keys, the scripts and the only classes that know them.

`JobStore` for jobs, `DeliveryStore` for webhooks, `Registry` and `KeeperStore` for workers and the catalogue,
`list_jobs` for lists.
"""

from shared.store.connection import connect, connect_blocking, connect_sync
from shared.store.deliveries import ClaimedDelivery, DeliveryStore
from shared.store.errors import StoreError, StoreFull, StoreUnavailable
from shared.store.job_values import Claim, Claimed, Ended, NewJob, StoredJob, Submitted
from shared.store.jobs import JobStore
from shared.store.listing import BadCursor, Filter, list_jobs
from shared.store.notices import Notices
from shared.store.workers import KeeperStore, Registry

__all__ = [
    "BadCursor",
    "Claim",
    "Claimed",
    "ClaimedDelivery",
    "DeliveryStore",
    "Ended",
    "Filter",
    "JobStore",
    "KeeperStore",
    "NewJob",
    "Notices",
    "Registry",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StoredJob",
    "Submitted",
    "connect",
    "connect_blocking",
    "connect_sync",
    "list_jobs",
]
