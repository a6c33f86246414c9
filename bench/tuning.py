"""What each setting does that an operator turns: its ways in turns, as ratios of one run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import tuning_gateway, tuning_stores, tuning_worker
from bench.processes import valkey
from bench.report import conditions, keep, table
from bench.session import Session
from bench.turns import Knob

COLUMNS = ("setting", "what", "set to", "median (least to most)", "beside the first")
KNOBS: dict[str, Callable[[Session], Knob]] = {
    "gateway-workers": tuning_gateway.processes,
    "batches": tuning_gateway.batches,
    "asking": tuning_gateway.asking,
    "proxy": tuning_gateway.proxy,
    "gateway-log": tuning_gateway.log_level,
    "waiting-jobs": tuning_worker.waiting_jobs,
    "computing-jobs": tuning_worker.computing_jobs,
    "worker-processes": tuning_worker.processes,
    "worker-log": tuning_worker.log_level,
    "threads": tuning_worker.threads,
    "lease": tuning_worker.takeover,
    "fsync": tuning_stores.fsync,
    "replicas": tuning_stores.replicas,
    "sockets": tuning_stores.sockets,
    "starts": tuning_gateway.starts,
}


def measure(repeats: int, jobs: int, *, only: Sequence[str] = ()) -> None:
    """Measure and print; keep where nothing is left out."""
    rows: list[tuple[str, ...]] = []
    started = time.perf_counter()
    for name in only or KNOBS:
        with tempfile.TemporaryDirectory() as temporary, valkey(Path(temporary)) as url:
            begun = time.perf_counter()
            found = list(KNOBS[name](Session(url, Path(temporary), repeats, jobs, 0)).rows)
        for row in found:
            print(" | ".join(row), flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        rows += found
    body = (
        f"{conditions(repeats)} Valkey with `appendfsync always`; load, gateways, workers and servers share the cores. "
        f"It took {(time.perf_counter() - started) / 60:.0f} minutes.\n\n{table(COLUMNS, rows)}"
    )
    print(body)
    if not only:
        keep("Tuning", body)
