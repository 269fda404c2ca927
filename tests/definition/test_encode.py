"""Rows of a batch are those that a plain loop gives; a request is a batch of one."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookback.definition import View, loads
from lookback.definition.encode import join_parts, split_parts
from lookback.errors import UsageError
from lookback.events import EventBatch, ViewRows, key_texts
from lookback.windows.plan import Kind
from tests.definition.samples import GOOD, batch, with_features

FEATURES = """
a: {agg: count, where: declined and amount > 5, windows: [1h]}
b: {agg: sum, of: amount, windows: [1h]}
c: {agg: last, of: device, windows: [1h]}
d: {agg: mean, of: score, where: "hour(event_time) < 12 or device == 'd1'", windows: [1h]}
e: {agg: distinct, of: merchant, where: device is None, windows: [1h]}
f: {agg: max, of: at, windows: [1h]}
g: {agg: min, of: declined, windows: [1h]}
h: {agg: seen_before, of: device, where: declined, windows: [1h]}
i: {agg: count, of: card, windows: [1h]}
"""


def conditions(row: Mapping[str, Any], time_ms: int) -> dict[str, bool]:
    """Return by hand which features of the above each row takes part in."""
    hour = time_ms // 3_600_000 % 24
    return {
        "a_1h": row["declined"] and row["amount"] > 500,
        "c_1h": row["device"] is not None,
        "d_1h": row["score"] is not None and (hour < 12 or row["device"] == "d1"),
        "e_1h": row["device"] is None,
        "f_1h": row["at"] is not None,
        "h_1h": row["declined"] and row["device"] is not None,
        "i_1h": row["card"] is not None,
    }


def expected_word(value: Any, kind: Kind) -> int:
    if kind is Kind.FLOAT:
        return int(struct.unpack("<q", struct.pack("<d", 0.0 if value == 0 else value))[0])
    return int(value)


def check(view: View, rows: list[dict[str, Any]], times: list[int], found: ViewRows) -> None:
    keys = key_texts(found.keys)
    assert len(set(keys)) == len(keys)
    assert found.values.shape == (view.plan.width, len(rows)) and found.values.flags.c_contiguous
    for i, (row, time_ms) in enumerate(zip(rows, times, strict=True)):
        key = [row[name] for name in view.key_fields]
        text = (
            None if None in key else str(key[0]) if len(key) == 1 else join_parts([str(part) for part in key])
        )
        assert (keys[found.key_code[i]] if found.key_code[i] >= 0 else None) == text
        step = view.plan.resolution_ms
        assert found.time_ms[i] == time_ms - time_ms % step
        takes_part = conditions(row, time_ms)
        for feature in view.features:
            if feature.term.bit >= 0:
                word = int(found.values[feature.term.bit // 64, i]) & (2**64 - 1)
                assert bool(word >> (feature.term.bit % 64) & 1) == takes_part[feature.name], feature.name
        for position, column in enumerate(view.plan.columns):
            word, value = int(found.values[view.plan.words + position, i]), row[column.name]
            if value is None:
                assert word == 0
            elif column.kind is Kind.TEXT:
                assert found.texts[word] == value
            else:
                assert word == expected_word(value, column.kind)
    assert set(found.key_code.tolist()) - {-1} == set(range(len(keys)))


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


_rows = st.lists(
    st.fixed_dictionaries(
        {
            "tx_id": st.integers(-(2**63), 2**63 - 1),
            "card": optional(st.sampled_from(["c1", "c2", "", "é|", "\\", "a\\|b"])),
            "merchant": st.sampled_from(["m", "m|", "\\", "|m"]),
            "device": optional(st.sampled_from(["d1", "d2", ""])),
            "amount": st.integers(0, 1_000),
            "score": optional(st.sampled_from([0.0, -0.0, 1.5, -1e300])),
            "declined": st.booleans(),
            "at": optional(st.integers(-(2**40), 2**40)),
        }
    ),
    max_size=12,
)
_EXACT = with_features(FEATURES).views["card_activity"]
_COARSE = with_features(FEATURES, "    resolution: 1m\n").views["card_activity"]
_BOTH_TEXT = GOOD.replace("entity: card\n", "entity: card_merchant\n")
_BOTH = loads(_BOTH_TEXT[: _BOTH_TEXT.index("on_demand:")]).views["card_activity"]


@settings(max_examples=150)
@given(_rows, st.integers(-(2**45), 2**45), st.integers(0, 5))
def test_a_batch_is_what_a_loop_gives(rows: list[dict[str, Any]], start: int, cut: int) -> None:
    times = [start + 17_000_000 * i for i in range(len(rows))]
    for view in (_EXACT, _COARSE, _BOTH):
        check(view, rows, times, view.encode(batch(view.stream, rows, times)))
        whole = batch(view.stream, rows, times)
        part = EventBatch(
            whole.stream,
            whole.topic,
            0,
            whole.offset[cut:],
            whole.event_time_ms[cut:],
            None,
            whole.fields.slice(cut),
        )
        check(view, rows[cut:], times[cut:], view.encode(part))  # a slice reads its own rows


@settings(max_examples=100)
@given(_rows, st.integers(-(2**45), 2**45))
def test_a_request_is_a_batch_of_one(rows: list[dict[str, Any]], time_ms: int) -> None:
    for row in rows:
        event = {**row, "amount": f"{row['amount'] // 100}.{row['amount'] % 100:02}"}
        for view in (_EXACT, _COARSE, _BOTH):
            alone = view.encode_request(event, time_ms)
            one = view.encode(batch(view.stream, [row], [time_ms]))
            assert (alone.keys, alone.texts) == (key_texts(one.keys), one.texts)
            assert alone.key_code.tolist() == one.key_code.tolist()
            assert np.array_equal(alone.values, one.values) and alone.values.dtype == one.values.dtype
            assert alone.time_ms.tolist() == one.time_ms.tolist()


def test_more_conditions_than_a_word_has_bits() -> None:
    features = "\n".join(f"f{i:03}: {{agg: count, where: amount == {i}, windows: [1h]}}" for i in range(150))
    view = with_features(features).views["card_activity"]
    assert (view.plan.bits, view.plan.words) == (150, 3)
    rows = [{"card": "c", "amount": 100 * i} for i in range(150)]
    found = view.encode(batch(view.stream, rows))
    bits = found.values[:3].view(np.uint64)
    for i, feature in enumerate(view.features):
        bit = feature.term.bit
        assert (bits[bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).nonzero()[0].tolist() == [i]


@given(st.lists(st.text(alphabet="a|\\é", max_size=5), min_size=2, max_size=4))
def test_composite_keys_can_be_told_apart(parts: list[str]) -> None:
    assert split_parts(join_parts(parts)) == parts


INT_KEY = """
streams:
  moves:
    topic: moves
    event_time: {field: ts, unit: s}
    fields: {from: int64, to: {type: int64, from: "TO ACCOUNT"}, cents: int64}
