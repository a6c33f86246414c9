"""Exit with 0 where HEALTH_URL answers with a status below 400: the gateway's readiness, or a worker's metrics."""

from __future__ import annotations

import os
import sys
from urllib.request import ProxyHandler, build_opener

URL = os.environ.get("HEALTH_URL") or f"http://127.0.0.1:{os.environ.get('PORT') or 8000}/api/v1/health/ready"

try:
    # Proxies of the environment are not for the container's own process.
    build_opener(ProxyHandler({})).open(URL, timeout=4).close()
except (OSError, ValueError) as error:
    sys.exit(f"{URL}: {error}")
