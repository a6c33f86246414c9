"""install.sh on a new Debian: a dry run, one that is cut off, its repetition, a first job, a second run."""

from __future__ import annotations

import json
import re
import shlex
import stat
from pathlib import Path

import pytest

from tests.deploy.new_machine import NewMachine
from tests.servers import wait_until

INSTALL = "/source/deploy/scripts/install.sh"
NAME = "agents.example.com"
APP, DATA, LOGS = "opt/multi-agent-service", "var/lib/multi-agent-service", "var/log/multi-agent-service"
CURL = ("curl", "--silent", "--noproxy", "*")
KEY = re.compile(r"\bmas_\w+")
# What a running machine changes by itself.
ALIVE = (DATA, "var/log", "var/lib/postgresql", "run", "tmp", "root", "var/tmp")
# Who owns what, and who may do what with it: root's is what the service must not change.
OWNED = {
    APP: "root:root 755",
    f"{APP}/releases": "root:root 755",
    f"{APP}/tools/uv/bin/uv": "root:root 755",
    f"{APP}/current/gateway/main.py": "root:root 644",
    f"{APP}/.env": "multiagent:multiagent 600",
    f"{APP}/graphs": "root:multiagent 750",
    f"{APP}/graphs/langgraph.json": "root:root 644",
    f"{APP}/teams": "root:multiagent 750",
    DATA: "multiagent:multiagent 700",
    f"{DATA}/redis": "multiagent:multiagent 700",
    f"{DATA}/redis/redis.sock": "multiagent:multiagent 700",
    LOGS: "root:multiagent 1770",
    f"{LOGS}/supervisor": "root:multiagent 750",
    f"{LOGS}/app.log": "multiagent:multiagent 640",
    "var/backups/multi-agent-service": "root:root 700",
    "etc/supervisor/conf.d/multi-agent-redis.conf": "root:root 644",
    "etc/supervisor/conf.d/multi-agent-service.conf": "root:root 644",
    "etc/logrotate.d/multi-agent-service": "root:root 644",
    "etc/nginx/sites-available/multi-agent-service.conf": "root:root 644",
    "etc/ssl/multi-agent-service/privkey.pem": "root:root 600",
}


@pytest.fixture(scope="module")
def dry_run(new_machine: NewMachine) -> str:
    """What a dry run has said on the new machine, which it has not changed."""
    before = new_machine.tree()
    said = new_machine.check(INSTALL, "--dry-run", "--server-name", NAME)
    assert new_machine.tree() == before
    return said


@pytest.fixture(scope="module")
def installed(new_machine: NewMachine, dry_run: str) -> str:
    """What the installer has printed, after a first one that was cut off while it made the release."""
    first = new_machine.start(INSTALL, "--server-name", NAME)
    releases = new_machine.root / APP / "releases"
    wait_until(lambda: any(releases.glob(".incoming-*/code/.venv/lib")) or first.poll() is not None, 300)
    new_machine.cut_power()
    output, _ = first.communicate(timeout=30)
    assert first.returncode != 0, output
    assert not (new_machine.root / APP / "current").is_symlink()
    done = new_machine.run(INSTALL, "--server-name", NAME)
    assert done.returncode == 0, f"{output}\n\nAND THEN\n{done.stdout}\n{new_machine.logs()}"
    return done.stdout


@pytest.fixture(scope="module")
def key(installed: str) -> str:
    """The first API key: shown once."""
    (found,) = KEY.findall(installed)
    return str(found)


def test_a_dry_run_says_each_step_and_changes_nothing(dry_run: str) -> None:
    for command in (
        "install ca-certificates curl openssl logrotate python3-venv supervisor nginx postgresql",
        "useradd --system --user-group --home-dir /var/lib/multi-agent-service --no-create-home",
        "tools/uv/bin/python -m pip install",
        "release.sh --source /source",
        "write /opt/multi-agent-service/.env (mode 0600)",
        "python -m worker install",
        "createuser --no-superuser",
        "createdb --owner multiagent",
        "write /etc/supervisor/conf.d/multi-agent-redis.conf",
        "write /etc/nginx/sites-available/multi-agent-service.conf",
        "gateway keys create",
    ):
        assert command in dry_run, command
    assert KEY.search(dry_run) is None


def test_an_installation_that_was_cut_off_is_finished_by_the_next_one(new_machine: NewMachine, installed: str) -> None:
    releases = [path.name for path in (new_machine.root / APP / "releases").iterdir() if path.is_dir()]
    assert len(releases) == 1, releases
    assert re.fullmatch(r"\d{14}-local", releases[0])
    assert "The service is up: ok" in installed


def test_the_services_user_cannot_log_in_and_is_in_no_other_group(new_machine: NewMachine, installed: str) -> None:
    assert new_machine.check("passwd", "--status", "multiagent").split()[1] == "L"
    assert new_machine.check("getent", "passwd", "multiagent").endswith(":/usr/sbin/nologin")
    assert new_machine.check("id", "-nG", "multiagent") == "multiagent"


def test_files_belong_to_whom_they_should(new_machine: NewMachine, installed: str) -> None:
    found = {path: new_machine.check("stat", "-L", "-c", "%U:%G %a", f"/{path}") for path in OWNED}
    assert found == OWNED


