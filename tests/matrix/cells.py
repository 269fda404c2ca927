"""The matrix: its dimensions, which combinations there are, and the few that cover every pair of them.

who     which processes are struck
when    at what moment: a worker stands at a commit step or in a transaction of the change log, the job starts, a
        crash is caught up, or at random
how     by what
layout  worker counts, one start after another
"""

from __future__ import annotations

import random
from dataclasses import astuple, dataclass
from itertools import combinations, product

WHO = ("worker", "one of two", "Kafka", "Valkey", "all at once")
STEPS = tuple(f"{step}-{side}" for step in range(1, 6) for side in ("before", "after"))
WHEN = (*STEPS, "change log", "start", "recovery", "random")
HOW = ("SIGKILL", "SIGTERM", "SIGSTOP 30 s", "disk full", "clock moved")
LAYOUTS: dict[str, tuple[int, ...]] = {"1": (1,), "2": (2,), "2, 3, 1": (2, 3, 1)}
DIMENSIONS = ("who", "when", "how", "layout")

Pair = tuple[tuple[int, str], tuple[int, str]]  # two (dimension's index, value)


@dataclass(frozen=True, order=True)
class Cell:
    """One experiment."""

    who: str
    when: str
    how: str
    layout: str

    @property
    def name(self) -> str:
        """Return what it is called in the ledger and in the report."""
        return " · ".join(astuple(self))

    @property
    def pairs(self) -> set[Pair]:
        """Return the pairs of values that it covers."""
        return set(combinations(enumerate(astuple(self)), 2))

    @property
    def workers(self) -> tuple[int, ...]:
        """Return the worker counts of its starts."""
        return LAYOUTS[self.layout]

    @property
    def moves_broker_clock(self) -> bool:
        """Return whether Kafka's clock is moved."""
        return self.how == "clock moved" and self.who in ("Kafka", "all at once")

    def impossible(self) -> str:
        """Return why there is no such cell; "" where there is."""
        if self.who == "one of two" and self.layout == "1":
            return "a job of one worker has no second one"
        if self.who == "one of two" and self.how == "disk full":
            return "all workers of a job keep their shards in one state folder, on one disk"
        return ""


def product_of_all() -> list[Cell]:
    """Return every combination, possible or not."""
    return [Cell(*values) for values in product(WHO, WHEN, HOW, LAYOUTS)]


def possible() -> list[Cell]:
    """Return every cell that there is."""
    return [cell for cell in product_of_all() if not cell.impossible()]


def impossible_pairs() -> dict[Pair, str]:
    """Return the pairs that no cell has, and why."""
    covered = set[Pair]().union(*(cell.pairs for cell in possible()))
    return {
        pair: cell.impossible()
        for cell in product_of_all()
        for pair in sorted(cell.pairs)
        if pair not in covered
    }


def cover(seed: int) -> list[Cell]:
    """Return cells that have every pair which a possible cell has; greedy, ties by the seed.

    Stalls cost half a minute each, so of equally useful cells one without goes first. Cells that move Kafka's clock
    come last: they need another broker.
    """
    dice = random.Random(seed)
    left = possible()
    dice.shuffle(left)
    open_pairs = set[Pair]().union(*(cell.pairs for cell in left))
    chosen: list[Cell] = []
    while open_pairs:
        best = max(left, key=lambda cell: (len(cell.pairs & open_pairs), cell.how != "SIGSTOP 30 s"))
        left.remove(best)
        chosen.append(best)
        open_pairs -= best.pairs
    return sorted(chosen, key=lambda cell: cell.moves_broker_clock)
