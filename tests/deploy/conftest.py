"""A machine for the tests of a file, with the real supervisord and the service under it; services to back up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.kept_service import PASSWORD, KeptService
from tests.deploy.machine import Machine
from tests.deploy.new_machine import CannotBeMade, NewMachine
from tests.servers import PostgreSQL, Processes

# Minutes, where all others are seconds: begun last, one would be left to run alone (by `--no-loadscope-reorder`).
LONGEST_FIRST = ("test_upgrade", "test_install", "test_backup", "test_image", "test_backup_faults", "test_supervisor")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all tests of a file, which is up."""
    with Machine() as laid_out:
        laid_out.start()
        yield laid_out


@pytest.fixture
def kept_root() -> Iterator[Path]:
    """A folder with a short path: that of a socket has no more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kept-") as folder:
        yield Path(folder)


@pytest.fixture
def kept_processes(kept_root: Path) -> Iterator[Processes]:
    """As `processes`, in that folder."""
    with Processes(kept_root / "logs") as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(kept_root: Path, kept_processes: Processes, request: pytest.FixtureRequest) -> Iterator[KeptService]:
    """A service to back up, on each of the databases."""
    url = ""
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgres_server")
        url = server.new_database().replace("postgres:@", f"postgres:{PASSWORD.replace(' ', '%20')}@", 1)
    service = KeptService(kept_root, kept_processes, url)
    yield service
    service.stop(kill=True)


@pytest.fixture(scope="module")
def new_machine(request: pytest.FixtureRequest) -> Iterator[NewMachine]:
    """An empty Debian that reaches the registries, for the tests of one file."""
    try:
        with NewMachine(keeps_packages=getattr(request.module, "KEEPS_PACKAGES", True)) as machine:
            if machine.run("apt-get", "update", "--error-on=any").returncode:
                raise CannotBeMade("Debian's archive cannot be reached")
            yield machine
    except CannotBeMade as reason:
        pytest.skip(str(reason))
