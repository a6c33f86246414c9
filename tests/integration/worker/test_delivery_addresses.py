"""Where a try connects to: the addresses that were checked, and no other."""

from __future__ import annotations

import ipaddress
import socket
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable

import pytest

from shared.settings import Network
from tests.deliveries import post
from tests.receivers import Receiver
from worker.delivery_answer import Answer


async def test_the_connection_goes_to_the_address_that_was_checked(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(["93.184.215.14"], ["127.0.0.1"])  # public when checked, loopback on a second look-up
    connected: list[str] = []

    async def sock_connect(_loop: object, _socket: object, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", sock_connect)
    await post("https://rebinding.test/hook", allow=[])
    assert connected == ["93.184.215.14"]
    assert asked == ["rebinding.test"]


async def test_plain_http_never_leaves_the_allowed_networks(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(*_: object, **__: object) -> None:
        pytest.fail("a connection was made")

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", no_connection)
    names(["93.184.215.14"])
    assert await post("http://hooks.test/hook") == Answer(
        error="refused: a webhook to hooks.test needs https: http is only for WEBHOOK_ALLOW_NETWORKS", reason="refused"
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
