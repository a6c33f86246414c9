"""Credentials are taken out of what others say of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared import secrets
from shared.logs import configure_logs
from shared.secrets import credentials, hide, masked
from shared.settings import load_settings

SETTINGS = {
    "secret_key": 'a "secret" key with a \\ and ü in it, long',
    "redis_url": "redis+sentinel://me:red%40is-password@a:1,b:2/name?sentinel_password=sentinel-pass",
    "database_url": "postgresql://me:database-password@db/threads",
    "openai_api_key": "sk-of-the-provider",
    "qwen_api_key": "short",
}
EACH = [SETTINGS["secret_key"], "red@is-password", "red%40is-password", "sentinel-pass", "database-password"]
EACH += ["sk-of-the-provider"]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_pattern", secrets._pattern)


def test_every_credential_of_the_settings_is_known() -> None:
    assert credentials(load_settings(**SETTINGS)) == set(EACH)


@pytest.mark.parametrize("secret", EACH)
def test_what_quotes_a_credential_shows_a_mask(secret: str) -> None:
    hide(load_settings(**SETTINGS))
    assert masked(f"wrong key: {secret}.") == "wrong key: [secret]."
    assert masked(json.dumps({"said": secret})) == '{"said": "[secret]"}'


@pytest.mark.parametrize("secret", ["mas_" + "a" * 12 + "_" + "B" * 38, "whsec_" + "A" * 42 + "=="])
def test_keys_of_the_service_itself_are_known_by_their_looks(secret: str) -> None:
    assert masked(f"it was {secret}, or was it?") == "it was [secret], or was it?"


def test_everything_else_stays_as_it_is() -> None:
    hide(load_settings(**SETTINGS))
    for text in ("", "short", "mas_jobs_ended_total", "whsec_…", "me@db", "a key"):
        assert masked(text) == text


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.usefixtures("_logs_as_before")
def test_no_line_of_the_logs_has_one(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logs(load_settings(**SETTINGS, log_format=log_format))
    try:
        raise ValueError("refused: sk-of-the-provider")
    except ValueError:
        structlog.get_logger("t").exception("failed with red@is-password", key=SETTINGS["secret_key"])
        logging.getLogger("theirs").error("theirs: %s", "database-password", exc_info=True)
    said = capsys.readouterr().err
    assert said.count("[secret]") >= 5
    assert [secret for secret in EACH if secret in said] == []