def test_the_service_cannot_change_its_code_nor_where_root_writes_its_logs(
    new_machine: NewMachine, installed: str
) -> None:
    for command in (
        "touch /opt/multi-agent-service/current/gateway/new.py",
        "touch /opt/multi-agent-service/current/.venv/lib/new.pth",
        "touch /opt/multi-agent-service/graphs/new.py",
        "mv /var/log/multi-agent-service/supervisor /var/log/multi-agent-service/other",
        "touch /var/log/multi-agent-service/supervisor/new.log",
    ):
        done = new_machine.run("runuser", "-u", "multiagent", "--", *shlex.split(command))
        assert done.returncode != 0, command
        assert "Permission denied" in done.stdout or "not permitted" in done.stdout, done.stdout


def test_no_process_of_the_service_runs_as_root(new_machine: NewMachine, installed: str) -> None:
    uid = int(new_machine.check("id", "-u", "multiagent"))
    current = (new_machine.root / APP / "current").resolve()
    in_release = [
        process for process in new_machine.processes() if process.cwd().endswith(f"/{APP}/releases/{current.name}")
    ]
    assert len(in_release) >= 1 + 4 + 2  # the gateway with its children, and the workers
    assert {process.uids().real for process in in_release} == {uid}


def test_settings_have_a_key_of_their_own_and_the_machines_name(new_machine: NewMachine, installed: str) -> None:
    lines = (new_machine.root / APP / ".env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert re.fullmatch(r"[0-9a-f]{64}", settings["SECRET_KEY"])
    assert settings["ALLOWED_HOSTS"] == f"{NAME},localhost,127.0.0.1"
    assert settings["SECRET_KEY"] not in installed


def test_a_first_job_succeeds_through_nginx_over_tls_with_the_key_that_was_shown(
    new_machine: NewMachine, key: str
) -> None:
    new_machine.root.joinpath("root/header").write_text(f"Authorization: Bearer {key}\n")
    body = {"graph": "customer_service", "input": {"messages": [{"role": "user", "content": "Where is my order?"}]}}
    curl = (
        *CURL, "--show-error", "--fail-with-body", "--header", "@/root/header",
        "--cacert", "/etc/ssl/multi-agent-service/fullchain.pem", "--resolve", f"{NAME}:443:127.0.0.1",
    )  # fmt: skip
    json_type = ("--header", "Content-Type: application/json")
    made = new_machine.check(*curl, *json_type, "--data", json.dumps(body), f"https://{NAME}/api/v1/jobs")
    done = json.loads(new_machine.check(*curl, f"https://{NAME}/api/v1/jobs/{json.loads(made)['id']}?wait=30"))
    assert done["status"] == "succeeded", done
    redirected = new_machine.check(*CURL, "--head", "--resolve", f"{NAME}:80:127.0.0.1", f"http://{NAME}/api/v1/health")
    assert f"Location: https://{NAME}/api/v1/health" in redirected


def test_a_second_run_changes_nothing_and_shows_no_second_key(new_machine: NewMachine, key: str) -> None:
    before = new_machine.tree(*ALIVE)
    said = new_machine.check(INSTALL)  # without a name, too: .env has it
    assert "Nothing had to be changed." in said
    assert KEY.search(said) is None
    after = new_machine.tree(*ALIVE)
    assert {path: after.get(path) for path in before | after if before.get(path) != after.get(path)} == {}


def test_a_later_run_puts_right_what_is_missing_and_keeps_what_was_changed_by_hand(
    new_machine: NewMachine, key: str
) -> None:
    env = new_machine.root / APP / ".env"
    settings = env.read_text() + "LOG_LEVEL=WARNING\n"
    env.write_text(settings)
    env.chmod(0o644)
    supervised = new_machine.root / "etc/supervisor/conf.d/multi-agent-service.conf"
    supervised.write_text(supervised.read_text().replace("numprocs=2", "numprocs=1"))
    (new_machine.root / "etc/logrotate.d/multi-agent-service").unlink()
    new_machine.check("chown", "multiagent", f"/{APP}/graphs")
    new_machine.run("supervisorctl", "stop", "multi-agent-service")
    said = new_machine.check(INSTALL)
    assert env.read_text() == settings
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert "numprocs=1" in supervised.read_text()
    assert "multi-agent-service.conf is not what this release has: it is left as it is" in said
    assert (new_machine.root / "etc/logrotate.d/multi-agent-service").exists()
    assert new_machine.check("stat", "-c", "%U:%G %a", f"/{APP}/graphs") == "root:multiagent 750"
    assert "The service is up: ok" in said
    assert KEY.search(said) is None


def test_a_local_project_of_the_operators_is_installed_and_served(
    new_machine: NewMachine, key: str, tmp_path: Path
) -> None:
    graphs = new_machine.root / APP / "graphs"
    (graphs / "requirements.txt").write_text("iniconfig\n")
    (graphs / "own.py").write_text("import iniconfig\nfrom worker.graphs.customer_service import graph\n")
    config = {"dependencies": ["."], "graphs": {"own": "./own.py:graph"}}
    (graphs / "langgraph.json").write_text(json.dumps(config))
    new_machine.check(INSTALL)
    new_machine.check("supervisorctl", "restart", "multi-agent-worker:*")
    header = f"Authorization: Bearer {key}"
    own = "http://127.0.0.1:8000/api/v1/graphs/own"
    wait_until(lambda: new_machine.run(*CURL, "--fail", "--header", header, own).returncode == 0, 60)
    assert json.loads(new_machine.check(*CURL, "--fail", "--header", header, own))["error"] is None
