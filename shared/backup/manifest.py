"""What a backup says of itself."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from shared.backup.errors import BackupError

FORMAT = 1


def manifest(facts: Sequence[str], versions: Mapping[str, str], *, counts: Mapping[str, int]) -> str:
    """The manifest as JSON: `facts` are `name=value`, `counts` what the check found, none where it was left out."""
    known = dict(fact.split("=", 1) for fact in facts)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    versions = {"python": platform.python_version(), **versions}
    return json.dumps(
        {"format": FORMAT, "created": created, **known, "versions": versions, "counts": counts},
        indent=2,
        sort_keys=True,
    )


def compare(known: Mapping[str, Any], found: Mapping[str, int]) -> None:
    """Raise `BackupError` where this manifest is of another format, or counted otherwise than was found."""
    if known.get("format") != FORMAT:
        raise BackupError(f"this backup has format {known.get('format')}, and this release knows {FORMAT}")
    counted = known["counts"]
    if counted and counted != found:
        wrong = [
            f"{name}: {counted.get(name, 0)} were kept, {found.get(name, 0)} are there"
            for name in sorted({*counted, *found})
            if counted.get(name) != found.get(name)
        ]
        raise BackupError("; ".join(wrong))
