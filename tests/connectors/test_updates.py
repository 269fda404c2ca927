"""Updates as an outbox keeps them, and as messages."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.updates import Updates, ViewMessages, from_entry, join, json_texts, to_entry
from lookback.definition import load
from lookback.windows.plan import Status

DEFINITION = """\
streams:
  payments:
    topic: payments
    event_time: {field: ts, unit: ms}
    event_id: id
    fields: {id: int64, card: int64, shop: string, amount: "decimal(12,2)", rate: float64}
entities: {pair: [card, shop]}
views:
  pairs:
    entity: pair
    stream: payments
    features:
      n: {agg: count, windows: [10m]}
      paid: {agg: sum, of: amount, windows: [10m]}
      rate: {agg: mean, of: rate, windows: [10m]}
      shop: {agg: last, of: shop, windows: [10m]}
      top: {agg: top_k, of: shop, k: 2, windows: [10m]}
      newest: {agg: last_k, of: amount, k: 2, windows: [10m]}
"""
FINGERPRINT = "f" * 64


def updates(number: int, keys: list[str], words: list[list[int]], texts: list[str]) -> Updates:
    n = len(keys)
    times = np.arange(n) + 1000 * number
    status = np.zeros((len(words), n), np.uint8)
    return Updates(FINGERPRINT, keys, times, times + 1, times + 2, np.array(words, np.int64), status, texts)


def bits(x: float) -> int:
    return int(np.float64(x).view(np.int64))


def test_an_entry_gives_back_what_it_was_made_of() -> None:
    """Also texts that are no Unicode, of several views, one of them without any update."""
    given = [
        updates(1, ["a", "ü\ud800"], [[1, 2], [3, 4]], ["x\n", "\udfff"]),
        updates(2, [], [[], [], []], []),
        updates(3, ["b"], [[-5]], []),
    ]
    for before, after in zip(given, from_entry(to_entry(given)), strict=True):
        for name in ("fingerprint", "keys", "texts"):
            assert getattr(before, name) == getattr(after, name)
        for name in ("event_time_ms", "as_of_ms", "sequence", "words", "status"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_joined_updates_keep_their_texts() -> None:
    """Text ids of each part go on meaning its own texts."""
    first, second = updates(1, ["a", "b"], [[0, 1], [7, 8]], ["x", "y"]), updates(2, ["c"], [[0], [9]], ["z"])
    both = join([first, second], [0])
    assert both.keys == ["a", "b", "c"]
    assert [both.texts[i] for i in both.words[0].tolist()] == ["x", "y", "z"]
    assert both.words[1].tolist() == [7, 8, 9]
    assert first.words[0].tolist() == [0, 1]


def test_messages_are_json_with_every_value_as_it_reads(tmp_path: Path) -> None:
    """Nulls, defaults, overflows, decimals, lists, texts that need escapes, parts of a composite key."""
    path = tmp_path / "features.yaml"
    path.write_text(DEFINITION)
    view = load(path).views["pairs"]
    texts = ['a"b', "ü", "s|\\"]
    given = {
        "n": [[3, 0]], "paid": [[-12345, 99]], "rate": [[bits(0.1), 0]], "shop": [[0, 0]],
        "top": [[2, 0], [1, 0], [2, 0]], "newest": [[2, 0], [100, 0], [0, 0]],
    }  # fmt: skip
    words = [row for feature in view.plan.features for row in given[feature.name.removesuffix("_10m")]]
    found = updates(
        1,
        [view.key_text({"card": 7, "shop": "s|\\"}), view.key_text({"card": -1, "shop": "x"})],
        words,
        texts,
    )
    found.status[:, 1] = Status.DEFAULT
    paid = [feature.name for feature in view.plan.features].index("paid_10m")
    found.status[view.plan.out_starts[paid], 1] = Status.OVERFLOW
    keys, values = ViewMessages(view).messages(found, ["box-1-0", "box-1-1"])
    assert keys == [
        f"pairs:{view.fingerprint[:12]}:7|s\\|\\\\".encode(),
        f"pairs:{view.fingerprint[:12]}:-1|x".encode(),
    ]
    first, second = map(json.loads, values)
    assert first == {
        "id": "box-1-0", "view": "pairs", "fingerprint": view.fingerprint,
        "entity": {"card": 7, "shop": "s|\\"}, "event_time_ms": 1000, "as_of_ms": 1001, "sequence": 1002,
        "values": {
            "n_10m": 3, "paid_10m": "-123.45", "rate_10m": 0.1, "shop_10m": 'a"b', "top_10m": ["ü", "s|\\"],
            "newest_10m": ["1.00", "0.00"],
        },
    }  # fmt: skip
    assert second["values"] == {
        "n_10m": 0, "paid_10m": None, "rate_10m": None, "shop_10m": None, "top_10m": None, "newest_10m": None,
    }  # fmt: skip
    assert second["overflow"] == ["paid_10m"]
    assert values[0].startswith(b'{"id":"box-1-0",')  # what the tail of the topic is searched for


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, None, -(2**63)]), ["1", "null", str(-(2**63))]),
        (pa.array([True, False, None]), ["true", "false", "null"]),
        (pa.array([1.5, float("inf"), float("nan"), 1e300, 5.0]), ["1.5", "null", "null", "1e+300", "5"]),
        (pa.array([Decimal("0.10"), None], pa.decimal128(12, 2)), ['"0.10"', "null"]),
        (pa.array([[1, 2], [], None]), ["[1,2]", "[]", "null"]),
        (pa.array([["a"], [None]]), ['["a"]', "[null]"]),
    ],
)
def test_json_of_each_type(values: pa.Array, texts: list[str]) -> None:
    """Each text is JSON, and means the value."""
    assert json_texts(values).to_pylist() == texts
    assert [json.loads(text) for text in texts]
