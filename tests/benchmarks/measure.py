"""Figures: repeats of all peers in turn, so that what else the machine does meets them alike; medians, p95, ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

# A measurement: does the work once, and returns the seconds (or whatever its unit is) that it took.
Measure = Callable[[], float]


@dataclass
class Figure:
    """What one peer showed at one metric."""

    peer: str
    values: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]

    def as_json(self) -> dict[str, Any]:
        known = {"median": self.median, "p95": self.p95} if self.values else {}
        return asdict(self) | known


def timed(work: Callable[[], Any], times: int = 1) -> float:
    """Seconds that ``work`` takes, on average of ``times`` in a row."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def interleaved(measures: dict[str, Measure], repeats: int, patience: float = 120.0) -> dict[str, Figure]:
    """Each peer once, then each again …; a peer that has used up ``patience`` seconds is measured no more."""
    figures = {peer: Figure(peer) for peer in measures}
    spent = dict.fromkeys(measures, 0.0)
    for turn in range(repeats):
        for peer, measure in measures.items():
            figure = figures[peer]
            if figure.error or (turn and spent[peer] > patience):
                continue
            began = time.perf_counter()
            try:
                figure.values.append(measure())
            except Exception as error:  # one peer's trouble is a cell of the table, not the end of the run
                figure.error = f"{type(error).__name__}: {error}"[:200]
            spent[peer] += time.perf_counter() - began
    return figures
