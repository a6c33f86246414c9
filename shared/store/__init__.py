"""Redis: the keys, the scripts and the only classes that know them.

`JobStore` for jobs, `list_jobs` for lists of them; for webhooks `DeliveryStore` (senders), `DeliveryLog` (clients) and
`EndpointStore`; `Registry` and `KeeperStore` for workers and the catalogue; for who calls `KeyStore`, `TenantStore` and
`RateStore`.
"""

from shared.store.api_keys import KeyStore
from shared.store.connection import connect, connect_blocking, connect_sync
from shared.store.deliveries import ClaimedDelivery, DeliveryStore, Recorded
from shared.store.delivery_log import Backlog, DeliveryFilter, DeliveryLog
from shared.store.endpoints import EndpointStore
from shared.store.errors import EarlierWriteLost, NotReplicated, StoreError, StoreFull, StoreUnavailable
from shared.store.job_values import Claim, Claimed, DepthLimits, Ended, NewJob, StoredJob, Submitted
from shared.store.jobs import JobStore
from shared.store.listing import Filter, list_jobs
from shared.store.notices import Notices
from shared.store.paging import BadCursor
from shared.store.rates import RateStore, Share
from shared.store.tenants import TenantLimits, TenantStore
from shared.store.workers import KeeperStore, Registry

__all__ = [
    "Backlog",
    "BadCursor",
    "Claim",
    "Claimed",
    "ClaimedDelivery",
    "DeliveryFilter",
    "DeliveryLog",
    "DeliveryStore",
    "DepthLimits",
    "EarlierWriteLost",
    "Ended",
    "EndpointStore",
    "Filter",
    "JobStore",
    "KeeperStore",
    "KeyStore",
    "NewJob",
    "NotReplicated",
    "Notices",
    "RateStore",
    "Recorded",
    "Registry",
    "Share",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "StoredJob",
    "Submitted",
    "TenantLimits",
    "TenantStore",
    "connect",
    "connect_blocking",
    "connect_sync",
    "list_jobs",
]
