"""One try to deliver a webhook, over real HTTP and TLS on loopback, to receivers good and bad."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from tests.deliveries import LOOPBACK, post
from tests.receivers import Receiver, Reply
from worker.delivery_answer import Answer
from worker.delivery_http import DeliveryClient


async def test_a_post_arrives_with_its_headers_and_its_answer_comes_back(receiver: Receiver) -> None:
    receiver.reply(Reply(201, {"Retry-After": "7"}, b"thanks"))
    assert await post(receiver.url + "?a=b%20c") == Answer(201, "7", "thanks")
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


async def test_too_many_open_files_are_not_the_receivers_fault(receiver: Receiver) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with DeliveryClient(LOOPBACK, timeout_seconds=5, ssl_context=ssl.create_default_context()) as client:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            answer = await client.post(receiver.url, {}, b"{}")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert answer == Answer(error="could not be sent: this worker has too many open files", reason="unready")
        assert (await client.post(receiver.url, {}, b"{}")).status_code == 204


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


@pytest.mark.parametrize(
    ("value", "abort"),
    [
        ("abort-message", True),
        (" Abort-Message ", True),
        ("other, abort-message", True),
        ("", False),
        ("abort", False),
        ("abort-messages", False),
        ("abort message", False),
    ],
)
async def test_an_answer_may_ask_for_no_more_tries_of_the_message(receiver: Receiver, value: str, abort: bool) -> None:
    receiver.reply(Reply(500, {"Webhook-Delivery": value}))
    assert (await post(receiver.url)).abort is abort


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
