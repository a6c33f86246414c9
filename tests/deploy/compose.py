"""The compose files as docker compose itself reads them: merged, with variables substituted. No engine is needed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.deploy.programs import next_program
from tests.servers import PROJECT

BASE = PROJECT / "docker-compose.yml"
DEVELOPMENT, MONITORING = (PROJECT / "deploy" / "docker" / f"compose.{name}.yml" for name in ("dev", "monitoring"))
# What deploy/docker/prepare.sh puts into .env.
SECRETS = {
    "DOMAIN": "agents.example.com",
    **{
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("SECRET_KEY", "REDIS_PASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD")
    },
}


def compose(*arguments: str, files: tuple[Path, ...] = (BASE,), **variables: str) -> subprocess.CompletedProcess[str]:
    """`docker compose` on these files, with these variables as its .env."""
    with tempfile.NamedTemporaryFile("w", suffix=".env") as env_file:
        env_file.writelines(f"{name}={value}\n" for name, value in variables.items())
        env_file.flush()
        chosen = [part for file in files for part in ("--file", str(file))]
        return subprocess.run(
            [*next_program("usr/bin/docker-compose"), "--env-file", env_file.name, *chosen, *arguments],
            env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


def resolved(*files: Path, **variables: str) -> dict[str, Any]:
    """What `docker compose config` makes of them. Raises `AssertionError` with its words where it refuses."""
    done = compose("config", "--format", "json", files=files or (BASE,), **{**SECRETS, **variables})
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    return dict(json.loads(done.stdout.replace("$$", "$")))  # written as a compose file, where $ stands for a variable
