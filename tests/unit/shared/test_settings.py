"""The settings: what is read, what is refused, and that `.env.example` tells of all of them."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import Settings, SettingsError, is_loopback, load_settings

EXAMPLE = Path(__file__).resolve().parents[3] / ".env.example"


def as_written(value: Any) -> str:
    """How a default stands in an environment file."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case Enum():
            return str(value.value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def test_every_setting_has_a_line_with_its_default_in_the_example_and_no_other_has() -> None:
    lines = dict(re.findall(r"^#([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    defaults = {name.upper(): as_written(field.default) for name, field in Settings.model_fields.items()}
    assert lines == defaults


def test_the_example_with_all_its_lines_in_force_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert Settings(_env_file=file) == Settings()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "0"),
        ("PORT", "http"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("DEBUG", "perhaps"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("DATABASE_URL", "mysql://127.0.0.1/threads"),
        ("DATABASE_URL", "sqlite://threads.db"),
        ("DATABASE_URL", "postgresql://me:pass%zz@127.0.0.1/threads"),
        ("DATABASE_URL", "postgresql://me:pass/word@127.0.0.1/threads"),
        ("DATABASE_URL", "postgresql://me@a:5432,b:port/threads"),
        ("SECRET_KEY", "thirty-one characters are short"),
        ("SECRET_KEY", "k" * 32),
        ("SECRET_KEY", "0123456789abcdef" * 2),
        ("SECRET_KEY", "please-changeme-to-something-random"),
        ("CORS_ORIGINS", "pages.test"),
        ("CORS_ORIGINS", "https://pages.test/"),
        ("CORS_ORIGINS", "https://*.pages.test"),
        ("CORS_ORIGINS", "null"),
        ("TRUSTED_PROXIES", "10.1.2.3/8"),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("GATEWAY_WORKERS", "0"),
        ("MAX_ATTEMPTS", "21"),
        ("LEASE_SECONDS", "0"),
        ("DRAIN_SECONDS", "-1"),
        ("MAX_BODY_BYTES", "-1"),
        ("WORKER_QUEUES", ","),
        ("WORKER_QUEUES", "default,two words"),
        ("WORKER_ROLES", "jobs,cleaning"),
        ("MODEL_ORDER", "qwen,unknown"),
        ("WEBHOOK_ALLOW_NETWORKS", "10.0.0.0/8,intranet"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_not_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    message = str(error.value)
    assert message.startswith(f"{name} is wrong: ")
    assert "\n" not in message
    if len(value) > 5:
        assert value not in message


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    settings = load_settings()
    assert settings == Settings.model_construct()
    assert settings.model_fields_set == set()


def test_lists_are_comma_separated_and_spaces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_QUEUES", " default, slow ,")
    monkeypatch.setenv("WEBHOOK_ALLOW_NETWORKS", "10.0.0.0/8, ::1/128")
    monkeypatch.setenv("MODEL_ORDER", "openai,glm")
    settings = load_settings()
    assert settings.worker_queues == ["default", "slow"]
    assert [str(network) for network in settings.webhook_allow_networks] == ["10.0.0.0/8", "::1/128"]
    assert settings.model_order == ["openai", "glm"]


def test_the_environment_goes_before_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=9001\nLOG_LEVEL=WARNING\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PORT", "9002")
    settings = Settings(_env_file=file)  # type: ignore[call-arg]
    assert (settings.port, settings.log_level) == (9002, "WARNING")


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "QWEN_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "planted-0123456789-abcdefghijklmno")
    monkeypatch.setenv("REDIS_URL", "redis://:planted@127.0.0.1/0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:planted@127.0.0.1/threads")
    settings = load_settings()
    assert "planted" not in f"{settings!r} {settings!s} {settings.model_dump()!r}"


def test_without_redis_the_error_says_both_ways_out() -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL is not set.*redis://.*--dev"):
        load_settings().require_redis_url()


def test_without_a_secret_key_the_error_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match=r"SECRET_KEY is not set.*openssl rand"):
        load_settings().require_secret_key()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.0.0.1.example.com"])
def test_authentication_is_switched_off_on_loopback_only(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_REQUIRED", "false")
    monkeypatch.setenv("HOST", host)
    with pytest.raises(SettingsError, match="AUTH_REQUIRED=false"):
        load_settings()
    monkeypatch.setenv("HOST", "127.0.0.1")
    assert not load_settings().auth_required


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "[::1]"])
def test_loopback_has_many_names(host: str) -> None:
    assert is_loopback(host)


@given(st.text())
def test_no_text_makes_the_loopback_check_fail(host: str) -> None:
    is_loopback(host)


def test_threads_go_to_a_file_in_the_data_dir_unless_a_database_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "/srv/data")
    assert load_settings().thread_database == "sqlite:////srv/data/threads.db"
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@127.0.0.1/threads")
    assert load_settings().thread_database == "postgresql://me@127.0.0.1/threads"
