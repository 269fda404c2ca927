"""Which events are repeats: what a plain loop says, however batches are cut and wherever the job stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import repeats as module
from dataflows.repeats import Repeats
from dataflows.replay_job import ReplayOptions, replay
from dataflows.route import Judge
from lookback.definition import load
from lookback.errors import RefusedError
from lookback.training import load_training

LATENESS, AHEAD = 100, 50
T0 = 1_700_000_000_000

Event = tuple[Any, int, int]  # id, event time, broker time
IDS = st.one_of(st.none(), st.integers(-3, 3))
EVENTS = st.lists(st.tuples(IDS, st.integers(0, 300), st.integers(-60, 60)), min_size=1, max_size=60)


def by_hand(events: list[Event], horizon: int) -> list[int]:
    """Return for each event the offset that had its id before, -1 where none did (or it is late or ahead)."""
    watermark, seen, found = -(2**62), list[tuple[int, int, Any]](), list[int]()
    for offset, (one, at, broker) in enumerate(events):
        if at > broker + AHEAD:
            found.append(-1)
            continue
        watermark = max(watermark, at)
        if at < watermark - LATENESS:
            found.append(-1)
            continue
        same = [place for place, _, other in seen if one is not None and other == one]
        newest = max((time for _, time, other in seen if other == one), default=-(2**62))
        found.append(same[-1] if same and newest >= watermark - horizon else -1)
        seen.append((offset, at, one))
    return found


class Part:
    """A partition as `Ingest` drives it, over ids of one type."""

    def __init__(self, events: list[Event], horizon: int, kind: pa.DataType, saved: Any = None) -> None:
        state: Any
        self._offset: int
        self._watermark: int
        self._offset, self._watermark, state = saved or (0, -(2**62), None)
        self._judge = Judge(LATENESS, AHEAD, self._watermark)
        self.repeats = Repeats(horizon, state)
        text = pa.types.is_string(kind)
        self._ids = pa.array([None if e[0] is None else f"é{e[0]}" if text else e[0] for e in events], kind)
        self._times, self._brokers = (np.array([e[i] for e in events], np.int64) for i in (1, 2))
        rung = self.repeats.recall_from(self._watermark) if saved else None
        self.recalled = 0
        if rung is not None:
            judge = Judge(LATENESS, AHEAD, rung[1])
            place = slice(rung[0], self._offset)
            self.recalled = self._offset - rung[0]
            if self.recalled:
                self.repeats.recall(*self._columns(place, judge))
            self.repeats.recall_end(rung, "tx/0", accept_loss=False)
            assert judge.watermark_ms == self._watermark

    def _columns(self, rows: slice, judge: Judge) -> Any:
        judged = judge.judge(self._times[rows], self._brokers[rows])
        offset = np.arange(rows.start, rows.stop)
        return self._ids[rows], offset, self._times[rows], judged.watermark_ms, judged.refused

    def to(self, end: int) -> list[int]:
        """Take the events up to an offset."""
        if end <= self._offset:
            return []
        self.repeats.begin(self._offset, self._judge.watermark_ms)
        rows = slice(self._offset, end)
        before = self.repeats.find(*self._columns(rows, self._judge))
        self._offset = end
        return [-1] * (rows.stop - rows.start) if before is None else before.tolist()

    def saved(self) -> Any:
        return self._offset, self._judge.watermark_ms, self.repeats.state()


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()], ids=str)
@pytest.mark.parametrize("few", [module.FEW, 0], ids=["all kept", "forgotten at once"])
@given(events=EVENTS, horizon=st.integers(LATENESS, 250), cuts=st.sets(st.integers(0, 60)), data=st.data())
def test_a_repeat_is_what_a_loop_says_wherever_batches_and_runs_end(
    few: int, kind: pa.DataType, events: list[Event], horizon: int, cuts: set[int], data: st.DataObject
) -> None:
    """Times rise on average, so that ids are forgotten; each cut may be a restart."""
    events = [(e, 8 * n + at, 8 * n + at + broker) for n, (e, at, broker) in enumerate(events)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        part, found = Part(events, horizon, kind), list[int]()
        for cut in sorted({c for c in cuts if c < len(events)} | {len(events)}):
            found += part.to(cut)
            if data.draw(st.booleans()):
                part = Part(events, horizon, kind, part.saved())
    assert found == by_hand(events, horizon)


def test_an_event_sent_again_as_it_was_is_a_repeat_or_late() -> None:
    """At exactly the lateness it is not late yet, and still a repeat where the horizon is as long."""
    events = [(1, 0, 0), (2, LATENESS, LATENESS), (1, 0, 0), (3, LATENESS + 1, LATENESS + 1), (1, 0, 0)]
    part = Part(events, LATENESS, pa.int64())
    assert part.to(5) == [-1, -1, 0, -1, -1]  # the last one is late


def test_a_restart_reads_little_more_than_the_horizon() -> None:
    rng = np.random.default_rng(7)
    times = np.cumsum(rng.integers(0, 3, 20_000)).tolist()
    events = [(int(rng.integers(5000)), t, t) for t in times]
    part, found = Part(events, 800, pa.int64()), list[int]()
    for end in range(100, 20_001, 100):
        found += part.to(end)
        state = part.saved()
        assert len(state[2]["rungs"]) <= module.STEPS + 3
        if end > 2000:
            part = Part(events, 800, pa.int64(), state)
            assert part.recalled <= 1.1 * (800 + 800 / module.STEPS) + 200
    assert found == by_hand(events, 800) and sum(n >= 0 for n in found) > 500


def test_no_more_than_the_horizons_ids_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 100)
    events = [(n, n, n) for n in range(100_000)]
    part = Part(events, 1000, pa.int64())
    most = 0
    for end in range(500, 100_001, 500):
        part.to(end)
        most = max(most, len(part.repeats))
    assert most < 2 * 1501 + 100 + 500
    assert len(part.repeats._newest) < 3 * most


def test_rows_that_are_gone_are_refused_with_their_number_or_accepted() -> None:
    events = [(n, 10 * n, 10 * n) for n in range(100)]
    part = Part(events, 200, pa.int64())
    for end in range(1, 101):
        part.to(end)
    offset, watermark, state = part.saved()
    gone = 7

    def again() -> tuple[Repeats, Any]:
        repeats = Repeats(200, state)
        rung = repeats.recall_from(watermark)
        assert rung is not None
        rows = slice(rung[0] + gone, offset)
        repeats.recall(*part._columns(rows, Judge(LATENESS, AHEAD, rung[1])))
        return repeats, rung

    repeats, rung = again()
    with pytest.raises(RefusedError, match=r"7 events of tx/0 are gone .* --accept-loss"):
        repeats.recall_end(rung, "tx/0", accept_loss=False)
    repeats.recall_end(rung, "tx/0", accept_loss=True)
    state = repeats.state()  # a start after that one misses nothing
    repeats, rung = again()
    repeats.recall_end(rung, "tx/0", accept_loss=False)


REPLAYED = """
streams:
  tx:
    topic: tx
    event_time: {field: ts, unit: ms}
    event_id: id
    drop_repeats: 3h
    lateness: 1m
    max_ahead: 1m
    fields: {id: string, card: string}
