"""A machine for the tests of a file, with the real supervisord and the service under it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.machine import Machine


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One machine for all tests of a file, which is up."""
    with Machine() as laid_out:
        laid_out.start()
        yield laid_out
