"""The file that holds the secrets: others who may open it are told of in the log."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.env_file import warn_where_others_may_read
from shared.settings import Settings


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Settings.model_config, "env_file", ".env")
    return tmp_path / ".env"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620, 0o601])
def test_a_file_that_others_may_open_is_a_warning_that_names_it_and_shows_nothing_of_it(
    env_file: Path, mode: int
) -> None:
    env_file.write_text("SECRET_KEY=planted\n")
    env_file.chmod(mode)
    with capture_logs() as logs:
        warn_where_others_may_read()
    (line,) = logs
    assert (line["log_level"], line["file"], line["mode"]) == ("warning", str(env_file), f"{mode:o}")
    assert "planted" not in str(line)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_is_its_owner_s_alone_is_none(env_file: Path, mode: int) -> None:
    env_file.touch()
    env_file.chmod(mode)
    with capture_logs() as logs:
        warn_where_others_may_read()
    assert logs == []


def test_no_file_is_no_warning(env_file: Path) -> None:
    with capture_logs() as logs:
        warn_where_others_may_read()
    assert logs == []
