"""A hypothesis state machine that drives the job store as clients and several workers do, in any order.

`model.py` says what each call must do, `machine.py` compares it with all that stands in Redis after each step;
`clients.py`, `workers.py`, `mishaps.py`, `limits.py` and `lives.py` are the calls. The rules in
words: docs/job-life.md.
"""

from __future__ import annotations

from tests.job_life.lives import Lives


class JobLife(Lives):
    """`JobLife(connect)`: `connect` gives an asynchronous and a synchronous connection to an empty server."""
