"""Secrets and signatures: what receivers verify with the `standardwebhooks` library is what we sign."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from shared.signing import check_secret, default_secret, new_secret, seal, sign_headers, unseal

SECRET_KEY = "k" * 32
ROOT = Path(__file__).parents[3]


def secret_of(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


def test_the_default_secret_is_one_that_a_receiver_can_use() -> None:
    check_secret(default_secret(SECRET_KEY, "acme"))


def test_the_default_secret_never_changes_by_itself() -> None:
    assert default_secret("0123456789abcdef0123456789abcdef", "default") == (
        "whsec_DIxAzP30NhuPSJjnk2DeQA5+aviDwfOikNMz/4xWuvI="
    )


def test_each_tenant_and_each_secret_key_has_its_own_default_secret() -> None:
    secrets = {default_secret(key, tenant) for key in (SECRET_KEY, "l" * 32) for tenant in ("acme", "globex")}
    assert len(secrets) == 4


@given(st.text(), st.text(min_size=1, alphabet=st.characters(codec="ascii", categories=["L", "N"])))
def test_what_is_signed_verifies(text: str, message_id: str) -> None:
    body = text.encode("utf-8", "ignore")
    headers = sign_headers([default_secret(SECRET_KEY, "acme")], message_id, datetime.now(UTC), body)
    Webhook(default_secret(SECRET_KEY, "acme")).verify(body, headers, json_parse=False)


def test_a_changed_body_an_other_id_or_an_other_secret_does_not_verify() -> None:
    secret = secret_of(32)
    headers = sign_headers([secret], "job_1_succeeded", datetime.now(UTC), b'{"a":1}')
    for receiver_secret, body, changed in [
        (secret, b'{"a":2}', headers),
        (secret, b'{"a":1}', headers | {"webhook-id": "job_2_succeeded"}),
        (secret_of(33), b'{"a":1}', headers),
    ]:
        with pytest.raises(WebhookVerificationError):
            Webhook(receiver_secret).verify(body, changed)


def test_the_time_of_the_try_is_signed_whatever_zone_it_is_given_in() -> None:
    secret, noon = secret_of(24), datetime.now(UTC)
    in_tokyo = noon.astimezone(timezone(timedelta(hours=9)))
    assert sign_headers([secret], "id", in_tokyo, b"{}") == sign_headers([secret], "id", noon, b"{}")
    assert sign_headers([secret], "id", in_tokyo, b"{}")["webhook-timestamp"] == str(int(noon.timestamp()))
    Webhook(secret).verify(b"{}", sign_headers([secret], "id", in_tokyo, b"{}"))


def test_during_a_rotation_the_old_and_the_new_secret_verify() -> None:
    old, new = secret_of(24), secret_of(64)
    headers = sign_headers([new, old], "id", datetime.now(UTC), b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(b"{}", headers)


def test_a_new_secret_is_one_that_a_receiver_can_use_and_another_each_time() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        check_secret(secret)
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_of_24_to_64_bytes_is_taken(size: int) -> None:
    check_secret(secret_of(size))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        secret_of(23),
        secret_of(65),
        secret_of(32).removeprefix("whsec_"),
        secret_of(32).rstrip("="),
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "whsec_" + "é" * 40,
        secret_of(32) + "\n",
    ],
)
def test_a_secret_that_receivers_could_read_otherwise_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError, match="a webhook secret") as refused:
        check_secret(secret)
    assert len(secret) < 10 or secret.removeprefix("whsec_")[:10] not in str(refused.value)


def test_a_sealed_secret_is_unreadable_and_comes_back() -> None:
    secret = secret_of(32)
    token = seal(SECRET_KEY, secret)
    assert secret not in token
    assert secret.encode() not in base64.urlsafe_b64decode(token)
    assert token != seal(SECRET_KEY, secret)
    assert unseal(SECRET_KEY, token) == secret


@pytest.mark.parametrize("spoil", [lambda token: "x" + token[1:], lambda token: token[:-8], lambda token: "é"])
def test_an_altered_token_is_refused(spoil: Any) -> None:
    with pytest.raises(ValueError, match="another SECRET_KEY"):
        unseal(SECRET_KEY, spoil(seal(SECRET_KEY, "whsec_x")))


def test_a_token_of_another_secret_key_is_refused() -> None:
    tokens = {key: seal(key, "whsec_x") for key in (SECRET_KEY, "l" * 32)}
    for _ in range(2):  # whichever key was used before
        assert [unseal(key, token) for key, token in tokens.items()] == ["whsec_x", "whsec_x"]
        with pytest.raises(ValueError, match="another SECRET_KEY"):
            unseal("l" * 32, tokens[SECRET_KEY])


def test_the_example_in_the_documentation_verifies_what_we_send() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text("utf-8"), re.DOTALL)
    assert code is not None
    example: dict[str, Any] = {}
    secret = default_secret(SECRET_KEY, "acme")
    exec(code[1].replace("whsec_…", secret), example)  # noqa: S102
    body = b'{"type":"job.succeeded","timestamp":"2026-01-31T12:00:00.000Z","data":{"id":"1"}}'
    headers = sign_headers([secret], "1_1_succeeded", datetime.now(UTC), body)
    assert example["read_webhook"](headers, body)["data"]["id"] == "1"
    with pytest.raises(WebhookVerificationError):
        example["read_webhook"](headers, body + b" ")
