"""`docs/kill-matrix.md`: what a run of the matrix found, in words and tables."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from tests.matrix.cells import (
    DIMENSIONS,
    HOW,
    LAYOUTS,
    WHEN,
    WHO,
    Cell,
    impossible_pairs,
    possible,
    product_of_all,
)

Lines = Mapping[Cell, Mapping[str, Any]]
VALUES: tuple[tuple[str, ...], ...] = (WHO, WHEN, HOW, tuple(LAYOUTS))

HEAD = """\
# The kill matrix

Written by `make kill-matrix`; what it does is in `tests/matrix/`, why it must pass in [commit.md](commit.md).

A *cell* is one job on a real Kafka, a real Valkey and RocksDB, struck once: **who** is struck, **when**, **how**, and
in which **layout** of worker counts (`2, 3, 1`: started with two, then three, then one). At a commit step, or in a
transaction of the change log, a worker stands still at the point while the harness strikes; a strike counts only where
it was seen: the worker's note of its
point, the process's state in /proc, exit codes, the clock that the process itself shows, the words of what met a full
disk. A strike that was not seen makes the cell an error, not a pass. Then the same command is started again until the
job comes to its end, and

- every final value of every entity, as a plain client reads it and at later instants through ours, is the independent
  count's, bit by bit;
- a poller of all records, running all along, saw no event missing that an earlier read had counted, and no value that
  no union of partition prefixes gives;
- dead letters are all there, none twice but for those marked as sent again;
- a `read_committed` consumer of the [change log](change-log.md), read from its beginning, sees each update once, none
  lacking, in order, each with values that some union of partition prefixes gives, the last ones those of all events;
- no start ended with an exit code that asks for a person.

Events: four partitions with late, broken, out-of-order and hot-key events, some from the future, some sent twice by the
producer (dropped in half of the cells by `drop_repeats`, counted in the others). The clock is moved, forwards or
backwards by an hour, in the struck processes alone. That of the job is set right after five seconds ahead, or once the
workers that it went back under have ended, as they do: librdkafka's timed waits do not know of libfaketime. Disks are
small ones of their own.
"""


def text(
    lines: Lines,
    off: Mapping[str, Mapping[str, Any]],
    seed: int,
    commit: str,
    *,
    full: bool,
    planned: int,
    note: str,
) -> str:
    """Return the page."""
    parts = [
        HEAD,
        *_summary(lines, seed, commit, full=full, planned=planned, note=note),
        *_counts(lines),
        *_pairs(lines),
        *_impossible(),
    ]
    return "\n".join([*parts, *_switches(off), *_cells(lines)]) + "\n"


def _summary(lines: Lines, seed: int, commit: str, *, full: bool, planned: int, note: str) -> Iterator[str]:
    verdicts = Counter(line["verdict"] for line in lines.values())
    seconds = sum(line["seconds"] for line in lines.values())

    def total(name: str) -> int:
        return sum(line["counts"].get(name, 0) for line in lines.values())

    yield "## The last run"
    yield (
        f"Seed {seed}, commit {commit}, {'the full product' if full else 'cells for every pair of dimensions'}: "
        f"**{len(lines)} cells, {verdicts['pass']} passed, {verdicts['fail']} failed, {verdicts['error']} errors**; "
        f"the cells took {seconds / 60:.0f} minutes together ({os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()})."
    )
    if len(lines) < planned:
        yield (
            f"**{planned - len(lines)} of the {planned} cells were not run**: the run was broken off; the same command "
            "goes on with them while the commit is the same."
        )
    if note:
        yield note
    starts = sum(len(line["starts"]) for line in lines.values())
    yield (
        f"{total('events'):,} events, {total('letters'):,} of them dead letters ({total('letters sent again'):,} sent "
        f"again, marked), {total('repeats dropped'):,} repeats dropped; {starts} starts of the job; "
        f"{total('polls'):,} polls saw {total('sightings'):,} different records; {total('updates'):,} updates in the "
        "change logs.\n"
    )


def _counts(lines: Lines) -> Iterator[str]:
    yield "## Counts"
    for index, (name, values) in enumerate(zip(DIMENSIONS, VALUES, strict=True)):
        yield f"| {name} | cells | passed |\n|---|---|---|"
        for value in values:
            mine = [line for cell, line in lines.items() if _value(cell, index) == value]
            yield f"| {value} | {len(mine)} | {sum(line['verdict'] == 'pass' for line in mine)} |"
        yield ""


def _pairs(lines: Lines) -> Iterator[str]:
    covered = set().union(*(cell.pairs for cell in lines))
    wanted = set().union(*(cell.pairs for cell in possible()))
    yield "## Pairs"
    yield f"{len(covered & wanted)} of {len(wanted)} pairs of values that there are have a cell. How many have which:\n"
    for one, two in combinations(range(len(DIMENSIONS)), 2):
        yield f"| {DIMENSIONS[one]} \\ {DIMENSIONS[two]} | {' | '.join(VALUES[two])} |"
        yield "|---" * (len(VALUES[two]) + 1) + "|"
        for row in VALUES[one]:
            found = [
                sum(_value(cell, one) == row and _value(cell, two) == column for cell in lines)
                for column in VALUES[two]
            ]
            yield f"| {row} | {' | '.join(map(str, found))} |"
        yield ""


def _impossible() -> Iterator[str]:
    yield "## What there is not"
    yield f"{len(product_of_all()) - len(possible())} of {len(product_of_all())} combinations are impossible:\n"
    for ((one, a), (two, b)), why in impossible_pairs().items():
        yield f"- {DIMENSIONS[one]} *{a}* with {DIMENSIONS[two]} *{b}*: {why}."
    yield ""


def _switches(off: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "## Protections switched off"
    yield "Each in a cell made for it: with the protection on the checks see nothing, with it off they say:\n"
    yield "| off | what it is | what was seen | tries |\n|---|---|---|---|"
    for name, line in off.items():
        words = _cell_text(line["words"][:300]) or "**nothing: the matrix is blind to it**"
        if line["on"]:
            words += f" **(and with it on: {_cell_text(line['on'][:200])})**"
        yield f"| `{name}` | {line['does']} | {words} | {line['tries']} |"
    yield ""


def _cells(lines: Lines) -> Iterator[str]:
    yield "## Every cell"
    yield "Starts are given as *workers: exit code*.\n"
    yield "| who · when · how · layout | outcome | struck at | seen | starts | s |\n|---|---|---|---|---|---|"
    for cell, line in lines.items():
        outcome = line["verdict"]
        if line["problems"]:
            outcome = f"**{outcome}**: {_cell_text(line['problems'][0][:300])}"
        yield (
            f"| {cell.name} | {outcome} | {line['at']} | {_cell_text('; '.join(line['seen']))} | "
            f"{', '.join(line['starts'])} | {line['seconds']:.0f} |"
        )


def _value(cell: Cell, index: int) -> str:
    return str(getattr(cell, DIMENSIONS[index]))


def _cell_text(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())
