"""The health check of the image, where a container has no IPv6 and its /etc/hosts says otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers import PROJECT

# What engines before 27 make: `localhost` has an address that nothing can be reached at.
IN_A_CONTAINER = """
ip link set lo up
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
printf '127.0.0.1 localhost\\n::1 localhost\\n' >"$0"
mount --bind "$0" /etc/hosts
exec "$@"
"""
CHECK_A_WORKER = """
import subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

server = HTTPServer(("0.0.0.0", 8100), Ready)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(subprocess.run([sys.executable, sys.argv[1]]).returncode, flush=True)
server.shutdown()
server.server_close()
print(subprocess.run([sys.executable, sys.argv[1]]).returncode, flush=True)
"""


def test_a_worker_is_well_where_localhost_has_an_address_of_ipv6_too(tmp_path: Path) -> None:
    namespaces = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec", IN_A_CONTAINER, tmp_path / "hosts"]
    check = PROJECT / "deploy" / "docker" / "healthcheck.py"
    done = subprocess.run(
        [*namespaces, sys.executable, "-c", CHECK_A_WORKER, check], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "1"], done.stdout + done.stderr
    assert "neither a gateway nor a worker listens" in done.stderr
