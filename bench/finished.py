"""Finished jobs/s with one, two and four workers, and in threads, beside the bare graph, in turns with each."""

from __future__ import annotations

from bench.drained import per_second
from bench.figures import Figure, at_least, over
from bench.processes import child, gateway, publish
from bench.savers import postgres
from bench.session import Session

BARE_RUNS = 1000
BARE = "x bare graph"
CASES = {
    "1": "no thread, 1 worker",
    "2": "no thread, 2 workers, which work while the batches come",
    "4": "no thread, 4 workers",
    "sqlite": "threads in SQLite, 1 worker",
    "postgres": "threads in PostgreSQL, 1 worker",
}
TARGETS = {"1": at_least(0.60), "2": at_least(0.90), "sqlite": at_least(0.25), "postgres": at_least(0.20)}
GROWS, STAYS = at_least(1.0), at_least(0.95)  # 1.0 less what neighbours differ by


def bare_per_second() -> float:
    return child("bench.bare", BARE_RUNS)["per_second"]


def measure(session: Session) -> list[Figure]:
    """Each case in each round, with the bare graph before and after it."""
    rates: dict[str, list[float]] = {case: [] for case in CASES}
    beside: dict[str, list[float]] = {case: [] for case in CASES}
    folder, url = session.folder, session.url
    publish(url, folder)
    with postgres(folder / "postgres") as server, gateway(url, folder / "gateway.log") as base:
        databases = {"sqlite": f"sqlite:///{folder}/bench-threads.db", "postgres": server.get_uri()}
        for _ in session.rounds():
            before = bare_per_second()
            for case in CASES:
                if case in databases:
                    rate = per_second(
                        url,
                        base,
                        session.jobs // 2,
                        1,
                        folder,
                        threads=True,
                        settings={"DATABASE_URL": databases[case]},
                    )
                else:
                    rate = per_second(url, base, session.jobs, int(case), folder)
                after = bare_per_second()
                rates[case].append(rate)
                beside[case].append((before + after) / 2)
                before = after
    figures = [Figure("bare graph, one process", [rate for case in CASES for rate in beside[case]], "runs/s")]
    for case, what in CASES.items():
        ratios = over(rates[case], beside[case])
        figures.append(Figure(f"finished, {what}", rates[case], "jobs/s", ratios, BARE, TARGETS.get(case)))
    for more, fewer, target in (("2", "1", GROWS), ("4", "2", STAYS)):
        ratios = over(rates[more], rates[fewer])
        figures.append(
            Figure(f"finished, {more} workers beside {fewer}", rates[more], "jobs/s", ratios, f"x {fewer}", target)
        )
    return figures
