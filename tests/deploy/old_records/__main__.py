"""Make records with the code of a commit, or read some with it: other versions than today's are tried by hand.

    python -m tests.deploy.old_records make 6d691c4 FOLDER    real processes of that commit leave records there
    python -m tests.deploy.old_records read FOLDER            today's code reads them
    python -m tests.deploy.old_records read FOLDER --gateway 6d691c4 --worker 6d691c4    as after a rollback

`.` is the code as it lies here. A FOLDER that the tests read is named after its commit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deploy.old_records.making import make
from tests.deploy.old_records.reading import read
from tests.deploy.old_records.services import Service, keep, laid_out
from tests.servers import PROJECT


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.deploy.old_records",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("commit")
    making.add_argument("folder", type=Path)
    reading = commands.add_parser("read")
    reading.add_argument("folder", type=Path)
    reading.add_argument("--gateway", default=".")
    reading.add_argument("--worker", default=".")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if asked.command == "make":
            code = _checkout(asked.commit, place)
            auth = (code / "gateway" / "keys.py").exists()
            with Service(place / "service", gateway=code, worker=code, auth=auth) as service:
                facts = make(service)
                keep(service, asked.folder)
            (asked.folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        else:
            facts = json.loads((asked.folder / "facts.json").read_text())
            checkouts = {"gateway": _checkout(asked.gateway, place), "worker": _checkout(asked.worker, place)}
            with Service(laid_out(asked.folder, place / "service"), auth=bool(facts["keys"]), **checkouts) as service:
                read(service, facts)
    return 0


def _checkout(commit: str, place: Path) -> Path:
    """The code of this commit, without its history."""
    if commit == ".":
        return PROJECT
    folder = place / commit
    if not folder.exists():
        folder.mkdir()
        archive = subprocess.run(["git", "-C", PROJECT, "archive", commit], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
