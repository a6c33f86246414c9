"""The real site on the real nginx, in front of a gateway of two processes with its worker."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy import http2
from tests.deploy.nginx import NAME, Nginx
from tests.deploy.service import start_service
from tests.servers import Gateway, Processes, Valkey, wait_until

OUTSIDE = "127.0.0.2"  # no address that the site knows: as strange as any other
WAIT_SECONDS = 60


class Site:
    """The whole service behind nginx, and a wait of a minute that has been under way since the start."""

    def __init__(self, nginx: Nginx, gateway: Gateway, key: str) -> None:
        self.nginx = nginx
        self.gateway = gateway
        self.key = key
        self.http = self.client()
        self.waited: tuple[float, httpx.Response] | None = None
        self._waiter = threading.Thread(target=self._wait_a_minute)
        self._waiter.start()

    def client(self, source: str = "127.0.0.1") -> httpx.Client:
        return self.nginx.client(source, authorization=f"Bearer {self.key}")

    def long_wait(self) -> tuple[float, httpx.Response]:
        """For how long it was held, and the answer."""
        self._waiter.join()
        assert self.waited is not None
        return self.waited

    def submit(self, graph: str, **input: Any) -> str:
        answer = self.http.post("/api/v1/jobs", json={"graph": graph, "input": input})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def close(self) -> None:
        self._waiter.join()
        self.http.close()

    def _wait_a_minute(self) -> None:
        with self.client() as client:
            job = self.submit("sleeper", seconds=WAIT_SECONDS + 30)
            begun = time.monotonic()
            answer = client.get(f"/api/v1/jobs/{job}?wait={WAIT_SECONDS}")
            self.waited = time.monotonic() - begun, answer
            client.post(f"/api/v1/jobs/{job}/cancel")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: Valkey) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    valkey_server.flush()
    with Processes(folder / "processes") as processes:
        gateway, key = start_service(processes, valkey_server.url)
        with Nginx(folder / "nginx", gateway.port) as nginx:
            made = Site(nginx, gateway, key)
            yield made
            made.close()


def problem(answer: httpx.Response, status: int, code: str) -> None:
    """It is a problem document with what goes with one, each header once."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    assert {"type", "title", "detail"} <= {*document}
    assert_safe(answer)


def assert_safe(answer: httpx.Response) -> None:
    """It has each of the headers for browsers once, and none that means nothing."""
    for name, value in {
        "strict-transport-security": "max-age=31536000",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
    }.items():
        assert answer.headers.get_list(name) == [value], name
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "x-xss-protection" not in answer.headers
    assert answer.headers["server"] == "nginx", "without its version"


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_nginx_finds_the_configuration_in_order(site: Site) -> None:
    checked = site.nginx.check()
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def test_a_job_runs_and_the_log_joins_it_with_the_gateway_s_by_the_request_s_id(site: Site) -> None:
    job = site.submit("echo", value=[1, {"a": "ü"}])
    answer = site.http.get(f"/api/v1/jobs/{job}?wait=20&api_key=in-the-query")
    assert (answer.json()["status"], answer.json()["output"]) == ("succeeded", {"value": [1, {"a": "ü"}]})
    assert_safe(answer)
    request_id = answer.headers["x-request-id"]

    def logged() -> list[dict[str, Any]]:
        return [line for line in lines_of(site.nginx.access_log) if line["request_id"] == request_id]

    (line,) = wait_until(logged)
    assert line["method"] == "GET"
    assert (line["path"], line["status"], line["client"]) == (f"/api/v1/jobs/{job}", 200, "127.0.0.1")
    assert "in-the-query" not in site.nginx.access_log.read_text()


def test_what_strangers_say_of_themselves_is_dropped(site: Site) -> None:
    said = {"x-forwarded-for": "6.6.6.6", "x-forwarded-host": "evil.test", "x-request-id": "mine"}
    with site.client(OUTSIDE) as client:
        good = client.get("/api/v1/jobs", headers=said)
        bad = client.get("/api/v1/jobs", headers={**said, "authorization": "Bearer wrong"})
    assert good.status_code == 200, "the gateway has seen the real host name"
    assert good.headers["x-request-id"] != "mine"
    problem(bad, 401, "unauthorized")
    line = json.loads(site.gateway.process.wait_for_line("API key refused"))
    assert (line["client"], line["request_id"]) == (OUTSIDE, bad.headers["x-request-id"])


