"""What all chaos tests share: their figures, on the terminal and in `reports/chaos.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import PROJECT


@pytest.fixture
def report(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print a run's figures, and keep them in `reports/chaos.json` under the test's name."""

    def write(**figures: Any) -> None:
        file = PROJECT / "reports" / "chaos.json"
        file.parent.mkdir(exist_ok=True)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | {request.node.name: figures}, indent=2) + "\n")
        with capsys.disabled():
            print(f"\n{request.node.name}")
            for name, value in figures.items():
                print(f"  {name.replace('_', ' ')}: {value}")

    return write
