"""The whole surface: every refusal is a documented problem, and the page describes every route."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gateway.errors import CODES
from gateway.routes.docs import SWAGGER_UI_VERSION
from tests.servers import PROJECT
from tests.unit.gateway.conftest import Gateway

NO_JOB = f"/api/v1/jobs/{'0' * 32}"
NO_ENDPOINT = f"/api/v1/webhooks/{'0' * 32}"
NO_DELIVERY = f"/api/v1/deliveries/{'0' * 32}_1_failed"
REFUSED = [
    ("GET", "/", 404, "not_found"),
    ("GET", "/api/v1", 404, "not_found"),
    ("GET", "/api/v1/jobs/", 404, "not_found"),
    ("GET", "//evil.example/api/v1/jobs", 404, "not_found"),
    ("GET", "/%00", 404, "not_found"),
    ("GET", "/static/5/%2e%2e%2f%2e%2e%2fmain.py", 404, "not_found"),
    ("GET", f"/static/{SWAGGER_UI_VERSION}/LICENSE", 404, "not_found"),
    ("PUT", "/api/v1/jobs", 405, "method_not_allowed"),
    ("PATCH", NO_JOB, 405, "method_not_allowed"),
    ("GET", f"{NO_JOB}/cancel", 405, "method_not_allowed"),
    ("OPTIONS", "/api/v1/graphs", 405, "method_not_allowed"),
    ("DELETE", "/metrics", 405, "method_not_allowed"),
    ("POST", "/docs", 405, "method_not_allowed"),
    ("POST", f"/static/{SWAGGER_UI_VERSION}/swagger-ui.css", 405, "method_not_allowed"),
    ("POST", "/api/v1/health", 405, "method_not_allowed"),
    ("BREW", "/api/v1/jobs", 405, "method_not_allowed"),
    ("POST", "/api/v1/jobs", 422, "validation_error"),
    ("POST", "/api/v1/jobs/batch", 422, "validation_error"),
    ("GET", "/api/v1/jobs?limit=0", 422, "validation_error"),
    ("GET", "/api/v1/jobs?cursor=x", 422, "invalid_cursor"),
    ("GET", NO_JOB, 404, "job_not_found"),
    ("GET", f"{NO_JOB}?wait=x", 422, "validation_error"),
    ("DELETE", NO_JOB, 404, "job_not_found"),
    ("POST", f"{NO_JOB}/cancel", 404, "job_not_found"),
    ("POST", f"{NO_JOB}/retry", 404, "job_not_found"),
    ("POST", f"{NO_JOB}/resume", 422, "validation_error"),
    ("POST", "/api/v1/jobs/retry", 422, "validation_error"),
    ("GET", "/api/v1/jobs/retry", 404, "job_not_found"),
    ("POST", "/api/v1/jobs/retry/retry", 404, "job_not_found"),
    ("GET", f"{NO_JOB}/resume", 405, "method_not_allowed"),
    ("GET", f"{NO_JOB}/deliveries", 404, "job_not_found"),
    ("POST", f"{NO_JOB}/deliveries/x/redeliver", 404, "delivery_not_found"),
    ("GET", "/api/v1/graphs/nosuch", 404, "graph_not_found"),
    ("POST", "/api/v1/webhooks", 422, "validation_error"),
    ("PUT", "/api/v1/webhooks", 405, "method_not_allowed"),
    ("GET", NO_ENDPOINT, 404, "endpoint_not_found"),
    ("PATCH", NO_ENDPOINT, 422, "validation_error"),
    ("DELETE", NO_ENDPOINT, 404, "endpoint_not_found"),
    ("POST", f"{NO_ENDPOINT}/rotate", 404, "endpoint_not_found"),
    ("POST", f"{NO_ENDPOINT}/ping", 404, "endpoint_not_found"),
    ("POST", f"{NO_ENDPOINT}/enable", 404, "endpoint_not_found"),
    ("POST", f"{NO_ENDPOINT}/disable", 404, "endpoint_not_found"),
    ("GET", f"{NO_ENDPOINT}/enable", 405, "method_not_allowed"),
    ("GET", f"{NO_ENDPOINT}/deliveries", 404, "endpoint_not_found"),
    ("GET", f"{NO_ENDPOINT}/deliveries?limit=0", 422, "validation_error"),
    ("DELETE", "/api/v1/webhooks/addresses", 404, "endpoint_not_found"),
    ("POST", "/api/v1/webhooks/addresses/enable", 422, "validation_error"),
    ("GET", "/api/v1/webhooks/addresses/enable", 405, "method_not_allowed"),
    ("GET", "/api/v1/deliveries?limit=101", 422, "validation_error"),
    ("GET", "/api/v1/deliveries?cursor=x", 422, "invalid_cursor"),
    ("GET", "/api/v1/deliveries?endpoint=x", 422, "validation_error"),
    ("GET", NO_DELIVERY, 404, "delivery_not_found"),
    ("DELETE", NO_DELIVERY, 405, "method_not_allowed"),
    ("POST", f"{NO_DELIVERY}/redeliver", 404, "delivery_not_found"),
    ("POST", "/api/v1/deliveries/redeliver", 422, "validation_error"),
    ("GET", "/api/v1/deliveries/redeliver", 404, "delivery_not_found"),
    ("POST", "/api/v1/deliveries/redeliver/redeliver", 404, "delivery_not_found"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSED)
async def test_every_refusal_is_a_problem_with_a_code_and_a_sentence(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    answer = await gateway.http.request(method, f"http://gateway.test{path}")
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert document["type"] == "about:blank"
    assert document["title"]
    assert len(document["detail"]) > 10
    assert CODES[code] == status
    if status == 422:
        assert code == "invalid_cursor" or document["errors"]


async def test_allow_names_every_method_of_the_address(gateway: Gateway) -> None:
    assert (await gateway.http.put(NO_JOB)).headers["allow"] == "DELETE, GET, HEAD"
    assert (await gateway.http.put("/api/v1/jobs")).headers["allow"] == "GET, HEAD, POST"
    assert (await gateway.http.put(f"{NO_JOB}/cancel")).headers["allow"] == "POST"
    assert (await gateway.http.put(NO_ENDPOINT)).headers["allow"] == "DELETE, GET, HEAD, PATCH"
    assert (await gateway.http.put("/api/v1/webhooks")).headers["allow"] == "GET, HEAD, POST"
    assert (await gateway.http.put("/api/v1/jobs/retry")).headers["allow"] == "POST", "and not those of a job"
    assert (await gateway.http.put("/api/v1/webhooks/addresses")).headers["allow"] == "GET, HEAD"


def test_the_api_guide_lists_exactly_the_codes_there_are_with_their_statuses() -> None:
    guide = (PROJECT / "docs" / "api.md").read_text("utf-8")
    listed = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \|", guide, re.MULTILINE)
    assert {code: int(status) for code, status in listed} == CODES
    assert len(listed) == len(CODES)


def test_every_code_is_used() -> None:
    source = "".join(
        path.read_text("utf-8") for path in (PROJECT / "gateway").rglob("*.py") if path.name != "documents.py"
    )
    # Once in the table, and once where it is raised.
    assert [code for code in CODES if source.count(f'"{code}"') < 2] == []


@pytest.fixture
async def page(gateway: Gateway) -> dict[str, Any]:
    return dict((await gateway.http.get("/openapi.json")).json())


def _operations(page: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in page["paths"].items()
        for method, operation in methods.items()
    ]


def test_each_route_is_described_with_its_answers_and_problems(page: dict[str, Any]) -> None:
    assert len(_operations(page)) >= 34
    for name, operation in _operations(page):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        statuses = set(operation["responses"])
        assert statuses >= {"401", "400", "500"}, name
        for status, response in operation["responses"].items():
            if int(status) >= 400 and not (status == "503" and name == "GET /api/v1/health"):
                assert response["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), name
                assert re.findall(r"`([a-z_]+)`", response["description"]), name
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["examples"], name
            assert statuses >= {"413", "415", "422"}, name


async def test_the_examples_of_the_page_are_what_the_service_takes(gateway: Gateway, page: dict[str, Any]) -> None:
    await gateway.registry.publish({"customer_service": {"id": "customer_service", "input_schema": None}}, {})
    gateway.worker.graphs = ("customer_service",)
    for path in ("/jobs", "/jobs/batch", "/jobs/retry", "/jobs/{job_id}/retry", "/jobs/{job_id}/resume"):
        body = page["paths"][f"/api/v1{path}"]["post"]["requestBody"]["content"]["application/json"]
        for example in body["examples"].values():
            job_id = await gateway.submit("customer_service")
            while (await gateway.worker.run("interrupted" if path.endswith("/resume") else "failed", b"")).id != job_id:
                pass
            answer = await gateway.post(path.format(job_id=job_id), example["value"])
            assert answer.status_code == (200 if "dry_run" in example["value"] else 202), answer.text


async def test_the_examples_of_webhooks_are_what_the_service_takes_too(gateway: Gateway, page: dict[str, Any]) -> None:
    endpoint_id = (await gateway.register())["id"]
    bodies = {
        (method, path): operation["requestBody"]["content"]["application/json"]["examples"].values()
        for path, methods in page["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation and path.startswith(("/api/v1/webhooks", "/api/v1/deliveries"))
    }
    assert len(bodies) == 5
    for (method, path), examples in bodies.items():
        for example in examples:
            here = f"http://gateway.test{path.format(endpoint_id=endpoint_id)}"
            answer = await gateway.http.request(method, here, json=example["value"])
            if path.endswith("/addresses/enable"):
                assert answer.json()["code"] == "address_not_found", "it is well"
            else:
                assert answer.status_code in (200, 201, 202), answer.text


def test_every_reference_of_the_page_leads_somewhere(page: dict[str, Any]) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return here + [found for inner in part.values() for found in references(inner)]
        return [found for inner in part for found in references(inner)] if isinstance(part, list) else []

    schemas = page["components"]["schemas"]
    assert {found.rsplit("/", 1)[1] for found in references(page)} <= set(schemas)
    assert "HTTPValidationError" not in schemas


async def test_answers_are_what_the_page_says_they_are(gateway: Gateway, page: dict[str, Any]) -> None:
    import jsonschema_rs

    def check(answer: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": page["components"]}
        errors = [
            f"{error.instance_path} {error.message}" for error in jsonschema_rs.iter_errors(schema, answer.json())
        ]
        assert errors == [], name

    accepted = await gateway.post("/jobs", {"graph": "echo", "input": 1, "webhook": {"url": "https://example.com/"}})
    check(accepted, "Accepted")
    await gateway.worker.run(usage=b"{}")
    job = accepted.json()["links"]["self"].removeprefix("/api/v1")
    check(await gateway.get(job), "JobRecord")
    check(await gateway.get("/jobs"), "JobList")
    check(await gateway.get(f"{job}/deliveries"), "DeliveryList")
    check(await gateway.get("/graphs"), "GraphList")
    check(await gateway.get("/workers"), "WorkerList")
    check(made := await gateway.post("/webhooks", {"url": "https://example.com/h"}), "EndpointWithSecret")
    endpoint = made.headers["location"].removeprefix("/api/v1")
    check(await gateway.post(f"{endpoint}/rotate"), "EndpointWithSecret")
    check(await gateway.post(f"{endpoint}/disable"), "Endpoint")
    check(await gateway.get("/webhooks"), "EndpointList")
    check(await gateway.get("/webhooks/addresses"), "AddressList")
    check(sent := await gateway.post(f"{endpoint}/ping"), "Sending")
    await gateway.sender.send("retry")
    check(await gateway.http.get(sent.json()["links"]["self"]), "Delivery")
    check(await gateway.get("/deliveries"), "DeliveryPage")
    check(await gateway.get(f"{endpoint}/deliveries"), "DeliveryPage")
    gateway.pass_time(1)
    check(await gateway.post("/deliveries/redeliver", {"status": ["pending"]}), "RedeliverAnswer")
    check(await gateway.get("/health"), "HealthDocument")
    await gateway.submit()
    await gateway.worker.run("failed", b"", error=b'{"type":"E","code":"timeout","message":"m"}')
    check(await gateway.post("/jobs/retry", {"dry_run": True}), "RetryAnswer")
    check(await gateway.post("/jobs/retry", {}), "RetryAnswer")
    check(await gateway.post("/jobs", {"graph": "echo"}), "Problem")
    check(await gateway.post("/jobs/batch", {"jobs": [{"graph": "echo", "input": 1}, 7]}), "BatchAnswer")


async def test_the_docs_page_needs_nothing_from_the_internet(gateway: Gateway) -> None:
    answer = await gateway.http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?://|//[a-z]", answer.text.replace("<!-- ", "")) == []
    assert '"validatorUrl": null' in answer.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        asset = await gateway.http.get(f"/{address}")
        assert (asset.status_code, asset.content != b"") == (200, True), address
        assert "max-age=31536000" in asset.headers["cache-control"]
    assert "url: 'openapi.json'" in answer.text
    styles = (await gateway.http.get(f"/static/{SWAGGER_UI_VERSION}/swagger-ui.css")).text
    assert re.findall(r"@import|url\((?![\"']?data:).{0,60}", styles) == []


def test_the_version_in_the_assets_address_is_the_version_of_the_assets() -> None:
    assert f" {SWAGGER_UI_VERSION} " in (PROJECT / "gateway" / "static" / "README.md").read_text("utf-8")
