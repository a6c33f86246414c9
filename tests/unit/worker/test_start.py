"""What a worker imports before it takes its first job: imports are most of its start."""

from __future__ import annotations

import subprocess
import sys

# What one job in many needs, or another thread: each takes a tenth of a second of the start, or more.
LATER = {
    "aiohttp",  # to send webhooks: imported by their thread
    "openai", "langchain_openai", "tiktoken",  # where a model has a key
    "langchain_community",
    "torch", "transformers", "numpy",
    "aiosqlite", "psycopg", "psycopg_pool", "langgraph.checkpoint.sqlite", "langgraph.checkpoint.postgres",  # threads'
}  # fmt: skip
PROGRAM = f"""
import sys
from shared.settings import Settings
from worker.__main__ import load_catalogue
load_catalogue(Settings(_env_file=None))
import arq.connections, worker.checkpoints.threads, worker.keeper, worker.queue, worker.runner, worker.webhooks
print(*sorted(set({LATER}) & set(sys.modules)))
"""


def test_nothing_that_the_first_job_does_not_need_is_imported_before_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_parent_of_several_workers_imports_none_of_what_they_run() -> None:
    found = "{'langgraph', 'langchain_core', 'arq'} & set(sys.modules)"
    program = f"import sys, worker.__main__, worker.processes; print(*{found})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
