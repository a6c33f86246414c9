"""Today's gateway and workers go on with what older versions of this project left on the disks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy.old_records.reading import read
from tests.deploy.old_records.services import Service, laid_out
from tests.servers import PROJECT

RECORDS = sorted(facts.parent for facts in (PROJECT / "tests/deploy/old_records").glob("*/facts.json"))


def test_there_are_records_of_older_versions() -> None:
    assert len(RECORDS) >= 2


@pytest.mark.parametrize("records", RECORDS, ids=lambda path: path.name)
def test_records_of_an_older_version_are_read_and_what_was_unfinished_ends(records: Path, tmp_path: Path) -> None:
    facts = json.loads((records / "facts.json").read_text())
    with Service(laid_out(records, tmp_path / "service"), auth=bool(facts["keys"])) as service:
        read(service, facts)
