"""A new Debian, made by debootstrap, with its own processes, mounts and network: what runs there ends with it.

with NewMachine() as machine:
    machine.run("/source/deploy/scripts/install.sh", "--dry-run")

Only loopback is there; the package registries are reached through `WayOut`. What was downloaded stays in .tools/debian.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.deploy.programs import UNPACKED, environment, program
from tests.deploy.way_out import PORT, WayOut
from tests.servers import PROJECT, wait_until

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
CACHE = UNPACKED / "new-machine"
ROOM = 8 << 30  # the machine takes 2 GB
# What a checkout has that is not the project.
NOT_COPIED = (".git", ".venv", ".tools", ".env", "data", "logs", "reports", "__pycache__", ".*_cache", "*.egg-info")
# Where each of the machine's places is on this one, so that a second run downloads nothing. apt locks those of its own.
KEPT_BY_APT = {"var/cache/apt/archives": "archives", "var/lib/apt/lists": "lists"}
KEPT = {**KEPT_BY_APT, "root/pip-cache": "pip"}
# It is the first process: bash waits for those that lost their parent.
INIT = """
set -e
mount --make-rprivate /
mount --rbind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
while read -r from to; do mkdir -p "$1/$to"; mount --bind "$from" "$1/$to"; done <"$1.mounts"
touch "$1.ready"
exec chroot "$1" /bin/bash -c 'while :; do sleep 1000; done'
"""


class CannotBeMade(Exception):
    """No such machine can be had here; the message says why."""


class NewMachine:
    """`root` is its file system; `/source` there is the project as it is on disk.

    Only one machine at a time `keeps_packages` of Debian for the next.
    """

    def __init__(self, *, keeps_packages: bool = True) -> None:
        self._kept = {there: here for there, here in KEPT.items() if keeps_packages or there not in KEPT_BY_APT}
        self._folder = Path(tempfile.mkdtemp(prefix="new-machine-", dir=_fast_folder()))
        self._folder.chmod(0o755)
        self.root = self._folder / "root"
        self._unshared: subprocess.Popen[bytes] | None = None
        self._way_out: WayOut | None = None
        self._ca = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))

    def start(self, *command: str | Path, **more: str) -> subprocess.Popen[str]:
        """Start this there, as root; both streams of it come in one."""
        return subprocess.Popen(
            ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd",
             *map(str, command)],
            env=self.environment() | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def run(self, *command: str | Path, within: float = 300, **more: str) -> subprocess.CompletedProcess[str]:
        """Run this there, as root, to its end."""
        with self.start(*command, **more) as process:
            try:
                output, _ = process.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output)

    def stop(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
        """Send a signal to what `start` has started, and wait for its end: what it printed."""
        for started in psutil.Process(process.pid).children():
            started.send_signal(number)
        return process.communicate(timeout=60)[0]

    def check(self, *command: str | Path, **more: str) -> str:
        """The same, where it has to succeed: what it printed."""
        done = self.run(*command, **more)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout.strip()

    def tree(self, *left_out: str) -> dict[str, tuple[int, int, int, int]]:
        """Each file with its mode, owner, group and time of change."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            inside = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if str(inside / name) not in {*KEPT, "proc", "dev", *left_out}]
            for name in [*folders, *files]:
                about = os.lstat(Path(folder) / name)
                is_folder = name in folders
                found[str(inside / name)] = (
                    about.st_mode,
                    about.st_uid,
                    about.st_gid,
                    0 if is_folder else about.st_mtime_ns,
                )
        return found

    def logs(self) -> str:
        """The last of what all programs have said."""
        files = sorted(self.root.glob("var/log/multi-agent-service/**/*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def cut_power(self) -> None:
        """Kill all that runs there, but for the first process."""
        first = self._pid
        for process in self.processes():
            if process.pid != first:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def processes(self) -> list[psutil.Process]:
        """All that run there, the first one included."""
        assert self._unshared is not None
        own = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = []
        for pid in psutil.pids():
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") == own:
                    found.append(psutil.Process(pid))
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        base = _base()
        self.root.mkdir()
        with tarfile.open(base) as archive:
            archive.extractall(self.root, filter="fully_trusted")  # noqa: S202 - device files, too
        self._carry_over()
        ignored = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(PROJECT, self.root / "source", symlinks=True, ignore=ignored)
        kept = {**{str(CACHE / here): there for there, here in self._kept.items()}, str(_uv_cache()): "root/uv-cache"}
        for here in kept:
            Path(here).mkdir(parents=True, exist_ok=True)
        self.root.with_suffix(".mounts").write_text("".join(f"{here} {there}\n" for here, there in kept.items()))
        self._unshared = subprocess.Popen(
            # Whatever ends first takes all the others with it.
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork",
             "--kill-child", "/bin/bash", "-c", INIT, "init", self.root],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self.root.with_suffix(".ready").exists, 30, what="the machine is up")
        self._way_out = WayOut(self._pid).__enter__()

    def __exit__(self, *_: object) -> None:
        if self._way_out is not None:
            self._way_out.__exit__()
        if self._unshared is not None and self._unshared.poll() is None:
            inside = self.processes()
            self._unshared.send_signal(signal.SIGKILL)
            self._unshared.wait(30)
            _, left = psutil.wait_procs(inside, timeout=30)
            assert not left, f"processes were left behind: {left}"
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _pid(self) -> int:
        """The first process's, as it is known here."""
        assert self._unshared is not None
        deadline = time.monotonic() + 10
        while not (children := psutil.Process(self._unshared.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return children[0].pid

    def _carry_over(self) -> None:
        """What this machine needs to reach the registries: that is not the installer's business."""
        etc = self.root / "etc"
        (etc / "apt" / "sources.list").write_text(
            f"deb {MIRROR} {RELEASE} main\n"
            f"deb {MIRROR} {RELEASE}-updates main\n"
            f"deb {SECURITY} {RELEASE}-security main\n"
        )
        (etc / "apt" / "apt.conf.d" / "99test").write_text(
            f'Acquire::http::Proxy "http://127.0.0.1:{PORT}";\nAcquire::http::Pipeline-Depth "0";\n'
            'Acquire::Languages "none";\nAcquire::Check-Date "false";\nAPT::Sandbox::User "root";\n'
            'Binary::apt::APT::Keep-Downloaded-Packages "true";\nAPT::Keep-Downloaded-Packages "true";\n'
        )
        # It need not survive a power cut, nor be read about.
        (etc / "dpkg" / "dpkg.cfg.d" / "test").write_text(
            "force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n"
        )
        for file, text in {"hostname": "new-machine\n", "hosts": "127.0.0.1 localhost new-machine\n"}.items():
            (etc / file).write_text(text)
        shutil.copy(self._ca, self.root / "root" / "ca.crt")

    def environment(self) -> dict[str, str]:
        """What all that runs there is given: how to reach the registries, and where what was downloaded is kept."""
        proxy = f"http://127.0.0.1:{PORT}"
        certificates = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
        registries = {name: os.environ[name] for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX") if name in os.environ}
        index = os.environ.get("PIP_INDEX_URL") or _pip_index()
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "HTTP_PROXY": proxy,
            "HTTPS_PROXY": proxy,
            "http_proxy": proxy,
            "https_proxy": proxy,
            "no_proxy": "localhost,127.0.0.1",
            "NO_PROXY": "localhost,127.0.0.1",
            "UV_CACHE_DIR": "/root/uv-cache",
            "UV_LINK_MODE": "copy",  # the cache is on another mount
            "PIP_CACHE_DIR": "/root/pip-cache",
            "PIP_ROOT_USER_ACTION": "ignore",
            **dict.fromkeys(certificates, "/root/ca.crt"),
            **registries,
            **({"PIP_INDEX_URL": index} if index else {}),
        }


def _base() -> Path:
    """The packed base system, made once. Raises `CannotBeMade`."""
    if os.geteuid() != 0:
        raise CannotBeMade("only root makes a machine: debootstrap, chroot and namespaces need it")
    try:
        debootstrap = program("debootstrap")
    except AssertionError:
        raise CannotBeMade("there is no debootstrap") from None
    namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True, timeout=30).returncode:
        raise CannotBeMade("this root may make no namespaces: it is confined itself")
    base = CACHE / f"{RELEASE}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "making").open("w") as making:
        fcntl.flock(making, fcntl.LOCK_EX)  # tests run side by side
        if not base.exists():
            _make_base(debootstrap, base)
    return base


def _make_base(debootstrap: Path, base: Path) -> None:
    building = CACHE / f"building-{os.getpid()}"
    unpacked = {"DEBOOTSTRAP_DIR": str(UNPACKED / "usr/share/debootstrap")} if UNPACKED in debootstrap.parents else {}
    try:
        made = subprocess.run(
            [debootstrap, "--variant=minbase", RELEASE, building / "root", MIRROR],
            env=environment(**unpacked), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
        )  # fmt: skip
        if made.returncode:
            raise CannotBeMade(f"debootstrap made no {RELEASE} from {MIRROR}: {made.stdout[-500:]}")
        shutil.rmtree(building / "root/var/cache/apt/archives", ignore_errors=True)
        with tarfile.open(building / "root.tar", "w") as archive:
            archive.add(building / "root", ".")
        (building / "root.tar").rename(base)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _fast_folder() -> str | None:
    """In memory, where there is plenty: most of the time goes into unpacking packages."""
    shared_memory = Path("/dev/shm")
    room = shutil.disk_usage(shared_memory).free if shared_memory.is_dir() else 0
    return str(shared_memory) if min(room, psutil.virtual_memory().available) > ROOM else None


def _uv_cache() -> Path:
    return Path(os.environ.get("UV_CACHE_DIR") or PROJECT / ".tools" / "cache")


def _pip_index() -> str:
    """The index that pip is told of on this machine, or nothing."""
    config = ConfigParser(interpolation=None)
    try:
        config.read(["/etc/pip.conf", Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"])
    except ConfigError:
        return ""
    return config.get("global", "index-url", fallback="")
