"""Which web pages may call the service: those that are listed, and no other."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.gateway.conftest import Gateway, MakeGateway, problem

PAGE, OTHER = "https://app.example.com", "https://evil.test"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-api-key"}
STRANGERS = [
    OTHER, "null", "", "*", "https://app.example.com.evil.test", "http://app.example.com", "https://APP.example.com",
    "https://app.example.com:443", "https://app.example.com/", "https://evil.test, https://app.example.com",
    "https://sub.app.example.com", "https://appxexample.com",
]  # fmt: skip


def about_cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


async def test_without_a_list_no_answer_says_anything_about_other_origins(gateway: Gateway) -> None:
    for method in ("GET", "OPTIONS", "POST"):
        answer = await gateway.http.request(method, "/api/v1/jobs", headers={"origin": OTHER, **ASKS})
        assert about_cors(answer) == {}
        assert "vary" not in answer.headers
    problem(await gateway.http.options("/api/v1/jobs", headers={"origin": OTHER, **ASKS}), 405, "method_not_allowed")


async def test_a_listed_page_is_told_what_it_may_before_it_has_a_key(make_gateway: MakeGateway) -> None:
    async with make_gateway(auth_required=True, cors_origins=["https://b.test", PAGE]) as gateway:
        for path in ("/api/v1/jobs", "/nowhere"):
            answer = await gateway.http.options(path, headers={"origin": PAGE, **ASKS})
            assert (answer.status_code, answer.content) == (204, b"")
            assert about_cors(answer) == {
                "access-control-allow-origin": PAGE,
                "access-control-allow-methods": "DELETE, GET, PATCH, POST",
                "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, "
                "Traceparent, X-Api-Key",
                "access-control-max-age": "600",
            }
            assert answer.headers["vary"] == "Origin"
        # It reads what is refused, too: an answer without these would be no answer to it.
        for path, status in (("/api/v1/jobs", 401), ("/api/v1/health/live", 200)):
            answer = await gateway.http.get(path, headers={"origin": PAGE})
            assert answer.status_code == status
            assert about_cors(answer) == {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}


async def test_a_listed_page_reads_of_a_bug_in_the_service_too(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_gateway(cors_origins=[PAGE]) as gateway:
        monkeypatch.setattr(type(gateway.jobs), "cancel", None)
        answer = await gateway.post(f"/jobs/{'0' * 32}/cancel", None, origin=PAGE)
        problem(answer, 500, "internal_error")
        assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("origin", STRANGERS)
async def test_any_other_page_is_told_nothing_and_never_sees_itself(make_gateway: MakeGateway, origin: str) -> None:
    async with make_gateway(auth_required=True, cors_origins=[PAGE]) as gateway:
        refused = await gateway.http.options("/api/v1/jobs", headers={"origin": origin, **ASKS})
        problem(refused, 401, "unauthorized")
        for answer in (refused, await gateway.http.get("/api/v1/health/live", headers={"origin": origin})):
            assert about_cors(answer) == {}
            assert answer.headers["vary"] == "Origin", "no cache gives it what is meant for others"


async def test_two_origins_are_none(make_gateway: MakeGateway) -> None:
    async with make_gateway(cors_origins=[PAGE]) as gateway:
        answer = await gateway.http.get("/docs", headers=[("origin", PAGE), ("origin", PAGE)])
        assert about_cors(answer) == {}


async def test_options_that_is_no_preflight_goes_to_the_route(make_gateway: MakeGateway) -> None:
    async with make_gateway(cors_origins=[PAGE]) as gateway:
        problem(await gateway.http.options("/docs", headers={"origin": PAGE}), 405, "method_not_allowed")


async def test_any_origin_is_a_star_and_never_with_credentials(make_gateway: MakeGateway) -> None:
    async with make_gateway(auth_required=True, cors_origins=["*"]) as gateway:
        preflight = await gateway.http.options("/api/v1/jobs", headers={"origin": OTHER, **ASKS})
        assert preflight.status_code == 204
        for answer in (preflight, await gateway.http.get("/api/v1/jobs", headers={"origin": "null"})):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
            assert "vary" not in answer.headers
