"""What a gateway process answers to bytes that no library would send: problems that say nothing of what made them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import orjson
import pytest

from gateway.connections import MAX_HEAD_BYTES, MAX_URL_BYTES
from gateway.errors import CODES
from tests.raw_http import connect, post_head
from tests.servers import Gateway, Processes, Valkey

API = "/api/v1"
TELLTALE = re.compile(
    rb"uvicorn|starlette|fastapi|python|pydantic|httptools|redis|valkey|traceback|\.py\b|^server:|x-powered-by",
    re.I | re.M,
)
ALWAYS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def head(line: str, *headers: str, host: str | None = "jobs.example.com") -> bytes:
    lines = [line, *([] if host is None else [f"host: {host}"]), *headers, "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def get(path: str, *headers: str, host: str | None = "jobs.example.com") -> bytes:
    return head(f"GET {path} HTTP/1.1", *headers, host=host)


def post(*headers: str, body: bytes = b"", path: str = f"{API}/jobs") -> bytes:
    return head(f"POST {path} HTTP/1.1", *headers) + body


JSON = "content-type: application/json"
CASES: dict[str, tuple[bytes, int, str]] = {
    "no such address": (get("/nowhere"), 404, "not_found"),
    "the root": (get("/"), 404, "not_found"),
    "invalid percent-encoding": (get("/%zz%"), 404, "not_found"),
    "percent-encoding that is no UTF-8": (get(f"{API}/jobs/%ff%fe"), 404, "job_not_found"),
    "an encoded NUL": (get(f"{API}/jobs/%00"), 404, "job_not_found"),
    "an encoded line break": (get(f"{API}/graphs/a%0d%0aset-cookie:%20a=b"), 404, "graph_not_found"),
    "markup": (get(f"{API}/graphs/%3Cimg%20src=x%20onerror=alert(1)%3E"), 404, "graph_not_found"),
    "markup in a query": (get(f"{API}/jobs?limit=%3Cscript%3E"), 422, "validation_error"),
    "a raw NUL": (get("/a\x00b"), 400, "bad_request"),
    "bytes that are no ASCII": (get("/\xff\xfe"), 400, "bad_request"),
    "up the folders": (get("/static/../../../etc/passwd"), 404, "not_found"),
    "up the folders, encoded": (get("/static/5.35.0/..%2f..%2f..%2fmain.py"), 404, "not_found"),
    "up the folders, encoded twice": (get("/static/5.35.0/%252e%252e%252fmain.py"), 404, "not_found"),
    "another name's address": (get("//evil.test/docs"), 404, "not_found"),
    "a path without a slash": (get("docs"), 400, "bad_request"),
    "the longest address": (get("/" + "a" * (MAX_URL_BYTES - 1)), 404, "not_found"),
    "too long an address": (get("/" + "a" * MAX_URL_BYTES), 414, "url_too_long"),
    "too long a query": (get("/docs?" + "a" * MAX_URL_BYTES), 414, "url_too_long"),
    "an address without an end": (b"GET /" + b"a" * 2 * MAX_URL_BYTES, 414, "url_too_long"),
    "too large a header": (get("/docs", "x: " + "a" * MAX_HEAD_BYTES), 431, "headers_too_large"),
    "OPTIONS": (head(f"OPTIONS {API}/jobs HTTP/1.1"), 405, "method_not_allowed"),
    "OPTIONS of all": (head("OPTIONS * HTTP/1.1"), 404, "not_found"),
    "a preflight": (
        head(f"OPTIONS {API}/jobs HTTP/1.1", "origin: https://a.test", "access-control-request-method: POST"),
        405, "method_not_allowed",
    ),
    "TRACE": (head(f"TRACE {API}/jobs HTTP/1.1", "cookie: secret"), 405, "method_not_allowed"),
    "PUT": (head(f"PUT {API}/jobs HTTP/1.1"), 405, "method_not_allowed"),
    "a method of others": (head("PROPFIND /docs HTTP/1.1"), 405, "method_not_allowed"),
    "a method of nobody": (head("BREW /docs HTTP/1.1"), 400, "bad_request"),
    "CONNECT": (head("CONNECT evil.test:443 HTTP/1.1"), 400, "bad_request"),
    "no version": (b"GET /docs\r\n\r\n", 400, "bad_request"),
    "HTTP/2 by its name": (head("GET /docs HTTP/2.0"), 400, "bad_request"),
    "HTTP/2 by its preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "HTTP/3.7": (head("GET /docs HTTP/3.7"), 400, "bad_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),
    "an offer of websockets": (
        b"GET /nowhere HTTP/1.1\r\nhost: jobs.example.com\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 404, "not_found",
    ),
    "no Host": (get("/docs", host=None), 400, "bad_request"),
    "two Hosts": (get("/docs", "Host: jobs.example.com"), 400, "bad_request"),
    "a Host with a user": (get("/docs", host="me@jobs.example.com"), 400, "bad_request"),
    "a Host with a path": (get("/docs", host="jobs.example.com/x"), 400, "bad_request"),
    "a Host with spaces": (get("/docs", host="jobs.example.com evil.test"), 400, "bad_request"),
    "another Host": (get("/docs", host="evil.test"), 400, "host_not_allowed"),
    "another Host, in capitals": (get("/docs", host="EVIL.TEST"), 400, "host_not_allowed"),
    "an empty Host": (get("/docs", host=""), 400, "host_not_allowed"),
    "HTTP/1.0 without a Host": (head("GET /docs HTTP/1.0", host=None), 400, "host_not_allowed"),
    "a Host that the address overrules": (get("http://evil.test/docs"), 400, "host_not_allowed"),
    "an address with a user": (get("http://me:x@jobs.example.com/docs"), 400, "bad_request"),
    "an address without a name": (get("http:///docs"), 400, "bad_request"),
    "a header without a name": (get("/docs", ": x"), 400, "bad_request"),
    "a header over two lines": (get("/docs", "a: b\r\n c: d"), 400, "bad_request"),
    "a header with a NUL": (get("/docs", "a: b\x00c"), 400, "bad_request"),
    "a space before the colon": (get("/docs", "content-length : 5"), 400, "bad_request"),
    "lengths that differ": (post(JSON, "content-length: 5", "content-length: 6", body=b"{}    "), 400, "bad_request"),
    "a negative length": (post(JSON, "content-length: -5"), 400, "bad_request"),
    "a length that is no number": (post(JSON, "content-length: 0x10"), 400, "bad_request"),
    "a length and chunks": (
        post(JSON, "content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n"), 400, "bad_request"
    ),
    "packed chunks": (post(JSON, "transfer-encoding: gzip, chunked", body=b"0\r\n\r\n"), 400, "bad_request"),
    "another coding": (post(JSON, "transfer-encoding: identity", body=b"0\r\n\r\n"), 400, "bad_request"),
    "a body too large, before it comes": (post(JSON, "content-length: 10000001"), 413, "body_too_large"),
    "a wrong content type": (
        post("content-type: text/html", "content-length: 2", body=b"{}"), 415, "unsupported_media_type"
    ),
    "an odd content type": (
        post("content-type: \xff;;;=", "content-length: 2", body=b"{}"), 415, "unsupported_media_type"
    ),
    "no content type": (post("content-length: 2", body=b"{}"), 415, "unsupported_media_type"),
    "no JSON": (post(JSON, "content-length: 8", body=b"<script>"), 400, "invalid_json"),
    "JSON of the wrong kind": (post(JSON, "content-length: 2", body=b"[]"), 422, "validation_error"),
    "markup for a field": (post(JSON, "content-length: 13", body=b'{"<b>":"<i>"}'), 422, "validation_error"),
    "a wrong Idempotency-Key": (
        post(JSON, "content-length: 28", "idempotency-key: \xff", body=b'{"graph": "x", "input": 1}  '),
        422, "validation_error",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("raw")
    valkey = Valkey(folder / "valkey")
    with Processes(folder / "processes") as processes:
        yield processes.gateway(valkey.url, ALLOWED_HOSTS="jobs.example.com", REQUEST_SECONDS="5").ready()
    valkey.stop()


def answer_to(gateway: Gateway, sent: bytes) -> tuple[int, list[tuple[str, str]], bytes, bytes]:
    """Status, headers, body, and all bytes, of the one answer that there is."""
    said = b""
    with connect(gateway) as connection:
        connection.sendall(sent)
        while (size := _missing(said)) != 0:
            piece = connection.recv(65536)
            if not piece:
                assert size is None or size < 0, f"broke off: {said!r}"
                break
            said += piece
    start, _, body = said.partition(b"\r\n\r\n")
    line, *lines = start.decode("latin-1").split("\r\n")
    assert line.startswith("HTTP/1.1 "), f"no answer, or not ours: {said!r}"
    headers = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
    return int(line.split()[1]), headers, body, said


def _missing(said: bytes) -> int | None:
    """How many bytes of the answer are still to come; None where that is not known yet."""
    start, end, body = said.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", start, re.I)
    return int(length[1]) - len(body) if end and length else None


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_sent_the_answer_is_a_problem_that_says_nothing_of_what_made_it(
    gateway: Gateway, name: str
) -> None:
    sent, status, code = CASES[name]
    found, headers, body, said = answer_to(gateway, sent)
    document = orjson.loads(body)
    assert (found, document["code"], document["status"]) == (status, code, status)
    assert CODES[code] == status
    assert [value for name, value in headers if name == "content-type"] == ["application/problem+json"]
    assert not TELLTALE.search(said), said
    assert {"set-cookie", "server", "strict-transport-security"} & {name for name, _ in headers} == set()
    for header, value in ALWAYS.items():
        assert [each for name, each in headers if name == header] == [value], header
    (request_id,) = [value for name, value in headers if name == "x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)


@pytest.mark.parametrize(
    "sent",
    [
        get("/docs"),
        get("/docs", host="JOBS.example.com:8443"),
        get("/docs", host="jobs.example.com."),
        get("http://jobs.example.com/docs", host="evil.test"),
        get("HTTP://Jobs.Example.com:80/docs", host="evil.test"),
        head("GET /docs HTTP/1.0"),
        get("/docs", "x-forwarded-host: evil.test", "forwarded: host=evil.test"),
        get("/docs#part"),
        get("/docs?" + "a" * (MAX_URL_BYTES - 6)),
    ],
)
def test_what_is_odd_but_right_is_answered(gateway: Gateway, sent: bytes) -> None:
    status, headers, _, said = answer_to(gateway, sent)
    assert status == 200
    assert ("content-type", "text/html; charset=utf-8") in headers
    assert not re.search(rb"uvicorn|starlette|fastapi|python", said, re.I)


def test_the_description_names_no_library(gateway: Gateway) -> None:
    status, _, body, said = answer_to(gateway, get("/openapi.json"))
    assert status == 200
    assert not re.search(rb"uvicorn|starlette|fastapi|pydantic|httptools", said, re.I)
    assert orjson.loads(body)["info"]["version"] == "1"


def test_head_is_refused_without_a_body(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        connection.sendall(head("HEAD /nowhere HTTP/1.1"))
        said = b""
        while piece := connection.recv(65536):
            said += piece
    assert said.startswith(b"HTTP/1.1 404 ")
    assert said.endswith(b"\r\n\r\n")
    assert said.count(b"\r\n\r\n") == 1


def test_a_refused_head_ends_its_connection_and_what_follows_it_is_not_read(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        connection.sendall(get("/docs", host=None) + get("/docs"))
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while piece := connection.recv(65536):
            said += piece
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 400 ")


def test_a_request_before_a_refused_one_keeps_its_answer_or_none_stands_in_it(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        connection.sendall(post_head(5).replace(b"host: x", b"host: jobs.example.com") + b"[1,2]" + get("/", host=None))
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except ConnectionError:
            pass
    for answer in said.split(b"HTTP/1.1 ")[1:]:
        assert answer[:3] in (b"422", b"400")
        _, _, body = answer.partition(b"\r\n\r\n")
        assert orjson.loads(body)["status"] == int(answer[:3])
