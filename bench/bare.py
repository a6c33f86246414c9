"""The yardstick, in a process of its own: the graph called in a loop with `ainvoke`, one at a time."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.graph import INPUT, two_nodes


async def main(runs: int) -> None:
    for _ in range(50):
        await two_nodes.ainvoke(INPUT)
    took = []
    started = time.perf_counter()
    for _ in range(runs):
        before = time.perf_counter()
        await two_nodes.ainvoke(INPUT)
        took.append(time.perf_counter() - before)
    seconds = time.perf_counter() - started
    took.sort()
    print(json.dumps({"per_second": runs / seconds, "p50": took[runs // 2], "p95": took[int(runs * 0.95)]}))


asyncio.run(main(int(sys.argv[1])))