entities: {card: string}
views:
  v: {entity: card, stream: tx, features: {n: {agg: count, windows: [10m]}}}
"""


def test_a_replay_that_starts_in_the_middle_reads_the_horizon_before_it(tmp_path: Path) -> None:
    """Ids come again up to four hours later with a new time: far beyond the window, which is all that it would read."""
    (tmp_path / "features.yaml").write_text(REPLAYED)
    definition = load(tmp_path / "features.yaml")
    rng = np.random.default_rng(5)
    times = T0 + 20_000 * np.arange(4000)
    ids = [f"e{max(0, n - int(rng.integers(1, 720))) if rng.random() < 0.4 else n}" for n in range(4000)]
    columns = {
        "ts": times, "id": ids, "card": [f"c{n % 3}" for n in range(4000)], "_partition": np.arange(4000) % 2,
        "_offset": np.arange(4000) // 2, "_timestamp_ms": times,
    }  # fmt: skip
    (tmp_path / "archive" / "tx").mkdir(parents=True)
    pq.write_table(pa.table(columns), tmp_path / "archive" / "tx" / "a.parquet", row_group_size=100)
    start = int(times[2500])
    found, counts = [], []
    for name, from_ms in (("whole", 0), ("middle", start)):
        options = ReplayOptions(f"archive:{tmp_path / 'archive'}", tmp_path / name, from_ms, quiet=True)
        counts.append(replay(definition, options).counts)
        rows = load_training(tmp_path / name).arrow()
        found.append(rows.filter(pc.greater_equal(rows["event_time_ms"], start)))
    assert found[0].equals(found[1]) and found[0].num_rows > 800
    assert 0 < counts[1]["repeat"] < counts[0]["repeat"] and counts[1]["rows"] < 2300
