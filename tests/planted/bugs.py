"""All planted bugs."""

from __future__ import annotations

from tests.planted.addresses import ADDRESSES
from tests.planted.attempts import ATTEMPTS
from tests.planted.deliveries import HOSTS, LEASED
from tests.planted.records import RECORDS
from tests.planted.resting import ENDPOINTS, RESTING
from tests.planted.tenants import TENANTS
from tests.planted.threads import THREADS

BUGS = [*ATTEMPTS, *THREADS, *TENANTS, *RECORDS, *LEASED, *HOSTS, *ADDRESSES, *ENDPOINTS, *RESTING]