entities:
  account: int64
  pair: [account, other]
views:
  incoming: {entity: account, key: to, stream: moves, features: {n: {agg: sum, of: cents, windows: [1d]}}}
  pairs:
    {entity: pair, key: {account: from, other: to}, stream: moves, features: {n: {agg: count, windows: [1d]}}}
"""


def test_int64_keys_and_keys_under_other_names() -> None:
    views = loads(INT_KEY).views
    rows: list[dict[str, Any]] = [
        {"from": 7, "to": -(2**63), "cents": 1},
        {"from": 7, "to": 8, "cents": 2},
        {"from": None, "to": 8},
    ]
    stream = views["pairs"].stream
    assert key_texts(views["incoming"].encode(batch(stream, rows)).keys) == [str(-(2**63)), "8"]
    pairs = views["pairs"].encode(batch(stream, rows))
    assert (key_texts(pairs.keys), pairs.key_code.tolist()) == ([f"7|{-(2**63)}", "7|8"], [0, 1, -1])
    assert views["pairs"].key_text({"account": "007", "other": 8, "more": 1}) == "7|8"
    assert views["pairs"].key_parts("7|8") == {"account": 7, "other": 8}
    row = views["incoming"].encode_request({"ts": 1.5, "account": 5, "cents": 3})
    assert (row.keys, row.time_ms.tolist(), row.values.tolist()) == (["5"], [1500], [[3]])
    assert views["incoming"].encode_request({"ts": 1, "TO ACCOUNT": 6}).keys == ["6"]
    assert views["incoming"].encode_request({"ts": 1}).key_code.tolist() == [-1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "needs the entity key account=… other=…; account, other is missing"),
        ({"account": "x", "other": 1}, "must be int64"),
        ({"account": 1.5, "other": 1}, "must be int64"),
        ({"account": True, "other": 1}, "must be int64"),
        ({"account": 2**63, "other": 1}, "must be int64"),
    ],
)
def test_keys_that_are_none(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        loads(INT_KEY).views["pairs"].key_text(parts)


def test_requests_that_are_not_as_declared() -> None:
    with pytest.raises(UsageError, match="`amount` of the transactions event has more than 2 decimals"):
        _EXACT.encode_request({"ts": 1, "amount": 1.234})
    with pytest.raises(UsageError, match="has no event time; give `ts`"):
        _EXACT.encode_request({"amount": 1})


def test_what_a_request_leaves_out_takes_no_part() -> None:
    view = with_features(
        """
        a: {agg: sum, of: amount, windows: [1h]}
        b: {agg: count, of: amount, windows: [1h]}
        c: {agg: ratio, numerator: {agg: sum, of: amount}, denominator: {agg: count}, windows: [1h]}
        d: {agg: seen_before, of: merchant, where: declined, windows: [1h]}
        e: {agg: count, windows: [1h]}
        f: {agg: last, of: device, windows: [1h]}
        """
    ).views["card_activity"]
    by_name = {feature.name: i for i, feature in enumerate(view.features)}
    row = view.encode_request({"ts": 0, "card": "c"})
    assert (
        row.values[0, 0] == 0
    )  # in no condition: the count of amounts and the ratio's sum have bits for that
    # and those that have none are named, to be evaluated without the row
    assert view.blind_features({"card": "c"}) == (by_name["a_1h"], by_name["d_1h"])
    assert view.blind_features({"amount": 1, "merchant": "m"}) == ()
