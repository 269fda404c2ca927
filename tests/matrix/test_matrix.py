"""The kill matrix itself, and a small part of it on every change; `make kill-matrix` runs it whole.

LOOKBACK_MATRIX_SEED and LOOKBACK_MATRIX_CELLS choose other cells and more of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.conftest import SEED
from tests.matrix import count, switches
from tests.matrix.cells import Cell, cover, impossible_pairs, possible
from tests.matrix.check import judge_entity
from tests.matrix.events import PARTITIONS, make_events
from tests.matrix.experiment import Experiment, Outcome
from tests.matrix.world import World, a_world, skip_reason

MATRIX_SEED = int(os.environ.get("LOOKBACK_MATRIX_SEED", str(SEED)))
CELLS = int(os.environ.get("LOOKBACK_MATRIX_CELLS", "2"))
EVENTS = 20_000
END_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return servers, disks and clocks for all cells."""
    reason = skip_reason()
    if reason is not None:
        pytest.skip(reason)
    with a_world(tmp_path_factory.mktemp("matrix") / "world") as made:
        yield made


@pytest.mark.parametrize("seed", range(3))
def test_the_cells_cover_every_pair_that_there_is(seed: int) -> None:
    cells = cover(seed)
    wanted = set().union(*(cell.pairs for cell in possible()))
    assert set().union(*(cell.pairs for cell in cells)) == wanted
    assert len(cells) == len(set(cells)) <= 75
    assert not any(pair in wanted for pair in impossible_pairs())


def test_the_judge_sees_what_is_wrong() -> None:
    """Records made by hand: right ones, one that went back, one of no union, one with a wrong feature."""
    events = make_events("t", seed=SEED, events=2000, end_ms=END_MS, repeats_count=False)
    rows = events.rows["cards"]["c3"]
    most = [int((rows.partition == p).sum()) for p in range(PARTITIONS)]
    assert min(most) > 1, "too few events to tell anything"

    def record(counts: list[int], **other: str) -> dict[bytes, bytes]:
        prefix = rows.prefixes(counts)
        at = int(prefix.time_ms[-1])
        values = {**count.features("cards", prefix, at), "_as_of_ms": at}
        texts = {
            name: "" if value is None else str(value).replace("'", '"').replace(", ", ",")
            for name, value in values.items()
        }
        return {name.encode(): value.encode() for name, value in {**texts, **other}.items()}

    def said(*records: dict[bytes, bytes]) -> str:
        return "; ".join(judge_entity("cards", rows, list(records), np.ones(len(records), bool)))

    some = [n // 2 for n in most]
    assert said(record(some), record(most)) == ""
    assert "went back" in said(record(most), record([most[0] + 0, *some[1:]]))
    assert "no union of prefixes" in said(record(most, code_365d="7"))
    assert "rows_10m is '99'" in said(record(most, rows_10m="99"))


def test_some_cells(world: World) -> None:
    """Cells of the cover, chosen by the seed; stalls of 30 s are left to the whole matrix."""
    cells = [cell for cell in cover(MATRIX_SEED) if cell.how != "SIGSTOP 30 s"]
    chosen = random.Random(MATRIX_SEED).sample(cells, CELLS)
    again = f"LOOKBACK_MATRIX_SEED={MATRIX_SEED} LOOKBACK_MATRIX_CELLS={CELLS}"
    for cell in chosen:
        outcome = Experiment(world, cell, MATRIX_SEED, EVENTS).run()
        _tell(outcome, again)
        if outcome.verdict == "error":  # the strike was not seen: nothing is proved, so it is done again
            outcome = Experiment(world, cell, MATRIX_SEED, EVENTS).run()
            _tell(outcome, again)
        assert outcome.verdict == "pass", (cell.name, outcome.problems, again)


def _tell(outcome: Outcome, again: str) -> None:
    cell = outcome.cell
    print(
        f"{outcome.verdict}: {cell.name} at {outcome.at}, {outcome.seen}, {outcome.seconds:.0f} s ({again})"
    )
    for problem in outcome.problems[:3]:
        print(problem)


@pytest.mark.parametrize("name", [random.Random(MATRIX_SEED).choice(list(switches.SWITCHES))])
def test_a_protection_that_is_off_is_caught(world: World, name: str) -> None:
    """One of them, chosen by the seed."""
    found = switches.caught(world, name, MATRIX_SEED)
    assert found.words, f"{name} was off and nobody noticed"
    assert not found.on, f"{name} was on, and yet: {found.on}"


def test_a_cell_has_a_name_of_its_own() -> None:
    names = [cell.name for cell in possible()]
    assert len(names) == len(set(names))
    assert Cell("Kafka", "start", "SIGKILL", "1").name == "Kafka · start · SIGKILL · 1"
