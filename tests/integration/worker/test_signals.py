"""SIGTERM and SIGINT in a process of its own: heard whatever its main thread does, and told once the loop runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from tests.servers import PROJECT, Process, Processes, wait_until

PROGRAM = """
import asyncio, hashlib, multiprocessing, os, signal, threading, time
import uvloop
from worker.signals import StopSignals

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

started = time.monotonic()
signals = StopSignals(drain_seconds=100)
told = []
twice = asyncio.Event()

def stop(number, at):
    told.append(number)
    say("told", number.name, "in time" if started <= at <= time.monotonic() else "wrongly")
    if len(told) == 2:
        twice.set()

def watch():
    seen = []
    while True:
        if signals.leave_at is not None:
            drain = "draining" if signals.leave_at > time.monotonic() else "at once"
            if drain not in seen:
                seen.append(drain)
                say("heard", drain)
        time.sleep(0.01)

async def main():
    signals.listen(loop, stop)
    threading.Thread(target=watch, daemon=True).start()
    %s

def run(loop):
    task = loop.create_task(main())
    while not task.done():
        try:
            loop.run_until_complete(task)
        except SystemExit:
            say("again")
            loop.call_soon(signals.take_wakeup_fd)

loop = %s.new_event_loop()
asyncio.set_event_loop(loop)
run(loop)
os._exit(0)
"""
WAIT = """
    say("ready")
    await twice.wait()
"""
BLOCK = """
    say("ready")
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)  # C that does not look for signals
"""
SLEEP = """
    say("ready")
    time.sleep(600)
"""
LEAVE_THE_LOOP = """
    async def leave():
        raise SystemExit
    asyncio.create_task(leave())
    await asyncio.sleep(0.1)
    say("ready")
    await asyncio.sleep(0)
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)
"""
FORK = """
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    await asyncio.to_thread(child.join, 10)
    interrupted = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    interrupted.start()
    os.kill(interrupted.pid, signal.SIGINT)
    await asyncio.to_thread(interrupted.join, 10)
    await asyncio.sleep(0.1)
    say("child", child.exitcode, interrupted.exitcode, "told", len(told))
"""

Start = Callable[[str, str], Process]


@pytest.fixture
def start(processes: Processes) -> Start:
    """Starts a program that listens for signals, with this body, on a loop of this kind, and waits until it does."""

    def start_one(body: str, loop: str) -> Process:
        command = [sys.executable, "-c", PROGRAM % (body.strip(), loop)]
        process = processes.start("listener", command, PYTHONPATH=str(PROJECT))
        if "ready" in body:
            process.wait_for_line("ready")
        return process

    return start_one


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_signal_is_told_once_on_a_loop_that_waits(start: Start, loop: str, number: signal.Signals) -> None:
    process = start(WAIT, loop)
    process.send(number)
    process.wait_for_line(f"told {number.name} in time")
    process.wait_for_line("heard draining")
    assert "heard at once" not in process.log
    process.send(number)
    assert process.wait() == 0
    assert process.log.count("told") == 2


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("body", [SLEEP, BLOCK, LEAVE_THE_LOOP], ids=["sleeping", "in-c", "in-c-on-a-restarted-loop"])
def test_signals_are_heard_while_the_loop_is_blocked(start: Start, loop: str, body: str) -> None:
    process = start(body, loop)
    process.send(signal.SIGTERM)
    process.wait_for_line("heard draining")
    process.send(signal.SIGTERM)
    process.wait_for_line("heard at once")
    assert "told" not in process.log


def test_a_forked_child_ends_by_its_signals_and_its_parent_hears_nothing_of_them(start: Start) -> None:
    process = start(FORK, "uvloop")
    assert process.wait() == 0
    wait_until(lambda: "child" in process.log)
    assert f"child {-signal.SIGTERM} {-signal.SIGINT} told 0" in process.log
    assert "heard" not in process.log
