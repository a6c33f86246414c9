"""What all tests share: settings that come from the test alone, and real servers, started when the first test asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.servers import GIVEN, PostgreSQL, Processes, Valkey

API_KEY = re.compile(r"mas_[0-9a-z]{12}_[0-9A-Za-z]{38}")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Settings.model_config, "env_file", None)
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_credential_in_any_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end of the run: no log has a credential in it that its process, or another, was given; nor an API key."""
    yield
    for log in tmp_path_factory.getbasetemp().rglob("*.log"):
        text = log.read_text(errors="replace")
        assert not [secret for secret in GIVEN if secret in text], f"{log} has a credential in it"
        assert not API_KEY.search(text), f"{log} has an API key in it"


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One Valkey for the whole run. A test that stops or fills it starts a `Valkey` of its own instead."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey_url(valkey_server: Valkey) -> str:
    """The address of a real, empty Valkey."""
    valkey_server.flush()
    return valkey_server.url


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """One PostgreSQL for the whole run."""
    server = PostgreSQL(tmp_path_factory.mktemp("postgres") / "data")
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgreSQL) -> str:
    """The address of an empty database on a real PostgreSQL."""
    return postgres_server.new_database()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts real processes, and ends them with the test."""
    with Processes(tmp_path / "processes") as started:
        yield started
