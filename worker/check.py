"""`python -m worker check`: whether a worker of this code would start and load its graphs. It asks no server."""

from __future__ import annotations

import importlib

from shared.settings import Settings
from worker.graphs.config import read_graphs_config
from worker.graphs.loading import load_graphs

# What a worker imports only once it works: a missing package must be found before that.
PARTS = ("worker.keeper", "worker.queue", "worker.runner", "worker.webhooks", "worker.checkpoints.threads")


def check(settings: Settings) -> int:
    """Print `ok <graph>` or `broken <graph> <error>` for each graph of `GRAPHS_CONFIG`.

    Gives the exit status: 0 also with broken graphs, for a worker starts with them. Raises `SettingsError`, and
    whatever keeps the code from being imported.
    """
    settings.require_redis_url()
    if "webhooks" in settings.worker_roles:
        settings.require_secret_key()
    for part in PARTS:
        importlib.import_module(part)
    loaded, broken = load_graphs(read_graphs_config(settings.graphs_config))
    for graph in loaded:
        print(f"ok {graph.id}")
    for failure in broken:
        words = " ".join(failure.message.split())
        print(f"broken {failure.id} {failure.type}: {words}")
    return 0
