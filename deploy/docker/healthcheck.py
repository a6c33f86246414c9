"""Exit with 0 where what this container runs is ready: the gateway on PORT, or a worker on WORKER_METRICS_PORT."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

PROBES = {
    int(os.environ.get("PORT") or 8000): "/api/v1/health/ready",
    int(os.environ.get("WORKER_METRICS_PORT") or 8100): "/ready",
}


def status(port: int, path: str) -> int:
    """What the path is answered with. Raises `OSError` or `HTTPException` where there is no answer."""
    connection = HTTPConnection("localhost", port, timeout=4)
    connection.request("GET", path)
    return connection.getresponse().status


for port, path in PROBES.items():
    try:
        found = status(port, path)
    except ConnectionRefusedError:
        continue  # it is the other one that runs here
    except (OSError, HTTPException) as error:
        sys.exit(f"port {port} does not answer {path}: {error}")
    sys.exit(0 if found == 200 else f"port {port} answers {path} with {found}")
sys.exit("neither a gateway nor a worker listens")
