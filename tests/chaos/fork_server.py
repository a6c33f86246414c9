"""`python -m tests.chaos.fork_server COUNT`: keeps that many workers alive, as a supervisor does.

It forks them from itself, having imported what `python -m worker` needs, for imports are most of a worker's start.
Nothing that a fork would break is made before: no thread, no event loop, no connection. Workers get its environment,
and each a session and a log file of its own in the working folder, `worker-<pid>.log`.

Each start and end is a line of JSON on standard output. Any line on standard input stops the workers (SIGTERM); the end
of standard input, which also comes with the end of the process that started this, kills them.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

import worker
from worker.graphs.config import read_graphs_config
from worker.graphs.loading import load_graphs

# What the worker imports only when it is needed.
LAZY_IMPORTS = ("uvloop", "aiosqlite", "arq.connections", "langgraph.checkpoint.sqlite.aio", "prometheus_client")
MOST_STARTS = 200  # workers that cannot live are a failure of the test, not a load on the machine


def preload() -> None:
    """Import what a worker of this environment needs."""
    names = [module.name for module in pkgutil.walk_packages(worker.__path__, "worker.")]
    for name in [*names, *LAZY_IMPORTS]:
        importlib.import_module(name)
    del sys.modules["worker.__main__"]  # each worker runs it as its own main program
    load_graphs(read_graphs_config(Path(os.environ["GRAPHS_CONFIG"])))
    gc.freeze()
    assert threading.active_count() == 1, "a thread does not live through a fork"
    tasks = Path("/proc/self/task")
    assert not tasks.exists() or len(list(tasks.iterdir())) == 1, "a library has started a thread"


class ForkServer:
    """`count` slots, each with one worker at a time."""

    def __init__(self, count: int) -> None:
        self.slots: dict[int, int] = {}  # pid to slot
        self.count = count
        self.started = 0
        self.stopping = False
        self.woken, self.waker = socket.socketpair()

    def serve(self) -> None:
        """Run until the workers are stopped, and all have ended."""
        self.woken.setblocking(False)
        self.waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for slot in range(self.count):
            self.start(slot)
        inputs: list[int] = [self.woken.fileno(), 0]
        while self.slots or not self.stopping:
            ready = select.select(inputs, [], [])[0]
            if 0 in ready:
                told = os.read(0, 1024)
                self.stop(signal.SIGTERM if told else signal.SIGKILL)
                inputs = inputs if told else inputs[:1]
            if self.woken.fileno() in ready:
                self.woken.recv(4096)
                self.reap()

    def start(self, slot: int) -> None:
        self.started += 1
        assert self.started <= MOST_STARTS, "the workers do not live"
        pid = os.fork()
        if pid == 0:
            self.become_worker()
        self.slots[pid] = slot
        report("started", slot, pid)

    def stop(self, signal_number: int) -> None:
        self.stopping = True
        for pid in self.slots:
            os.kill(pid, signal_number)

    def reap(self) -> None:
        for pid, slot in list(self.slots.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self.slots[pid]
            report("ended", slot, pid, status=os.waitstatus_to_exitcode(status))
            if not self.stopping:
                self.start(slot)

    def become_worker(self) -> NoReturn:
        """What `python -m worker` does, from a process of its own on."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.woken.close()
            self.waker.close()
            os.setsid()
            log = os.open(f"worker-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for file, standard in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(file, standard)
            sys.argv = ["worker"]
            runpy.run_module("worker", run_name="__main__", alter_sys=True)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)  # the worker's main program never returns


def report(event: str, slot: int, pid: int, **more: int) -> None:
    print(json.dumps({"event": event, "slot": slot, "pid": pid, "at": time.monotonic(), **more}), flush=True)


if __name__ == "__main__":
    preload()
    ForkServer(int(sys.argv[1])).serve()
