"""Who is late, which shard a row belongs to."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dataflows.board import NEVER
from dataflows.route import Judge, shard_of, split
from lookback.definition import load
from lookback.events import ViewRows, key_texts

FRAUD = load("features/fraud.yaml")
TIMES = st.lists(st.integers(-(10**13), 10**13), max_size=40)


@given(TIMES, st.integers(0, 10**12), st.lists(st.integers(0, 40), max_size=4))
def test_late_is_what_a_loop_says_however_batches_are_cut(
    times: list[int], lateness: int, cuts: list[int]
) -> None:
    watermark, expected = NEVER, []
    for t in times:
        watermark = max(watermark, t)
        expected.append(t < watermark - lateness)
    judge = Judge(lateness, 0)
    found: list[bool] = []
    bounds = [0, *sorted(min(c, len(times)) for c in cuts), len(times)]
    for a, b in itertools.pairwise(bounds):
        judged = judge.judge(np.array(times[a:b], np.int64), None)
        assert judged.ahead is None
        found.extend([False] * (b - a) if judged.late is None else judged.late.tolist())
    assert found == expected
    assert judge.watermark_ms == watermark


def test_an_event_far_ahead_moves_no_watermark() -> None:
    """An event from 2099 between two of now: it alone is refused; without broker times it can't be told."""
    now, far = 1_700_000_000_000, 4_070_908_800_000
    times, broker = np.array([now, far, now + 1]), np.array([now, now, now + 1])
    judge = Judge(600_000, 3_600_000)
    judged = judge.judge(times, broker)
    assert judged.late is None
    assert judged.ahead is not None
    assert judged.ahead.tolist() == [False, True, False]
    assert judge.watermark_ms == now + 1
    blind = Judge(600_000, 3_600_000)
    judged = blind.judge(times, None)
    assert judged.ahead is None
    assert judged.late is not None
    assert judged.late.tolist() == [False, False, True]


def test_exactly_max_ahead_and_exactly_lateness_are_accepted() -> None:
    judge = Judge(10, 5)
    judged = judge.judge(np.array([105, 95]), np.array([100, 100]))
    assert judged.late is None
    assert judged.ahead is None
    judged = judge.judge(np.array([94, 106]), np.array([100, 100]))
    assert judged.late is not None
    assert judged.late.tolist() == [True, False]
    assert judged.ahead is not None
    assert judged.ahead.tolist() == [False, True]


def test_a_shard_is_xxh3_of_the_key_text_for_ever() -> None:
    keys = ["c1", "", "ä|b", "x" * 300]
    assert shard_of(keys, 32).tolist() == [xxhash.xxh3_64_intdigest(k.encode()) % 32 for k in keys]
    assert shard_of(["c1", "card-000001"], 32).tolist() == [2, 21]


@pytest.mark.parametrize("shards", [1, 2, 32])
@pytest.mark.parametrize("keep_null", [True, False])
def test_each_row_goes_to_the_shard_of_its_key(shards: int, keep_null: bool) -> None:
    rng = np.random.default_rng(2)
    view = FRAUD.views["card_activity"]
    width, words = view.plan.width, view.plan.words
    count, texts = 500, [f"t{i}" for i in range(50)]
    keys = [f"k{i}" for i in range(40)]
    code = rng.integers(-1, 40, count).astype(np.int32)
    values = rng.integers(0, 50, (width, count))
    rows = ViewRows(keys, code, rng.integers(0, 10**9, count), values, texts)
    position = np.arange(count)
    base = pa.RecordBatch.from_arrays([pa.array(position)], names=["id"]) if keep_null else None
    found = split(0, view, rows, position, shards, base=base)
    seen = []
    text_rows = [words + i for i, column in enumerate(view.plan.columns) if column.kind.value == "text"]
    assert text_rows
    for shard, chunk in found.items():
        found_keys = key_texts(chunk.keys)
        for i, place in enumerate(chunk.position.tolist()):
            seen.append(place)
            if code[place] < 0:
                assert keep_null
                assert chunk.code[i] == -1
                assert shard == 0
            else:
                assert found_keys[chunk.code[i]] == keys[code[place]]
                assert shard_of([keys[code[place]]], shards)[0] == shard
            for row in range(width):
                want = values[row, place]
                if row in text_rows:
                    assert chunk.texts[chunk.values[row, i]] == texts[want]
                else:
                    assert chunk.values[row, i] == want
            if chunk.base is not None:
                assert chunk.base.column("id")[i].as_py() == place
        assert (np.diff(chunk.position) > 0).all()
        assert len(set(found_keys)) == len(found_keys)
    wanted = [i for i in range(count) if keep_null or code[i] >= 0]
    assert sorted(seen) == wanted
