"""What a browser is told about an answer: to make nothing of it but what it is."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import httpx
import orjson
import pytest

from gateway.routes.docs import SWAGGER_UI_VERSION
from shared.store import JobStore
from tests.unit.gateway.conftest import Gateway, MakeGateway

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
SCRIPT = f"/static/{SWAGGER_UI_VERSION}/swagger-ui-bundle.js"


def check(answer: httpx.Response, policy: str = API_POLICY, cache: str = "no-store") -> None:
    """Each header has to be there once."""
    found = {name: answer.headers.get_list(name) for name in (
        "x-content-type-options", "referrer-policy", "content-security-policy", "cache-control",
        "cross-origin-resource-policy", "strict-transport-security", "access-control-allow-origin", "server",
    )}  # fmt: skip
    assert found == {
        "x-content-type-options": ["nosniff"], "referrer-policy": ["no-referrer"], "content-security-policy": [policy],
        "cache-control": [cache], "cross-origin-resource-policy": ["same-origin"], "strict-transport-security": [],
        "access-control-allow-origin": [], "server": [],
    }  # fmt: skip


async def test_every_answer_has_them_whatever_it_is(make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(JobStore, "cancel", broken)
    async with make_gateway(max_body_bytes=1000) as gateway:
        statuses = set()
        for method, path, body in [
            ("GET", "/api/v1/jobs", b""), ("GET", "/metrics", b""), ("GET", "/openapi.json", b""),
            ("HEAD", "/api/v1/jobs", b""), ("GET", "/nowhere", b""), ("PUT", "/api/v1/jobs", b""),
            ("POST", "/api/v1/jobs", b"{}"), ("POST", "/api/v1/jobs", b"x" * 2000), ("OPTIONS", "/api/v1/jobs", b""),
            ("POST", "/api/v1/jobs", b"{"), ("POST", f"/api/v1/jobs/{'0' * 32}/cancel", b""),
            ("GET", "/api/v1/health", b""), ("GET", f"/static/{SWAGGER_UI_VERSION}/nothing", b""),
        ]:  # fmt: skip
            headers = {"content-type": "application/json"}
            answer = await gateway.http.request(method, path, content=body, headers=headers)
            check(answer)
            statuses.add(answer.status_code)
        assert statuses >= {200, 400, 404, 405, 413, 422, 500}
    async with make_gateway(auth_required=True, allowed_hosts=["a.example"]) as gateway:
        for host, status in (("a.example", 401), ("b.example", 400)):
            answer = await gateway.http.get("/api/v1/jobs", headers={"host": host})
            assert answer.status_code == status
            check(answer)


async def test_markup_of_a_graph_or_a_client_is_json_that_no_browser_renders(gateway: Gateway) -> None:
    markup = "</script><script>alert(1)</script>"
    body = {"graph": "echo", "input": markup, "thread_id": markup, "metadata": {markup: markup}}
    job_id = (await gateway.post("/jobs", body)).json()["id"]
    await gateway.worker.run(output=orjson.dumps(markup))
    for path, mark in ((f"/jobs/{job_id}", "output"), ("/jobs", "items"), ("/graphs", "items")):
        answer = await gateway.http.get(f"/api/v1{path}", headers={"accept": "text/html"})
        assert answer.headers["content-type"] == "application/json"
        assert mark in answer.json()
        check(answer)
    assert (await gateway.get(f"/jobs/{job_id}")).json()["output"] == markup
    refused = await gateway.post("/jobs", {**body, markup: 1}, accept="text/html")
    assert refused.status_code == 422
    assert markup.replace("/", "~1") in refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    check(refused)
    page = await gateway.http.get(f"/docs?url={markup}&configUrl={markup}")
    assert "alert" not in page.text
    assert page.content == (await gateway.http.get("/docs")).content


async def test_assets_may_be_kept_and_the_docs_page_runs_its_own_script_only(gateway: Gateway) -> None:
    check(await gateway.http.get(SCRIPT), cache="public, max-age=31536000, immutable")
    page = await gateway.http.get("/docs")
    (inline,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert "SwaggerUIBundle" in inline
    fingerprint = b64encode(sha256(inline.encode()).digest()).decode()
    check(
        page,
        f"default-src 'none'; script-src 'self' 'sha256-{fingerprint}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )
    # What else the page would run, the policy forbids.
    assert not re.search(r"<[^>]+\s(on\w+|style)=", page.text)
    assert len(re.findall(r"<script", page.text)) == 2
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert not re.match(r"(?:[a-z]+:|//)", address), "same origin"


async def test_browsers_are_held_to_https_where_a_trusted_proxy_says_that_it_was_used(
    make_gateway: MakeGateway,
) -> None:
    said = {"x-forwarded-proto": "https"}
    async with make_gateway(trusted_proxies=[ipaddress.ip_network("127.0.0.0/8")]) as gateway:
        for path in ("/api/v1/jobs", "/nowhere", "/docs", SCRIPT):
            answer = await gateway.http.get(path, headers=said)
            assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
            assert "strict-transport-security" not in (await gateway.http.get(path)).headers
    async with make_gateway() as gateway:
        check(await gateway.http.get("/nowhere", headers=said))


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", SCRIPT])
async def test_the_docs_need_no_key_where_they_are_public_and_nothing_else_is(
    make_gateway: MakeGateway, path: str
) -> None:
    async with make_gateway(auth_required=True) as gateway:
        assert (await gateway.http.get(path)).status_code == 401
    async with make_gateway(auth_required=True, docs_public=True, allowed_hosts=["a.example"]) as gateway:
        name = {"host": "a.example"}
        assert (await gateway.http.get(path, headers=name)).status_code == 200
        assert (await gateway.http.get(path)).status_code == 400, "the host name is still checked"
        for other in ("/api/v1/jobs", "/metrics", "/docs/", "/docsx", "/static", "/", "/api/v1/graphs", "//docs"):
            assert (await gateway.http.get(other, headers=name)).status_code == 401, other
        for up in ("/static/../api/v1/jobs", "/static/%2e%2e/api/v1/jobs", "/static/x/../../metrics"):
            answer = await gateway.http.request(
                "GET", httpx.URL("http://gateway.test", raw_path=up.encode()), headers=name
            )
            assert answer.status_code in (401, 404), up
