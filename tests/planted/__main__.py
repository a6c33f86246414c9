"""`python -m tests.planted [words]`: plant each bug (whose name has these words) and print what found it."""

from __future__ import annotations

import sys

from tests.planted.bugs import BUGS
from tests.planted.hunt import LIVES, hunt, planted


def main(words: list[str]) -> int:
    """0 where each bug was found, and nothing without one."""
    missed = 0
    print(f"{'bug':<62} {'examples':>8} {'steps':>6} {'s':>5}  found by")
    for bug in (bug for bug in BUGS if all(word in bug.name for word in words)):
        with planted(bug):
            found = hunt(bug.life)
        missed += not found.broken
        rule = found.broken.partition(": ")[0] if found.broken else "NOT FOUND"
        print(f"{bug.name:<62} {found.examples:>8} {found.steps:>6} {found.seconds:>5.1f}  {rule}", flush=True)
    for life in LIVES:
        clean = hunt(life)
        missed += bool(clean.broken)
        name = f"(no bug: {life})"
        print(f"{name:<62} {clean.examples:>8} {clean.steps:>6} {clean.seconds:>5.1f}  {clean.broken or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
