"""Exit with 0 where what this container runs is ready: the gateway on PORT, or a worker on WORKER_METRICS_PORT."""

from __future__ import annotations

import errno
import os
import sys
from http.client import HTTPConnection, HTTPException

PROBES = {
    int(os.environ.get("PORT") or 8000): "/api/v1/health/ready",
    int(os.environ.get("WORKER_METRICS_PORT") or 8100): "/ready",
}

# Nobody listens. The last two: `localhost` is ::1, too, also in a container that has no IPv6.
NOT_HERE = {errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def status(port: int, path: str) -> int:
    """What the path is answered with. Raises `OSError` or `HTTPException` where there is no answer."""
    connection = HTTPConnection("localhost", port, timeout=4)
    connection.request("GET", path)
    return connection.getresponse().status


for port, path in PROBES.items():
    try:
        found = status(port, path)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in NOT_HERE:
            continue  # it is the other one that runs here
        sys.exit(f"port {port} does not answer {path}: {error}")
    sys.exit(0 if found == 200 else f"port {port} answers {path} with {found}")
sys.exit("neither a gateway nor a worker listens")
