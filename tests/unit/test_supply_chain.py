"""What the service is made of: packages locked to their hashes, and no check for unsafe code switched off unsaid."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tests.servers import PROJECT

OURS = [name for name in ("gateway", "worker", "shared", "deploy") if (PROJECT / name).is_dir()]
HASH = re.compile(r"sha256:[0-9a-f]{64}")


def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((PROJECT / name).read_text("utf-8"))


def test_every_locked_package_comes_from_the_index_and_has_a_hash_for_each_file() -> None:
    packages = _toml("uv.lock")["package"]
    assert len(packages) > 100
    for package in packages:
        if package["source"] == {"virtual": "."}:  # the project itself
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        for file in files:
            assert HASH.fullmatch(file["hash"]), file


def test_installing_goes_by_the_lock_file() -> None:
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    assert re.findall(r"\$\(UV\) sync.*", makefile)
    assert all("--locked" in line for line in re.findall(r"\$\(UV\) sync.*", makefile))


def test_the_checks_for_unsafe_code_are_on_for_all_that_runs_in_production() -> None:
    lint = _toml("pyproject.toml")["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    ignored = {folder: codes for folder, codes in lint["per-file-ignores"].items() if folder.startswith(tuple(OURS))}
    everywhere = lint["ignore"] + [code for codes in ignored.values() for code in codes]
    assert [code for code in everywhere if code.startswith("S")] == []


def _exceptions() -> Iterator[tuple[str, str]]:
    for folder in OURS:
        for path in (PROJECT / folder).rglob("*.py"):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if "noqa" in line:
                    yield f"{path.relative_to(PROJECT)}:{number}", line[line.index("noqa") :]


def test_each_exception_from_them_says_why() -> None:
    found = dict(_exceptions())
    assert found
    for place, said in found.items():
        assert re.match(r"noqa: [A-Z]+[0-9]+", said), f"{place} switches everything off"
        if re.search(r"\bS[0-9]{3}\b", said):
            assert re.fullmatch(r"noqa: S[0-9]{3} - .{10,}", said), place
