"""Receivers of webhooks with certificates, names that resolve to them, and a sender on a real store."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis

from shared.settings import Settings
from shared.store import connect
from tests.deliveries import Outbox, sending, settings_for
from tests.receivers import Receiver
from worker.webhooks import WebhookSender


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client that trusts the tests' authority verifies with."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let senders that start from now on trust the tests' authority, as an operator does."""
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.fixture
def serving(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Gives what a server with a certificate for these names serves with; `options` are trustme's."""

    def context_for(*names: str, **options: Any) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names, **options).configure_cert(context)
        return context

    return context_for


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


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


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    redis = connect(valkey_url)
    yield redis
    await redis.aclose()


@pytest.fixture
def outbox(redis: Redis) -> Outbox:
    return Outbox(redis)


@pytest.fixture
def settings(valkey_url: str) -> Settings:
    return settings_for(valkey_url)


@pytest.fixture
def sender(settings: Settings) -> Iterator[WebhookSender]:
    with sending(settings) as sender:
        yield sender
