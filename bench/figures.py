"""A figure of the benchmark: its runs, what it is compared with, and whether it is what it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

COLUMNS = ("what", "median (least to most)", "ratio", "must be", "")


@dataclass(frozen=True)
class Target:
    """At least, or at most, so much: of the ratio where a figure has one, else of the figure."""

    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """`ratios` are of neighbours: each run's figure over what was measured beside it, which `of` names."""

    what: str
    values: Sequence[float]
    unit: str
    ratios: Sequence[float] = ()
    of: str = ""
    target: Target | None = None

    @property
    def judged(self) -> float:
        return median(self.ratios or self.values)

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        ratio = f"{spread(self.ratios)} {self.of}" if self.ratios else ""
        if self.target is None:
            return self.what, f"{spread(self.values)} {self.unit}", ratio, "", ""
        bound = f"{'≥' if self.target.at_least else '≤'} {shown(self.target.bound)}"
        unit = self.of if self.ratios else self.unit
        verdict = "met" if self.target.met(self.judged) else "**not met**"
        return self.what, f"{spread(self.values)} {self.unit}", ratio, f"{bound} {unit}", verdict


def at_least(bound: float) -> Target:
    return Target(bound)


def at_most(bound: float) -> Target:
    return Target(bound, at_least=False)


def over(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratios of neighbours."""
    return [value / other for value, other in zip(values, others, strict=True)]


def spread(values: Sequence[float]) -> str:
    return f"{shown(median(values))} ({shown(min(values))} to {shown(max(values))})"


def shown(value: float) -> str:
    """With as many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