def test_plain_http_is_sent_to_tls_by_the_site_s_own_name(site: Site) -> None:
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection("127.0.0.1", site.nginx.http_port, timeout=10)
        connection.request(method, "//evil.test/a?b=c%0d%0ax", headers={"Host": NAME, "X-Forwarded-Host": "evil.test"})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("location")) == (308, f"https://{NAME}//evil.test/a?b=c%0d%0ax")
        connection.close()


def test_certbot_s_answers_are_found_over_plain_http(site: Site) -> None:
    folder = site.nginx.webroot / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True)
    (folder / "token_1-x").write_text("token.thumbprint")
    answer = httpx.get(
        f"http://127.0.0.1:{site.nginx.http_port}/.well-known/acme-challenge/token_1-x", headers={"host": NAME}
    )
    assert (answer.status_code, answer.text) == (200, "token.thumbprint")


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1", "localhost.evil.test"])
def test_an_unknown_host_gets_no_answer(site: Site, host: str) -> None:
    with socket.create_connection(("127.0.0.1", site.nginx.http_port), 10) as plain:
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert plain.recv(100) == b""
    with (
        socket.create_connection(("127.0.0.1", site.nginx.https_port), 10) as plain,
        pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"),
    ):
        site.nginx.trusting().wrap_socket(plain, server_hostname=host)


def test_a_known_name_in_the_handshake_and_another_in_the_request_gets_no_answer(site: Site) -> None:
    with site.client() as client, pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        client.get("/api/v1/jobs", headers={"host": "evil.test"})


