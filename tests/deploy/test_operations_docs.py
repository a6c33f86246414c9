"""What the operator's pages name exists: files, settings, metrics, routes, log lines, commands and their options."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.main import create_app
from shared.settings import Settings
from tests.servers import PROJECT, SECRET_KEY

PAGES = [PROJECT / "docs" / "operations.md", *sorted((PROJECT / "docs" / "operations").glob("*.md"))]
SCRIPTS = {script.name: script for script in (PROJECT / "deploy").rglob("*.sh")}
SYMPTOMS = ["does-not-start", "slow", "memory-grows", "queue-grows", "webhooks-missing", "redis"]
# What only looks like one of our settings: the guide's, and a placeholder of pages.
NO_SETTINGS = {"UVICORN_CONFIG", "YOUR_DOMAIN"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


@every_page
def test_links_and_their_anchors_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


@every_page
def test_settings_are_known(page: Path) -> None:
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", page.read_text()))
    settings = {name.upper() for name in Settings.model_fields}
    assert {
        name for name in named - settings - NO_SETTINGS if name not in sources() and not name.startswith("UV_")
    } == set()


@every_page
def test_metrics_are_counted(page: Path) -> None:
    known = set(re.findall(r"mas_[a-z_]+[a-z]", sources()))
    known |= {f"{name}_{suffix}" for name in known for suffix in ("total", "bucket", "sum", "count", "created")}
    text = page.read_text()
    assert set(re.findall(r"\bmas_[a-z_]+[a-z]\b(?![0-9])", text)) - known == set()
    for group in re.findall(r"\bmas_([a-z_]*\([a-z_|]+\))", text):
        start, _, rest = group.partition("(")
        for part in rest.rstrip(")").split("|"):
            assert any(name.startswith(f"mas_{start}{part}") for name in known), f"mas_{start}{part}"


@every_page
def test_log_lines_are_said(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r'\.event\s*==\s*\\?"([^"\\]+)', text))
    named |= set(re.findall(r"""grep '"([^'"]+)"'""", text)) | set(re.findall(r"log lines? `([^`]+)`", text))
    assert {event for event in named if not any(said.startswith(event) for said in events())} == set()


@every_page
def test_routes_are_served(page: Path) -> None:
    settings = Settings(secret_key=SECRET_KEY, redis_url="redis://127.0.0.1:1/0")
    served = [
        re.compile(re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(path)) + "$")
        for path in [*create_app(settings).openapi()["paths"], "/docs", "/openapi.json"]
    ]
    text = page.read_text()
    named = set(re.findall(r"/api/v1(?:/[\w$:{}.-]+)*", text))
    named |= {f"/api/v1{path}" for path in re.findall(r"(?:GET|POST|PUT|PATCH|DELETE) (/(?!api/)[\w{}/]+)", text)}
    assert {path for path in named if not any(one.match(path.rstrip(".")) for one in served)} == set()


@every_page
def test_files_of_the_project_are_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w.-])(?:deploy|bench|tests|examples)/[\w./@*-]*[\w*]", page.read_text()))
    assert {path for path in named if not any(PROJECT.glob(path))} == set()


@every_page
def test_scripts_have_the_options_that_they_are_called_with(page: Path) -> None:
    for name, rest in re.findall(r"\b([a-z_]+\.sh)((?: +[^\s|;`)]+)*)", page.read_text()):
        assert name in SCRIPTS, name
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest) if name != "run.sh" else ():
            assert re.search(rf"{option}(?![a-z-])", script_usage(name)), f"{name} {option}"


@every_page
def test_modules_parts_and_targets_that_are_run_exist(page: Path) -> None:
    text = page.read_text()
    for module in set(re.findall(r"(?:^|[^.\w])python -m ([a-zA-Z_.]+)", text)):
        assert find_spec(module), module
    from bench.__main__ import PARTS

    for part in set(re.findall(r"python -m bench ([a-z]+)", text)):
        assert part in PARTS or part in {"soak", "budget", "capacity"}, part
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= targets


@every_page
def test_commands_of_the_gateway_take_what_they_are_given(page: Path) -> None:
    for command, rest in sorted(
        set(re.findall(r"\bgateway (keys [a-z]+|webhook-secret)([^`\n|;)]*)", page.read_text()))
    ):
        said = usage(command)
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in said, f"gateway {command} {option}"


@every_page
def test_programs_are_those_of_supervisor_and_systemd(page: Path) -> None:
    files = [*(PROJECT / "deploy" / "supervisor").glob("*.conf")]
    programs = {name for file in files for name in re.findall(r"\[program:([^]]+)\]", file.read_text())}
    for line in re.findall(
        r"supervisorctl (?:start|stop|restart|tail|status|signal [A-Z]+|pid) ([^\n`;|&]+)", page.read_text()
    ):
        for name in re.findall(r"multi-agent-[a-z]+", line):
            assert name in programs, line


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_each_symptom_has_its_place(symptom: str) -> None:
    assert symptom in anchors(PROJECT / "docs" / "operations" / "troubleshooting.md")


def test_what_files_of_deploy_say_of_pages_leads_there() -> None:
    for file in (PROJECT / "deploy").rglob("*"):
        if not file.is_file():
            continue
        for name, anchor in re.findall(r"docs/(operations[\w/-]*\.md)(?:#([\w-]+))?", file.read_text(errors="replace")):
            page = PROJECT / "docs" / name
            assert page.exists(), f"{file}: {name}"
            assert not anchor or anchor in anchors(page), f"{file}: {name}#{anchor}"


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as Markdown pages on the usual hosts get them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings)


@cache
def sources() -> str:
    """All that the service's own code, its example of settings and its deployment files say."""
    return "\n".join(file.read_text(errors="replace") for file in _sources())


def _sources() -> Iterator[Path]:
    yield from (PROJECT / ".env.example", PROJECT / "docker-compose.yml")
    for folder in ("gateway", "worker", "shared", "deploy"):
        yield from (
            file
            for file in (PROJECT / folder).rglob("*")
            if file.is_file() and "static" not in file.parts and file.suffix != ".pyc"
        )


@cache
def events() -> frozenset[str]:
    """What is logged: the first argument of each call of a logger, and texts that have a name."""
    found = set()
    for file in _sources():
        if file.suffix == ".py":
            found |= {
                node.value for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }  # fmt: skip
    return frozenset(found)


@cache
def usage(command: str) -> str:
    asked = [sys.executable, "-m", "gateway", *command.split(), "--help"]
    done = subprocess.run(asked, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"gateway {command}: {done.stderr}"
    return done.stdout


@cache
def script_usage(name: str) -> str:
    done = subprocess.run([SCRIPTS[name], "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{name} --help: {done.stderr}"
    return done.stdout
