"""What stands in the Supervisor files, for the tests that compare it with other files and with the code."""

from __future__ import annotations

from configparser import RawConfigParser

from tests.servers import PROJECT

FOLDER = PROJECT / "deploy" / "supervisor"


def programs() -> dict[str, dict[str, str]]:
    """The sections of both files, `program:` taken off."""
    parser = RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read([FOLDER / "multi-agent-redis.conf", FOLDER / "multi-agent-service.conf"])
    return {name.removeprefix("program:"): dict(parser[name]) for name in parser.sections()}
