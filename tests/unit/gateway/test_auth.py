"""Who is let in, and under which host name."""

from __future__ import annotations

import pytest

from gateway.auth import OPEN_PATHS
from tests.unit.gateway.conftest import LENIENT, Gateway, MakeGateway, problem

EVERYWHERE = [
    "/api/v1/jobs", f"/api/v1/jobs/{'0' * 32}", "/api/v1/graphs", "/api/v1/workers", "/metrics", "/docs",
    "/openapi.json", "/static/1/x", "/nowhere", "/api/v1/health/", "/api/v1/health/../jobs", "/",
]  # fmt: skip


@pytest.mark.parametrize("path", EVERYWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_without_keys_nobody_is_let_in(make_gateway: MakeGateway, path: str, method: str) -> None:
    async with make_gateway(auth_required=True) as gateway:
        for headers in ({}, {"authorization": "Bearer anything"}, {"x-api-key": "anything"}):
            answer = await gateway.http.request(method, path, headers=headers)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_needs_no_credential_and_no_host_name(make_gateway: MakeGateway) -> None:
    async with make_gateway(auth_required=True, allowed_hosts=["jobs.example.com"]) as gateway:
        for path in sorted(OPEN_PATHS):
            assert (await gateway.http.get(path, headers={"host": "10.1.2.3"})).status_code == 200


async def test_without_authentication_a_credential_is_ignored(gateway: Gateway) -> None:
    for name, value in ((b"authorization", b"Bearer x"), (b"authorization", b"\xff\xfe"), (b"x-api-key", b"y")):
        headers = [(b"content-type", b"application/json"), (name, value)]
        answer = await gateway.http.post("/api/v1/jobs", content=b'{"graph": "echo", "input": 1}', headers=headers)
        assert answer.status_code == 202
        assert (await gateway.worker.run()).tenant == "default"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("jobs.example.com", True), ("JOBS.Example.com:8000", True), ("a.internal.test", True), ("[::1]:8000", True),
        ("a.b.internal.test", True), ("jobs.example.com.", True), ("jobs.example.com.:80", True),
        ("me@jobs.example.com", False), ("me@a.internal.test", False), ("x/a.internal.test", False),
        ("jobs.example.com..", False), ("jobs.example.com:80:80", False), (".internal.test", False),
        ("[::1].internal.test", False), ("internal.test", False), ("evilinternal.test", False), ("example.com", False),
        ("", False), ("jobs.example.com.evil.test", False), ("[::1", False), ("127.0.0.1", False),
    ],
)  # fmt: skip
async def test_only_listed_host_names_are_answered(make_gateway: MakeGateway, host: str, allowed: bool) -> None:
    hosts = ["Jobs.example.com", "*.internal.test", "[::1]"]
    async with make_gateway(allowed_hosts=hosts) as gateway:
        await gateway.registry.publish({"echo": LENIENT}, {})
        answer = await gateway.http.get("/api/v1/graphs", headers={"host": host})
        if allowed:
            assert answer.status_code == 200
        else:
            problem(answer, 400, "host_not_allowed")


async def test_two_host_names_are_none(make_gateway: MakeGateway) -> None:
    async with make_gateway(allowed_hosts=["jobs.example.com"]) as gateway:
        for second in ("jobs.example.com", "evil.test"):
            headers = [("host", "jobs.example.com"), ("host", second)]
            problem(await gateway.http.get("/api/v1/graphs", headers=headers), 400, "host_not_allowed")


async def test_without_a_list_any_host_name_is_answered(gateway: Gateway) -> None:
    assert (await gateway.http.get("/api/v1/graphs", headers={"host": "anything"})).status_code == 200
