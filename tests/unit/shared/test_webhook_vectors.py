"""The test vectors of docs/webhooks.md: the receivers' library verifies them, and we would sign them just so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from standardwebhooks import webhooks as library

from shared.jobs import JobRecord
from shared.records import WEBHOOK_VERSION, render_ping, render_webhook_body
from shared.signing import check_secret, sign_headers
from shared.webhooks import DeliveryType

PAGE = Path(__file__).parents[3] / "docs/webhooks.md"


@dataclass(frozen=True)
class Vector:
    """One block of the page: what is said before it, and the message."""

    title: str
    secrets: list[str]
    headers: dict[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        return "refused" not in self.title

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)

    @property
    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")


def read_vectors() -> list[Vector]:
    section = PAGE.read_text("utf-8").split("\n## Test vectors\n", 1)[1].split("\n## ", 1)[0]
    found = []
    for part in section.split("\n### ")[1:]:
        title, rest = part.split("\n", 1)
        match = re.fullmatch(r"(.*?)```http\n(.*?)\n\n(.*)\n```\s*", rest, re.DOTALL)
        assert match, f"{title}: not as the page says"
        lines = [line.split(": ", 1) for line in match[2].split("\n")]
        found.append(Vector(title, re.findall(r"`(whsec_[^`]+)`", match[1]), dict(lines), match[3].encode()))
    return found


VECTORS = read_vectors()
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.title)
each_good_vector = pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if vector.good], ids=lambda vector: vector.title
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[datetime]:
    """The library's clock, which stands at `clock.at`."""

    class Clock(datetime):
        at = datetime.now(UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return cls.at.astimezone(tz)

    monkeypatch.setattr(library, "datetime", Clock)
    return Clock


def test_the_page_shows_one_signature_two_text_beyond_ascii_and_one_to_refuse() -> None:
    assert sorted(len(vector.signatures) for vector in VECTORS if vector.good) == [1, 1, 2]
    assert any(not vector.body.isascii() for vector in VECTORS)
    assert len([vector for vector in VECTORS if not vector.good]) == 1
    assert len({vector.headers["webhook-id"] for vector in VECTORS if vector.good}) == 3


@each_vector
def test_a_block_has_the_three_headers_and_a_secret_for_each_signature(vector: Vector) -> None:
    assert list(vector.headers) == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    assert len(vector.secrets) == len(vector.signatures)
    for secret in vector.secrets:
        check_secret(secret)


@each_good_vector
def test_the_library_verifies_it_with_each_secret(vector: Vector, clock: Any) -> None:
    clock.at = vector.at
    for secret in vector.secrets:
        assert Webhook(secret).verify(vector.body, vector.headers) == json.loads(vector.body)


@each_good_vector
def test_it_verifies_by_the_formula_alone(vector: Vector) -> None:
    signed = f"{vector.headers['webhook-id']}.{vector.headers['webhook-timestamp']}.".encode() + vector.body
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in vector.secrets]
    digests = [hmac.digest(key, signed, hashlib.sha256) for key in keys]
    assert vector.signatures == [f"v1,{base64.b64encode(digest).decode()}" for digest in digests]


@each_good_vector
def test_we_sign_it_exactly_so(vector: Vector) -> None:
    assert sign_headers(vector.secrets, vector.headers["webhook-id"], vector.at, vector.body) == vector.headers


@each_good_vector
def test_what_is_changed_or_late_does_not_verify(vector: Vector, clock: Any) -> None:
    clock.at = vector.at
    hook = Webhook(vector.secrets[0])
    for changed in (vector.body + b" ", vector.body.replace(b'"version":1', b'"version":2')):
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            hook.verify(changed, vector.headers)
    for late in (timedelta(minutes=-6), timedelta(minutes=6)):
        clock.at = vector.at + late
        with pytest.raises(WebhookVerificationError, match="timestamp too"):
            hook.verify(vector.body, vector.headers)


def test_the_altered_body_is_refused(clock: Any) -> None:
    (vector,) = (vector for vector in VECTORS if not vector.good)
    clock.at = vector.at
    json.loads(vector.body)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(vector.secrets[0]).verify(vector.body, vector.headers)


@each_good_vector
def test_it_is_a_message_as_we_render_them(vector: Vector) -> None:
    message = json.loads(vector.body)
    created_at_ms = round(datetime.fromisoformat(message["timestamp"]).timestamp() * 1000)
    assert message["type"] in get_args(DeliveryType)
    assert message["version"] == WEBHOOK_VERSION
    if message["type"] == "webhook.ping":
        endpoint = message["data"]["endpoint"]
        assert vector.body == render_ping(endpoint, created_at_ms)
        assert re.fullmatch(rf"ping_[0-9a-f]{{32}}_{endpoint}", vector.headers["webhook-id"])
        return
    JobRecord.model_validate(message["data"])
    ours = render_webhook_body(message["type"], created_at_ms, {}, "id", None, output_too_large=False)
    assert list(message) == list(json.loads(ours))
    assert list(message["data"]) == list(json.loads(ours)["data"])
    assert message["sequence"] == message["data"]["round"]
    status = message["type"].removeprefix("job.")
    expected = rf"{message['data']['id']}_{message['sequence']}_{status}(_[0-9a-f]{{32}})?"
    assert re.fullmatch(expected, vector.headers["webhook-id"])
