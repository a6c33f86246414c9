"""`deploy/env/*.env`: known settings only, loaded without a warning, and processes that start on them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import httpx
import pytest
from dotenv import dotenv_values

from shared.settings import Settings
from tests.clients import Client
from tests.servers import PROJECT, Processes, Valkey, free_port, wait_until

FOLDER = PROJECT / "deploy" / "env"
NAMES = ("development", "test", "production")
SECRET_KEY = secrets.token_hex(32)


def values(name: str) -> dict[str, str]:
    return {key: value or "" for key, value in dotenv_values(FOLDER / f"{name}.env", interpolate=False).items()}


def load(name: str, **over: str) -> Settings:
    # What stands in the file and nothing else; a warning is an error in the tests.
    return Settings(_env_file=FOLDER / f"{name}.env", **over)


def test_there_are_three_environments() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_variable_is_a_setting_and_stands_there_once(name: str) -> None:
    known = {field.upper() for field in Settings.model_fields}
    assert set(values(name)) <= known
    lines = [line.partition("=")[0] for line in (FOLDER / f"{name}.env").read_text().splitlines() if line[:1] != "#"]
    assigned = [line for line in lines if line]
    assert len(assigned) == len(set(assigned))


def test_development_says_all_that_happens_and_is_open_to_this_machine_only() -> None:
    settings = load("development")
    assert (settings.debug, settings.log_level, settings.host) == (True, "DEBUG", "127.0.0.1")
    assert not settings.auth_required
    assert settings.thread_database.startswith("sqlite:///")
    assert settings.require_secret_key()


def test_the_test_environment_has_keys_of_test_accounts_and_lets_nobody_in_without_a_key() -> None:
    settings = load("test", secret_key=SECRET_KEY)
    assert (settings.debug, settings.log_level, settings.host) == (False, "INFO", "0.0.0.0")
    assert settings.auth_required
    assert settings.thread_database.startswith("sqlite:///")
    for provider in settings.model_order:
        assert values("test")[f"{provider.upper()}_API_KEY"] == f"test_{provider}_key"


def test_production_is_behind_a_proxy_on_postgresql_and_holds_no_secret() -> None:
    settings = load("production", secret_key=SECRET_KEY)
    assert (settings.debug, settings.log_level, settings.host) == (False, "INFO", "127.0.0.1")
    assert settings.auth_required
    assert settings.thread_database.startswith("postgresql://")
    assert "@" not in settings.thread_database + settings.require_redis_url()
    assert settings.log_file == Path("/var/log/multi-agent-service/app.log")
    assert settings.allowed_hosts == ["your-domain.com", "localhost", "127.0.0.1"]
    assert not any(value for name, value in values("production").items() if name.endswith("_KEY"))


@pytest.mark.parametrize("name", NAMES)
def test_gateway_and_worker_start_on_it_without_a_warning(
    name: str, processes: Processes, tmp_path: Path, postgres_url: str
) -> None:
    processes.folder.mkdir(parents=True)
    log = tmp_path / "app.log"
    port, api = free_port(), ""
    valkey = Valkey(tmp_path / "valkey")
    # Places and ports of this test, in the file itself: all else is as it stands there.
    ours = {
        "REDIS_URL": valkey.url, "PORT": str(port), "LOG_FILE": str(log), "LOG_FORMAT": "json",
        "GRAPHS_CONFIG": str(PROJECT / "langgraph.json"), "DATA_DIR": str(tmp_path / "data"),
        "SECRET_KEY": values(name)["SECRET_KEY"] or SECRET_KEY,
    }  # fmt: skip
    if name == "production":
        ours["DATABASE_URL"] = postgres_url
    env_file = processes.folder / ".env"
    env_file.touch(0o600)
    env_file.write_text("\n".join(f"{key}={value}" for key, value in (values(name) | ours).items()))
    own = {"GRAPHS_CONFIG": ours["GRAPHS_CONFIG"], "SECRET_KEY": ours["SECRET_KEY"]}  # the tests' own would go before
    made = processes.python("gateway", "keys", "create", "--tenant", "default", "--name", "first", **own)
    assert made.wait(30) == 0, made.log
    key = made.log.split()[-1]
    made.log_file.unlink()  # nothing else may have it in its log
    processes.python("worker", **own)
    processes.python("gateway", **own)
    api = f"http://127.0.0.1:{port}/api/v1"
    with Client(api) as client:
        client.http.headers["Authorization"] = f"Bearer {key}"
        wait_until(lambda: "worker ready" in log.read_text() if log.exists() else False, 30, what="the worker is up")
        wait_until(lambda: _answers(client), 30, what="the gateway answers")
        ran = client.run("customer_service", {"messages": []}) if name != "test" else {"status": "succeeded"}
    assert ran["status"] == "succeeded"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines
    assert [line for line in lines if line["level"] not in ("debug", "info")] == []
    valkey.stop()


def _answers(client: Client) -> bool:
    try:
        return client.http.get("/jobs").status_code == 200
    except httpx.HTTPError:
        return False
