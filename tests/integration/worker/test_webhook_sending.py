"""Webhooks over real HTTP and TLS on loopback, out of a real store, to receivers good and bad."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpcore
import orjson
import pytest
import trustme
from redis.asyncio import Redis
from standardwebhooks import Webhook

from shared.settings import Network, Settings, load_settings
from shared.signing import default_secret, seal
from shared.store import DeliveryStore, JobStore, NewJob, connect
from shared.store.keys import key
from tests.receivers import Receiver, Reply
from tests.servers import SECRET_KEY, Valkey
from worker.delivery_http import Answer, DeliveryClient
from worker.webhooks import WebhookSender, sender_from_settings

LOOPBACK: list[Network] = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
SECRET = default_secret(SECRET_KEY, "acme")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a sender that trusts the tests' authority verifies with."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def serving(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    def context_for(*names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    return context_for


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


async def post(
    url: str, *, within: float = 5, allow: list[Network] = LOOPBACK, tls: ssl.SSLContext | None = None
) -> Answer:
    async with DeliveryClient(allow, timeout_seconds=within, ssl_context=tls) as client:
        return await client.post(url, {"webhook-id": "m1"}, b'{"hello":"world"}')


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let each look-up answer with the next of these lists of addresses, then with the last; gives what was asked."""
    real = socket.getaddrinfo

    def answer_with(*answers: list[str]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(host, str) and host.endswith(".test"):
                asked.append(host)
                found = answers[min(len(asked), len(answers)) - 1]
                return [entry for address in found for entry in real(address, port, type=socket.SOCK_STREAM)]
            return real(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return answer_with


# One try


async def test_a_post_arrives_with_its_headers_and_its_answer_comes_back(receiver: Receiver) -> None:
    receiver.reply(Reply(201, {"Retry-After": "7"}, b"thanks"))
    assert await post(receiver.url + "?a=b%20c") == Answer(201, "7", "thanks", None)
    (request,) = receiver.requests
    assert request.path == "/hook?a=b%20c"
    assert request.body == b'{"hello":"world"}'
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-length"] == "17"
    assert request.headers["webhook-id"] == "m1"


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with Receiver() as elsewhere:
        receiver.reply(Reply(302, {"Location": elsewhere.url}, b"over there"))
        assert (await post(receiver.url)).status_code == 302
        assert elsewhere.requests == []
    assert len(receiver.requests) == 1


async def test_a_refused_connection_is_an_error_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = await post(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert answer == Answer(error="the connection failed: Connection refused")


async def test_a_dropped_connection_is_an_error_in_words(receiver: Receiver) -> None:
    receiver.reply(Reply(drop=True))
    answer = await post(receiver.url)
    assert answer.status_code is None
    assert "disconnected" in (answer.error or "")


async def test_a_slow_receiver_is_given_up_at_the_deadline(receiver: Receiver) -> None:
    receiver.reply(Reply(delay=30))
    began = time.monotonic()
    assert await post(receiver.url, within=0.4) == Answer(error="no answer within 0.4 s")
    assert 0.4 <= time.monotonic() - began < 3


async def test_a_receiver_that_accepts_and_never_reads_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = await post(f"http://127.0.0.1:{silent.getsockname()[1]}/", within=0.4)
    assert answer == Answer(error="no answer within 0.4 s")


async def test_a_tls_handshake_that_never_ends_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = await post(f"https://127.0.0.1:{silent.getsockname()[1]}/", within=0.4)
    assert answer == Answer(error="no answer within 0.4 s")


async def test_a_try_that_was_given_up_leaves_no_connection_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        port = silent.getsockname()[1]
        async with DeliveryClient(LOOPBACK, timeout_seconds=0.2, ssl_context=ssl.create_default_context()) as client:
            for scheme in ("http", "https"):
                await client.post(f"{scheme}://127.0.0.1:{port}/", {}, b"{}")
                connection, _ = silent.accept()
                with connection:
                    connection.settimeout(5)
                    while await asyncio.to_thread(connection.recv, 4096):
                        pass  # up to the end of the connection, or TimeoutError


async def test_a_status_counts_though_the_body_never_comes(receiver: Receiver) -> None:
    receiver.reply(Reply(200, stall=True))
    began = time.monotonic()
    assert await post(receiver.url, within=0.4) == Answer(200, None, "", "no end of the answer within 0.4 s")
    assert time.monotonic() - began < 3


async def test_an_answer_of_a_gigabyte_is_read_only_at_its_start(receiver: Receiver) -> None:
    receiver.reply(Reply(200, size=1 << 30))
    began = time.monotonic()
    answer = await post(receiver.url)
    assert answer == Answer(200, None, "x" * 1024, None)
    assert time.monotonic() - began < 3
    assert receiver.bytes_sent < 64 << 20, "what the socket buffers took, no more"


async def test_endless_answer_headers_are_an_error() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"x-more: " + b"y" * 8000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert answer.status_code is None
    assert answer.error is not None


async def test_a_receiver_that_does_not_speak_http_is_an_error() -> None:
    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(mumble, "127.0.0.1", 0)
    async with server:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert answer.status_code is None
    assert answer.error is not None


async def test_a_binary_answer_is_kept_as_text(receiver: Receiver) -> None:
    receiver.reply(Reply(500, body=b"\xff\xfe\x00ok"))
    assert await post(receiver.url) == Answer(500, None, "\ufffd\ufffd\x00ok", None)


async def test_proxies_in_the_environment_are_ignored(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert (await post(receiver.url)).status_code == 204
        assert proxy.requests == []
    assert len(receiver.requests) == 1


# Where it goes


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "localhost",
        "me@127.0.0.1",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_loopback_is_refused_in_every_form_without_a_connection(
    receiver: Receiver, scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(*_: object, **__: object) -> None:
        pytest.fail("a connection was made")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", no_connection)
    answer = await post(f"{scheme}://{host}:{receiver.port}/hook", allow=[])
    assert answer.status_code is None
    assert (answer.error or "").startswith("refused: ")


async def test_the_connection_goes_to_the_address_that_was_checked(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(["93.184.215.14"], ["127.0.0.1"])  # public when checked, loopback on a second look-up
    connected: list[str] = []

    async def connect_tcp(self: object, host: str, *_: object, **__: object) -> None:
        connected.append(host)
        raise httpcore.ConnectError("stopped by the test")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect_tcp)
    await post("https://rebinding.test/hook", allow=[])
    assert connected == ["93.184.215.14"]
    assert asked == ["rebinding.test"]


async def test_plain_http_never_leaves_the_allowed_networks(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(*_: object, **__: object) -> None:
        pytest.fail("a connection was made")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", no_connection)
    names(["93.184.215.14"])
    assert await post("http://hooks.test/hook") == Answer(
        error="refused: a webhook to hooks.test needs https: http is only for WEBHOOK_ALLOW_NETWORKS"
    )


async def test_a_name_is_looked_up_once_and_rebinding_reaches_nothing(
    receiver: Receiver, names: Callable[..., list[str]]
) -> None:
    asked = names(["127.0.0.1"], ["10.0.0.1"])
    only_this: list[Network] = [ipaddress.ip_network("127.0.0.1/32")]
    answer = await post(f"http://rebinding.test:{receiver.port}/hook", allow=only_this)
    assert answer.status_code == 204
    assert asked == ["rebinding.test"]
    assert receiver.requests[0].headers["host"] == f"rebinding.test:{receiver.port}"
    again = await post(f"http://rebinding.test:{receiver.port}/hook", allow=only_this)
    assert again.error is not None
    assert "refused: rebinding.test is not a public address" in again.error


async def test_a_name_that_does_not_resolve_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    answer = await post("https://nowhere.test/")
    assert answer == Answer(error="the host name does not resolve: Name or service not known")


async def test_a_look_up_that_hangs_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(1)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert await post("https://slow.test/", within=0.3) == Answer(error="no answer within 0.3 s")


async def test_a_dead_address_is_passed_over_for_the_next(receiver: Receiver, names: Callable[..., list[str]]) -> None:
    names(["127.0.0.2", "127.0.0.1"])  # the receiver listens on the second only
    assert (await post(f"http://two.test:{receiver.port}/hook")).status_code == 204


async def test_one_private_address_among_good_ones_stops_the_try(
    receiver: Receiver, names: Callable[..., list[str]]
) -> None:
    names(["127.0.0.1", "10.0.0.1"])
    assert "refused" in ((await post(f"http://mixed.test:{receiver.port}/hook")).error or "")
    assert receiver.requests == []


# TLS


async def test_tls_verifies_the_name_and_not_the_address(
    serving: Callable[..., ssl.SSLContext], trusting: ssl.SSLContext, names: Callable[..., list[str]]
) -> None:
    names(["127.0.0.1"])
    with Receiver(tls=serving("hooks.test")) as receiver:
        answer = await post(f"https://hooks.test:{receiver.port}/hook", tls=trusting)
        assert answer.status_code == 204
        assert receiver.server_names == ["hooks.test"]


async def test_a_certificate_for_the_address_does_not_do_for_the_name(
    serving: Callable[..., ssl.SSLContext], trusting: ssl.SSLContext, names: Callable[..., list[str]]
) -> None:
    names(["127.0.0.1"])
    with Receiver(tls=serving("127.0.0.1", "other.test")) as receiver:
        answer = await post(f"https://hooks.test:{receiver.port}/hook", tls=trusting)
        assert answer.status_code is None
        assert "the certificate was refused: Hostname mismatch" in (answer.error or "")
        assert receiver.requests == []


async def test_a_certificate_of_an_unknown_authority_is_refused(serving: Callable[..., ssl.SSLContext]) -> None:
    with Receiver(tls=serving("127.0.0.1")) as receiver:
        answer = await post(receiver.url)
        assert (answer.error or "").startswith("the certificate was refused: ")
        assert receiver.requests == []


async def test_an_address_with_a_certificate_of_its_own_is_taken(
    serving: Callable[..., ssl.SSLContext], trusting: ssl.SSLContext
) -> None:
    with Receiver(tls=serving("127.0.0.1")) as receiver:
        assert (await post(receiver.url, tls=trusting)).status_code == 204


async def test_a_connection_verified_for_one_name_is_not_used_for_another(
    serving: Callable[..., ssl.SSLContext], trusting: ssl.SSLContext, names: Callable[..., list[str]]
) -> None:
    names(["127.0.0.1"])
    with Receiver(tls=serving("hooks.test")) as receiver:
        async with DeliveryClient(LOOPBACK, timeout_seconds=5, ssl_context=trusting) as client:
            for _ in range(2):
                assert (await client.post(f"https://hooks.test:{receiver.port}/hook", {}, b"{}")).status_code == 204
            assert receiver.server_names == ["hooks.test"], "the second try uses the first one's connection"
            refused = await client.post(f"https://other.test:{receiver.port}/hook", {}, b"{}")
        assert "certificate was refused" in (refused.error or "")


async def test_plain_http_on_a_tls_port_is_an_error(receiver: Receiver) -> None:
    answer = await post(f"https://127.0.0.1:{receiver.port}/hook")
    assert (answer.error or "").startswith("TLS failed")


# From the store


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    redis = connect(valkey_url)
    yield redis
    await redis.aclose()


def settings_for(redis_url: str) -> Settings:
    return load_settings(
        redis_url=redis_url, secret_key=SECRET_KEY, webhook_allow_networks="127.0.0.0/8", webhook_timeout_seconds=2
    )


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url)


@pytest.fixture
def sending(settings: Settings) -> Iterator[WebhookSender]:
    sender = sender_from_settings(settings, "w1")
    sender.start()
    yield sender
    assert sender.stop(5)


class Finishing:
    """Ends jobs as a worker does, and reads their deliveries as a client does; `clock_offset_ms` lets time pass."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def end_job(self, job_id: str, url: str, *, output: bytes = b'{"answer":42}', **fields: str) -> None:
        jobs = JobStore(self.redis, result_ttl_seconds=600)
        job = NewJob("acme", job_id, "echo", b"{}", 3, fields={"webhook_url": url, **fields})
        await jobs.submit(job)
        claim = await jobs.claim(
            "w1", lease_seconds=10, limit=10, max_bytes=1_000_000, recover=True, queues=["default"], graphs=["echo"]
        )
        for claimed in claim.jobs:
            assert await jobs.finish("w1", claimed, "succeeded", output=output) == "done"

    async def delivery(self, job_id: str) -> dict[str, Any]:
        store = DeliveryStore(self.redis, ttl_seconds=600)
        (document,) = await store.of_job("acme", job_id)
        return orjson.loads(orjson.dumps(document))  # type: ignore[no-any-return]

    async def after(self, job_id: str, attempts: int, within: float = 10) -> dict[str, Any]:
        """The delivery, once it has had so many attempts."""
        deadline = time.monotonic() + within
        while len((document := await self.delivery(job_id))["attempts"]) < attempts:
            assert time.monotonic() < deadline, f"no {attempts} attempts within {within} s: {document}"
            await asyncio.sleep(0.01)
        return document

    async def make_due(self, job_id: str) -> None:
        """As if the time of the next try had come."""
        await self.redis.zadd(key("deliveries_due"), {f"acme:{job_id}.1.succeeded": 0}, xx=True)
        await self.redis.rpush(key("deliveries_wake"), "1")  # type: ignore[misc]


@pytest.fixture
def finishing(redis: Redis) -> Finishing:
    return Finishing(redis)


async def test_the_end_of_a_job_is_delivered_signed(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    await finishing.end_job("j1", receiver.url)
    delivery = await finishing.after("j1", 1)
    (request,) = receiver.requests
    message = Webhook(SECRET).verify(request.body, request.headers)
    assert message["type"] == "job.succeeded"
    assert message["data"]["id"] == "j1"
    assert message["data"]["status"] == "succeeded"
    assert message["data"]["output"] == {"answer": 42}
    assert request.headers["webhook-id"] == delivery["id"] == "j1.1.succeeded"
    assert delivery["status"] == "delivered"
    assert delivery["next_attempt_at"] is None
    (attempt,) = delivery["attempts"]
    assert (attempt["status_code"], attempt["error"], attempt["body"]) == (204, None, "")
    assert attempt["duration_ms"] >= 0


async def test_an_idle_sender_delivers_within_a_moment(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    await finishing.end_job("first", receiver.url)
    await finishing.after("first", 1)
    ended = time.time()
    await finishing.end_job("j1", receiver.url)
    assert receiver.wait_for(2)[1].at - ended < 0.5


async def test_each_try_has_the_same_id_and_body_and_a_signature_of_its_own_time(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    receiver.reply(Reply(500, body=b"oh no"), Reply(503))
    await finishing.end_job("j1", receiver.url)
    await finishing.after("j1", 1)
    await asyncio.sleep(1.05)  # for the next timestamp, which is in seconds
    for tries in (2, 3):
        await finishing.make_due("j1")
        await finishing.after("j1", tries)
    delivery = await finishing.delivery("j1")
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [500, 503, 204]
    assert delivery["attempts"][0]["body"] == "oh no"
    assert delivery["status"] == "delivered"
    assert len({(request.headers["webhook-id"], request.body) for request in receiver.requests}) == 1
    stamps = [int(request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert stamps[0] < stamps[1]
    for request in receiver.requests:
        Webhook(SECRET).verify(request.body, request.headers)


async def test_the_first_retry_comes_by_itself_after_five_seconds(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    receiver.reply(Reply(500))
    await finishing.end_job("j1", receiver.url)
    delivery = await finishing.after("j1", 1)
    due = datetime.fromisoformat(delivery["next_attempt_at"]).timestamp()
    first, second = receiver.wait_for(2)
    assert 4.5 <= second.at - first.at <= 6.5
    assert abs(second.at - due) < 1
    assert (await finishing.after("j1", 2))["status"] == "delivered"


@pytest.mark.parametrize("status", [302, 404, 429, 503])
@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured_by_every_failure(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender, status: int, as_date: bool
) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True) if as_date else "3600"
    receiver.reply(Reply(status, {"Retry-After": value}))
    await finishing.end_job("j1", receiver.url)
    delivery = await finishing.after("j1", 1)
    assert delivery["status"] == "pending"
    wait = datetime.fromisoformat(delivery["next_attempt_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < wait < timedelta(minutes=67)


async def test_a_receiver_that_is_gone_for_good_gets_no_more(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    receiver.reply(Reply(410, body=b"never again"))
    await finishing.end_job("j1", receiver.url)
    delivery = await finishing.after("j1", 1)
    assert delivery["status"] == "failed"
    assert delivery["next_attempt_at"] is None
    assert "410" in delivery["attempts"][0]["error"]


async def test_the_tenth_failure_is_the_last_and_the_delivery_can_be_sent_again(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender, redis: Redis
) -> None:
    receiver.default = Reply(500)
    await finishing.end_job("j1", receiver.url)
    for tries in range(1, 11):
        assert (await finishing.after("j1", tries))["status"] == ("pending" if tries < 10 else "failed")
        await finishing.make_due("j1")
    receiver.default = Reply(200)
    store = DeliveryStore(redis, ttl_seconds=600)
    assert await store.redeliver("acme", "j1", "j1.1.succeeded") == "queued"
    delivery = await finishing.after("j1", 11)
    assert delivery["status"] == "delivered"
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


async def test_a_refused_address_is_an_attempt_on_record_and_tried_again(
    finishing: Finishing, sending: WebhookSender
) -> None:
    await finishing.end_job("j1", "http://10.0.0.1/hook")
    delivery = await finishing.after("j1", 1)
    assert delivery["status"] == "pending"
    assert delivery["attempts"][0]["error"].startswith("refused: 10.0.0.1 is not a public address")


async def test_a_job_s_own_secret_signs(receiver: Receiver, finishing: Finishing, sending: WebhookSender) -> None:
    own = "whsec_" + "B" * 44
    await finishing.end_job("j1", receiver.url, webhook_secret=seal(SECRET_KEY, own))
    await finishing.after("j1", 1)
    Webhook(own).verify(receiver.requests[0].body, receiver.requests[0].headers)


async def test_an_output_beyond_256_kb_is_linked_and_not_sent(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    await finishing.end_job("j1", receiver.url, output=b'"' + b"x" * 300_000 + b'"')
    await finishing.after("j1", 1)
    data = orjson.loads(receiver.requests[0].body)["data"]
    assert data["output"] is None
    assert data["links"]["output"] == "/api/v1/jobs/j1"


async def test_a_slow_receiver_delays_nobody_else(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender
) -> None:
    with Receiver(default=Reply(delay=30)) as slow:
        for number in range(10):
            await finishing.end_job(f"slow{number}", slow.url)
        slow.wait_for(10)
        began = time.monotonic()
        await finishing.end_job("j1", receiver.url)
        receiver.wait_for(1, timeout=1.5)
        assert time.monotonic() - began < 1.5


async def test_a_delivery_of_a_sender_that_died_is_sent_by_another_when_its_lease_ends(
    receiver: Receiver, finishing: Finishing, redis: Redis, settings: Settings
) -> None:
    await finishing.end_job("j1", receiver.url)
    store = DeliveryStore(redis, ttl_seconds=600)
    (taken,), _ = await store.claim("dead", lease_seconds=1, limit=10)
    assert taken.id == "j1.1.succeeded"
    sender = sender_from_settings(settings, "w2")
    sender.start()
    delivery = await finishing.after("j1", 1)
    assert sender.stop(5)
    assert delivery["status"] == "delivered"
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["j1.1.succeeded"]


async def test_two_senders_send_each_delivery_once(
    receiver: Receiver, finishing: Finishing, sending: WebhookSender, settings: Settings
) -> None:
    other = sender_from_settings(settings, "w2")
    other.start()
    for number in range(60):
        await finishing.end_job(f"j{number}", receiver.url)
    for number in range(60):
        await finishing.after(f"j{number}", 1)
    assert other.stop(5)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert sorted(ids) == sorted(f"j{number}.1.succeeded" for number in range(60))


async def test_a_sender_lives_through_an_outage_of_redis(receiver: Receiver, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    redis = connect(valkey.url)
    finishing = Finishing(redis)
    sender = sender_from_settings(settings_for(valkey.url), "w1")
    sender.start()
    try:
        await finishing.end_job("before", receiver.url)
        await finishing.after("before", 1)
        valkey.kill()
        await asyncio.sleep(1.2)  # longer than a poll, so that the sender meets the outage
        assert sender.alive
        valkey.restart()
        await finishing.end_job("after", receiver.url)
        assert (await finishing.after("after", 1))["status"] == "delivered"
        assert [request.headers["webhook-id"] for request in receiver.requests] == [
            "before.1.succeeded",
            "after.1.succeeded",
        ]
    finally:
        assert sender.stop(5)
        await redis.aclose()
        valkey.stop()


async def test_a_sender_that_starts_before_redis_begins_when_redis_comes(receiver: Receiver, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path)
    valkey.kill()
    sender = sender_from_settings(settings_for(valkey.url), "w1")
    sender.start()
    redis = connect(valkey.url)
    finishing = Finishing(redis)
    try:
        await asyncio.sleep(0.5)
        assert sender.alive
        valkey.restart()
        await finishing.end_job("j1", receiver.url)
        assert (await finishing.after("j1", 1))["status"] == "delivered"
    finally:
        assert sender.stop(5)
        await redis.aclose()
        valkey.stop()
