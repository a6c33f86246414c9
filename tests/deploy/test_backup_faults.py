"""What may go wrong with backups: damage is found, nothing half counts, nobody else may read, and old ones go."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.deploy.kept_service import PASSWORD, KeptService, manifest_of
from tests.servers import PROJECT, SECRET_KEY, Processes, Valkey, wait_until

LONG_AGO = "20200101T000000Z"


@pytest.fixture
def quiet(kept_root: Path, kept_processes: Processes) -> Iterator[KeptService]:
    """A service of which only Redis runs: it has an API key to keep."""
    service = KeptService(kept_root, kept_processes)
    service.start_redis()
    service.command("gateway", "keys", "create", "--tenant", "acme", "--name", "one")
    yield service
    service.stop(kill=True)


def older(service: KeptService, name: str) -> Path:
    """A folder that counts as a backup of that time."""
    folder = service.backups / name
    folder.mkdir(parents=True)
    (folder / "SHA256SUMS").touch()
    return folder


def seal_again(backup: Path) -> None:
    """As somebody would who has changed what was kept, and its checksums."""
    files = sorted(file for file in backup.iterdir() if file.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (backup / "SHA256SUMS").write_text("".join(sums))


def test_a_damaged_byte_is_found_by_the_check_and_by_the_restore_which_changes_nothing(quiet: KeptService) -> None:
    backup = quiet.backup()
    assert "is good" in quiet.restore(backup.name, "--verify"), "while the service runs"
    settings = (quiet.app / ".env").read_text()
    for file in sorted(backup.iterdir()):
        kept = file.read_bytes()
        if not kept:
            continue
        middle = len(kept) // 2
        file.write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
        for arguments in (["--verify"], ["--yes"]):
            done = quiet.script("restore.sh", backup.name, *arguments)
            assert (done.returncode, "is damaged" in done.stderr) == (1, True), (file.name, done.stderr)
        file.write_bytes(kept)
    (backup / "one more").touch()
    assert "other files" in quiet.script("restore.sh", backup.name, "--verify").stderr
    assert (quiet.app / ".env").read_text() == settings


def test_pieces_that_do_not_load_or_are_of_another_time_are_found_though_their_checksums_are_right(
    quiet: KeptService,
) -> None:
    backup = quiet.backup()
    snapshot = backup / "redis.rdb"
    kept = snapshot.read_bytes()
    snapshot.write_bytes(kept[: len(kept) // 2])
    seal_again(backup)
    assert "does not load" in quiet.script("restore.sh", backup.name, "--verify").stderr
    snapshot.write_bytes(kept)
    (backup / "threads.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    seal_again(backup)
    assert "is broken" in quiet.script("restore.sh", backup.name, "--verify").stderr
    (backup / "threads.db").write_bytes(b"")
    quiet.command("gateway", "keys", "create", "--tenant", "acme", "--name", "two")
    later = quiet.backup("--quick")
    shutil.copy(later / "redis.rdb", snapshot)
    seal_again(backup)
    assert "api keys: 1 were kept, 2 are there" in quiet.script("restore.sh", backup.name, "--verify").stderr


def test_a_second_backup_says_that_there_is_one_and_one_that_was_killed_leaves_none(quiet: KeptService) -> None:
    good = older(quiet, LONG_AGO)
    with quiet.held_up("database") as (begun, _), quiet.started_script("backup.sh") as backup:
        wait_until(begun.exists, 20, what="the first one is at it")
        second = quiet.script("backup.sh")
        assert (second.returncode, "another backup or restore is under way" in second.stderr) == (1, True)
        parts = [psutil.Process(backup.pid), *psutil.Process(backup.pid).children(recursive=True)]
        for part in parts:
            part.kill()
        psutil.wait_procs(parts, 10)
    lock = ["flock", "--nonblock", quiet.backups / ".lock", "true"]
    wait_until(lambda: subprocess.run(lock).returncode == 0, 20, what="all that it had started has ended")
    (left,) = quiet.backups.glob("*.partial")
    assert (left / "redis.rdb").stat().st_size > 0
    assert quiet.kept() == [good]
    assert "no complete backup" in quiet.script("restore.sh", left.name, "--verify").stderr
    made = quiet.backup()
    assert not list(quiet.backups.glob("*.partial"))
    assert made.name > LONG_AGO


def test_a_backup_that_is_told_to_stop_or_finds_the_disk_full_leaves_nothing_and_removes_no_other(
    quiet: KeptService,
) -> None:
    good = older(quiet, LONG_AGO)
    with quiet.redis() as redis:
        redis.set("large", os.urandom(10_000))
    full = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; exec {PROJECT}/deploy/scripts/backup.sh"],
        env=quiet.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "File too large" in full.stderr
    assert list(quiet.backups.glob("2*")) == [good]
    with quiet.held_up("database") as (begun, let), quiet.started_script("backup.sh") as backup:
        wait_until(begun.exists, 20, what="it is in the middle")
        backup.send_signal(signal.SIGTERM)
        let.touch()
        assert backup.wait(20) == 143
    assert list(quiet.backups.glob("2*")) == [good]
    with (quiet.data / "threads.db-shm").open("wb") as sparse:
        sparse.truncate(1 << 43)
    none = quiet.script("backup.sh")
    assert (none.returncode, "may need 8388" in none.stderr) == (1, True), none.stderr
    assert list(quiet.backups.glob("2*")) == [good]


def test_backups_that_are_too_old_go_with_a_good_new_one_and_nothing_else_does(quiet: KeptService) -> None:
    day = 24 * 3600
    names = [time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - days * day)) for days in (31, 8, 6)]
    folders = [older(quiet, name) for name in (LONG_AGO, *names)]
    foreign = quiet.backups / "before-restore-20200101T000000Z"
    foreign.mkdir()
    metrics = quiet.root / "backup.prom"
    newest = quiet.backup("--quick", METRICS_FILE=str(metrics))
    assert quiet.kept() == [*folders[2:], newest]
    assert "mas_backup_last_success_timestamp_seconds" in metrics.read_text()
    newest = quiet.backup("--quick", "--keep-days", "7")
    assert folders[2] not in quiet.kept()
    assert folders[3] in quiet.kept()
    assert foreign.exists()
    assert quiet.script("backup.sh", "--check-age", "26").returncode == 0
    shutil.rmtree(quiet.backups)
    older(quiet, LONG_AGO)
    assert quiet.script("backup.sh", "--check-age", "26").returncode == 1


def test_nobody_else_may_read_a_backup_and_no_secret_is_on_a_command_line_or_printed(quiet: KeptService) -> None:
    with command_lines() as seen:
        backup = quiet.backup()
        quiet.stop(kill=True)
        said = quiet.restore(backup.name, "--yes")
    modes = {file.name: file.stat().st_mode & 0o777 for file in backup.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert backup.stat().st_mode & 0o777 == quiet.backups.stat().st_mode & 0o777 == 0o700
    assert (backup / "env").read_text() == (quiet.app / ".env").read_text()
    assert any("shared.backup" in line for line in seen)
    for secret in (PASSWORD, PASSWORD.replace(" ", "%20"), SECRET_KEY):
        assert not [line for line in seen if secret in line and "valkey.conf" not in line]
        assert secret not in said + (backup / "manifest.json").read_text()


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """The command lines of all processes that are seen until the block is left."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for process in psutil.process_iter(["cmdline"]):
                seen.add(" ".join(process.info["cmdline"] or []))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_what_is_there_is_replaced_only_when_told_to_and_kept_aside(quiet: KeptService) -> None:
    backup = quiet.backup("--quick")
    refused = quiet.script("restore.sh", backup.name, "--only", "redis", "--yes")
    assert (refused.returncode, "redis: it is in use" in refused.stderr) == (1, True), refused.stderr
    quiet.stop(kill=True)
    (quiet.app / "teams" / "support.yaml").write_text("name: changed\n")
    refused = quiet.script("restore.sh", backup.name)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert (quiet.app / "teams" / "support.yaml").read_text() == "name: changed\n"
    quiet.restore(backup.name, "--yes")
    (aside,) = quiet.backups.glob("before-restore-*")
    assert (aside / "teams" / "support.yaml").read_text() == "name: changed\n"
    assert (quiet.app / "teams" / "support.yaml").read_text() == "name: support\n"
    assert len(list(quiet.data.glob("redis.before-restore-*"))) == 1
    for wrong in (["--only", "all"], [], ["--unknown"]):
        assert quiet.script("restore.sh", *wrong).returncode == 2
    assert quiet.script("backup.sh", "--keep-days", "0").returncode == 2


def test_a_redis_elsewhere_is_kept_and_filled_again_over_the_network(
    kept_root: Path, kept_processes: Processes, tmp_path: Path
) -> None:
    server = Valkey(tmp_path / "elsewhere", password="far-away", requirepass="far-away", repl_diskless_sync="no")
    try:
        service = KeptService(kept_root, kept_processes)
        env = service.app / ".env"
        env.write_text(env.read_text().replace(service.redis_url, server.url))
        service.command("gateway", "keys", "create", "--tenant", "acme", "--name", "one")
        backup = service.backup()
        assert manifest_of(backup)["counts"] == {"api keys": 1, "checkpoints": 0}
        with server.client() as client:
            before = client.dbsize()
            client.flushall()
            client.set("something", "else")
            refused = service.script("restore.sh", backup.name, "--only", "redis")
            assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
            service.restore(backup.name, "--only", "redis", "--yes")
            assert client.dbsize() == before
        (aside,) = service.backups.glob("before-restore-*")
        assert (aside / "redis.rdb").read_bytes().startswith(b"REDIS")
        assert "one" in service.command("gateway", "keys", "list").stdout
    finally:
        server.stop()
