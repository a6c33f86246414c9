"""docs/security.md names tests: each of them exists, and each of the OWASP's ten has one."""

from __future__ import annotations

import re

from shared.api_keys import new_key
from tests.servers import PROJECT

PAGE = (PROJECT / "docs" / "security.md").read_text("utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) >= 25
    for path, test in named:
        source = PROJECT / path
        assert source.is_file(), path
        assert re.search(rf"^(async )?def {test or 'test_'}", source.read_text("utf-8"), re.MULTILINE), (path, test)


def test_each_of_the_ten_risks_has_a_line_with_a_test() -> None:
    rows = dict(re.findall(r"^\| (API[0-9]+) [^|]+\| (.*) \|$", PAGE, re.MULTILINE))
    assert [*rows] == [f"API{number}" for number in range(1, 11)]
    assert all("`tests/" in row for row in rows.values())


def test_the_expression_for_scanners_finds_a_key() -> None:
    (expression,) = re.findall(r"It looks like `([^`]+)`", PAGE)
    assert re.fullmatch(expression, new_key("acme", "test", ["ops"], now_ms=0)[0])