@pytest.mark.parametrize(
    ("version", "spoken"),
    [(ssl.TLSVersion.TLSv1_1, ""), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
def test_tls_1_2_and_1_3_are_spoken_with_forward_secrecy_and_nothing_older(
    site: Site, version: ssl.TLSVersion, spoken: str
) -> None:
    context = site.nginx.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", site.nginx.https_port), 10) as plain:
        if not spoken:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(plain, server_hostname=NAME)
            return
        with context.wrap_socket(plain, server_hostname=NAME) as connection:
            cipher = connection.cipher()
            assert connection.version() == spoken
            assert cipher is not None
            assert cipher[0].startswith(("ECDHE-", "TLS_"))


def test_http_2_is_spoken(site: Site) -> None:
    status, body = http2.get(site.nginx.trusting(), NAME, site.nginx.https_port, "/health")
    assert (status, json.loads(body)["parts"]["workers"]["status"]) == (200, "ok")


def test_bodies_of_9_9_mb_are_taken_and_of_10_1_mb_refused(site: Site) -> None:
    def body(size: int) -> bytes:
        empty = b'{"graph": "echo", "input": {"value": ""}}'
        return empty[:-3] + b"x" * (size - len(empty)) + empty[-3:]

    headers = {"content-type": "application/json"}
    taken = site.http.post("/api/v1/jobs", content=body(9_900_000), headers=headers)
    assert taken.status_code == 202, taken.text
    problem(site.http.post("/api/v1/jobs", content=body(10_100_000), headers=headers), 413, "body_too_large")
    refused = wait_until(lambda: [line for line in lines_of(site.nginx.access_log) if line["status"] == 413])[0]
    assert (refused["method"], refused["path"]) == ("POST", "/api/v1/jobs")
    # Without a Content-Length it is found out on the way.
    pieces = (body(10_100_000)[at : at + 65_536] for at in range(0, 10_100_000, 65_536))
    problem(site.http.post("/api/v1/jobs", content=pieces, headers=headers), 413, "body_too_large")
    done = site.http.get(f"/api/v1/jobs/{taken.json()['id']}?wait=30")
    assert (done.json()["status"], len(done.json()["output"]["value"])) == ("succeeded", 9_900_000 - 41)


def test_metrics_are_answered_from_inside_only(site: Site) -> None:
    inside = site.http.get("/metrics")
    assert (inside.status_code, "mas_http_requests_total" in inside.text) == (200, True)
    with site.client(OUTSIDE) as client:
        problem(client.get("/metrics"), 403, "forbidden")
        problem(client.get("/metrics", headers={"x-forwarded-for": "127.0.0.1"}), 403, "forbidden")
        for spelling in ("/metrics/", "//metrics", "/%6detrics", "/a/../metrics", "/metrics?a", "/metrics%3f"):
            answer = client.get(client.base_url.copy_with(raw_path=spelling.encode()))
            assert answer.status_code in (403, 404), (spelling, answer.status_code)


def test_health_has_a_short_address_and_is_not_logged(site: Site) -> None:
    logged_before = len(lines_of(site.nginx.access_log))
    for path in ("/health", "/api/v1/health", "/api/v1/health/live"):
        answer = site.http.get(path, headers={"authorization": ""})
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    site.http.get("/nowhere")
    last = wait_until(lambda: lines_of(site.nginx.access_log)[logged_before:])
    assert "/nowhere" in [line["path"] for line in last]
    assert not [line for line in lines_of(site.nginx.access_log) if "health" in line["path"]]


def test_the_page_s_files_are_kept_for_a_year_and_what_is_not_there_is_not(site: Site) -> None:
    page = site.http.get("/docs").text
    address = page.partition('src="')[2].partition('"')[0]
    assert address.startswith("static/")
    asset = site.http.get(f"/{address}")
    assert asset.status_code == 200
    assert asset.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
    problem(site.http.get("/static/0/nothing.css"), 404, "not_found")


def test_requests_that_nginx_refuses_are_problems_too(site: Site) -> None:
    problem(site.http.get(f"/api/v1/jobs?{'x' * 20_000}"), 414, "url_too_long")
    problem(site.http.get("/api/v1/jobs", headers={"x-long": "x" * 20_000}), 431, "headers_too_large")
    problem(site.http.request("TRACE", "/api/v1/jobs"), 405, "method_not_allowed")
    plain = httpx.get(f"http://127.0.0.1:{site.nginx.https_port}/", headers={"host": NAME})
    assert (plain.status_code, plain.json()["code"]) == (400, "bad_request")


def test_what_nginx_passes_on_it_passes_on_whole(site: Site) -> None:
    """Heads up to the gateway's own limits, and its refusals as they are."""
    long = site.http.get("/api/v1/jobs", params={"thread_id": "x" * 16_000})
    problem(long, 422, "validation_error")
    many = site.http.get("/api/v1/jobs", headers={f"x-{number}": "x" * 15_000 for number in range(3)})
    assert many.status_code == 200


def test_a_flood_from_one_address_is_told_to_wait_and_others_are_not(site: Site) -> None:
    # What nginx refuses by itself, so that it is as fast as a flood has to be; it is counted as all else is.
    flood = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 900
    with (
        socket.create_connection(("127.0.0.1", site.nginx.https_port), 20, source_address=("127.0.0.9", 0)) as plain,
        site.nginx.trusting().wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        sending = threading.Thread(target=connection.sendall, args=(flood,))
        sending.start()
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 900 or not answers.endswith(b"}"):
            piece = connection.recv(65_536)
            assert piece, "closed in the middle"
            answers += piece
        sending.join()
    assert answers.count(b"HTTP/1.1 403 ") >= 500, "a burst is let through"
    first = answers.partition(b"HTTP/1.1 429 ")[2].partition(b"}")[0]
    assert b"\r\nRetry-After: 1\r\n" in first
    assert b"\r\nContent-Type: application/problem+json\r\n" in first
    assert b'"code":"rate_limited"' in first
    assert site.http.get("/api/v1/jobs").status_code == 200, "another address"


def test_a_wait_of_a_minute_is_held_for_a_minute(site: Site) -> None:
    seconds, answer = site.long_wait()
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert WAIT_SECONDS - 1 < seconds < WAIT_SECONDS + 10
