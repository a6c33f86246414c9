"""What the site's file says agrees with the gateway and its guide; and what it does where it is alone on a machine."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from pathlib import Path

import pytest

from gateway.connections import MAX_URL_BYTES
from gateway.errors import CODES
from gateway.server import KEEP_ALIVE_SECONDS
from shared.settings import Settings
from tests.deploy.nginx import NAME, SITES, Nginx
from tests.servers import PROJECT, free_port

SITE = (SITES / "multi-agent-service.conf").read_text()
PROBLEMS = re.findall(r"^    (default|\d{3}) '(\"title.*)';$", SITE, re.MULTILINE)
GUIDE = (PROJECT / "docs" / "api.md").read_text("utf-8").partition("### Errors from the proxy")[2]
OWN = dict(re.findall(r"^- `(\w+)` \((\d{3})\)", GUIDE, re.MULTILINE))


def test_nginx_takes_as_much_as_the_gateway() -> None:
    limit = Settings.model_fields["max_body_bytes"].default
    assert f"client_max_body_size {limit};" in SITE
    assert f"{limit} bytes that this service takes" in SITE
    assert f"The address has more than {MAX_URL_BYTES} bytes." in SITE


@pytest.mark.parametrize(("status", "members"), PROBLEMS)
def test_each_problem_is_a_document_whose_code_is_in_the_guide(status: str, members: str) -> None:
    document = json.loads("{" + members + "}")
    assert {*document} == {"title", "status", "code", "detail"}
    assert status in ("default", str(document["status"]))
    assert document["code"] in (CODES.keys() | OWN.keys())
    assert document["status"] == CODES.get(document["code"], int(OWN.get(document["code"], 0)))
    assert f"`{document['code']}`" in GUIDE


def test_every_error_that_is_made_into_a_problem_has_one_of_its_own() -> None:
    handled = re.findall(r"error_page ([\d ]+)(?:=(\d+) )?/\.problem;", SITE)
    statuses = {status for plain, becomes in handled for status in ([becomes] if becomes else plain.split())}
    documents = {json.loads("{" + members + "}")["status"] for _, members in PROBLEMS}
    assert {int(status) for status in statuses} == documents


def test_idle_connections_are_closed_by_nginx_first() -> None:
    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", SITE.partition("upstream")[2].partition("}")[0])
    production = (PROJECT / "deploy" / "env" / "production.env").read_text()
    (drain,) = re.findall(r"^GATEWAY_DRAIN_SECONDS=(\d+)$", production, re.MULTILINE)
    assert int(seconds) < int(drain) < KEEP_ALIVE_SECONDS


def test_no_header_is_added_but_to_nginx_s_own_answers_and_none_to_requests_in_a_location() -> None:
    """A location that adds one header, to the answer or to the request, silently loses all of those above it."""
    before, _, own = SITE.partition("location = /.problem {")
    assert "add_header" not in before.replace("No add_header here", "")
    assert own.count("add_header") == 8
    locations = re.findall(r"location [^{]+\{(.*?)\n    \}", SITE, re.DOTALL)
    assert len(locations) >= 8
    assert not [one for one in locations if "proxy_set_header" in one]


def test_where_the_site_is_alone_a_strange_host_chooses_nothing(tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", free_port(), sites="multi-agent-service") as nginx:
        connection = http.client.HTTPConnection("127.0.0.1", nginx.http_port, timeout=10)
        connection.request("GET", "/docs", headers={"Host": "evil.test"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("location")) == (308, f"https://{NAME}/docs")
        connection.close()


def test_where_the_site_is_alone_it_speaks_http_2(tmp_path: Path) -> None:
    with Nginx(tmp_path / "nginx", free_port(), sites="multi-agent-service") as nginx:
        context = nginx.trusting()
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", nginx.https_port), 10) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as connection,
        ):
            assert connection.selected_alpn_protocol() == "h2"


def test_tls_1_2_is_spoken_with_authenticated_encryption_only(tmp_path: Path) -> None:
    old = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA256"  # OpenSSL's own list has them
    with Nginx(tmp_path / "nginx", free_port()) as nginx:
        for ciphers, taken in ((old, False), (f"{old}:ECDHE-ECDSA-AES128-GCM-SHA256", True)):
            context = nginx.trusting()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            with socket.create_connection(("127.0.0.1", nginx.https_port), 10) as plain:
                if taken:
                    with context.wrap_socket(plain, server_hostname=NAME) as connection:
                        assert connection.cipher() == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2", 128)
                else:
                    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                        context.wrap_socket(plain, server_hostname=NAME)
