"""All planted bugs."""

from __future__ import annotations

from tests.planted.attempts import ATTEMPTS
from tests.planted.records import RECORDS
from tests.planted.threads import THREADS

BUGS = [*ATTEMPTS, *THREADS, *RECORDS]
