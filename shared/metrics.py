"""The metrics of both processes, named `mas_…`, and their text for Prometheus. What only one of the two has is shown by
`gateway/gauges.py` and `worker/gauges.py`.

With several gateway processes each writes its own files (prometheus_client's multiprocess mode, where
PROMETHEUS_MULTIPROC_DIR is set before the first import) and any of them answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
DELIVERY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600, 72 * 3600)

REGISTRY = CollectorRegistry()

HTTP_REQUESTS = Counter("mas_http_requests", "Requests answered.", ["method", "route", "status"], registry=REGISTRY)
HTTP_REQUEST_SECONDS = Histogram(
    "mas_http_request_seconds", "Seconds to answer a request.", ["route"], buckets=REQUEST_BUCKETS, registry=REGISTRY
)
JOBS_SUBMITTED = Counter("mas_jobs_submitted", "Jobs accepted.", ["graph"], registry=REGISTRY)
JOBS_REFUSED = Counter("mas_jobs_refused", "Jobs refused because too many wait already.", ["reason"], registry=REGISTRY)
REQUESTS_LIMITED = Counter(
    "mas_requests_limited", "Requests refused because their key had sent as many as it may.", registry=REGISTRY
)
JOBS_ENDED = Counter("mas_jobs_ended", "Rounds ended, by final status.", ["graph", "status"], registry=REGISTRY)
JOB_WAIT_SECONDS = Histogram(
    "mas_job_wait_seconds", "Seconds a job waited before its attempt.", buckets=RUN_BUCKETS, registry=REGISTRY
)
JOB_RUN_SECONDS = Histogram(
    "mas_job_run_seconds", "Seconds an attempt ran.", ["graph"], buckets=RUN_BUCKETS, registry=REGISTRY
)
LEASE_LOST = Counter("mas_lease_lost", "Attempts that ended because their lease was gone.", registry=REGISTRY)
WEBHOOK_ATTEMPTS = Counter("mas_webhook_attempts", "Webhook deliveries tried.", ["outcome"], registry=REGISTRY)
WEBHOOK_DELIVERY_SECONDS = Histogram(
    "mas_webhook_delivery_seconds", "Seconds from an event to the first success of its delivery.",
    buckets=DELIVERY_BUCKETS, registry=REGISTRY,
)  # fmt: skip


def exposition() -> bytes:
    """This service's metrics in Prometheus' text format, summed over the processes in multiprocess mode."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    merged = CollectorRegistry()
    multiprocess.MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return generate_latest(merged)
