from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from examples.card_fraud.compare import KEY
from examples.card_fraud.plot import draw
from examples.card_fraud.replayed import history, last_rows
from lookback.definition import View, load

ROOT = Path(__file__).resolve().parents[2]


def view(name: str) -> View:
    return load(ROOT / "features" / "fraud.yaml").views[name]


def training(of: View, rows: Sequence[tuple[str | None, str | None]]) -> pa.Table:
    """Return a table of rows in order; every feature of row i holds i."""
    columns = {
        "card": pa.array([card for card, _ in rows], pa.string()),
        "merchant": pa.array([merchant for _, merchant in rows], pa.string()),
    }
    return pa.table(columns | {f"{of.name}.{f.name}": list(range(len(rows))) for f in of.features})


def test_the_last_row_of_each_entity_is_taken() -> None:
    merchants = view("merchant_activity")
    rows = [("c1", "m1"), ("c1", "m2"), ("c2", "m1"), ("c2", None), ("c1", "m1"), ("c3", "m3")]
    found = last_rows(training(merchants, rows), merchants)
    assert found.column_names == [KEY, *(feature.name for feature in merchants.features)]
    values = found["tx_count_1h"].to_pylist()
    assert dict(zip(found[KEY].to_pylist(), values, strict=True)) == {"m1": 4, "m2": 1, "m3": 5}


def test_a_composite_key_is_the_text_that_the_store_uses() -> None:
    pairs = view("card_merchant")
    rows = [("a|b", "m1"), ("a", "b|m1"), ("a|b", "m1"), (None, "m1"), ("a", "m1")]
    found = last_rows(training(pairs, rows), pairs)
    keys = found[KEY].to_pylist()
    assert dict(zip(keys, found["tx_count_30d"].to_pylist(), strict=True)) == {
        pairs.key_text({"card": "a|b", "merchant": "m1"}): 2,
        pairs.key_text({"card": "a", "merchant": "b|m1"}): 1,
        pairs.key_text({"card": "a", "merchant": "m1"}): 4,
    }


def test_no_rows_have_no_last_row() -> None:
    cards = view("card_activity")
    assert last_rows(training(cards, []), cards).num_rows == 0


def test_history_marks_the_fraud_and_the_picture_is_drawn(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "tx_id": [1, 2, 3],
            "card": ["c1", "c2", "c1"],
            "event_time_ms": [10, 20, 30],
            "view.mean": pa.array([None, 1.0, 2.5]),
        }
    )
    truth = pa.table({"tx_id": [1, 2, 3], "is_fraud": [False, True, True]})
    found = history(rows, truth, "c1", ["view.mean"])
    assert found["time_ms"].tolist() == [10, 30]
    assert found["is_fraud"].tolist() == [False, True]
    np.testing.assert_array_equal(found["view.mean"], [np.nan, 2.5])
    draw(tmp_path / "c1.png", "Card c1", found, ["view.mean"])
    assert (tmp_path / "c1.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no events"):
        draw(tmp_path / "c9.png", "Card c9", history(rows, truth, "c9", ["view.mean"]), ["view.mean"])
