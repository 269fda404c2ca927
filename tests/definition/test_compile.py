"""Plans: columns, bits and types follow from names and meaning alone."""

from __future__ import annotations

import random

import pytest

from lookback.definition import load
from lookback.windows.log import ViewLog
from lookback.windows.plan import Agg, Column, Kind, Result, Term
from tests.definition.samples import ROOT, with_features

ALL = ROOT / "examples" / "definitions" / "every_aggregate.yaml"

RESULTS = {
    "rows_lifetime": (Result.INT, 0, 0),
    "with_points_1d": (Result.INT, 0, 0),
    "total_1d": (Result.DECIMAL, 19, 2),
    "points_1d": (Result.INT, 0, 0),
    "average_7d": (Result.FLOAT, 0, 0),
    "smallest_7d": (Result.DECIMAL, 12, 2),
    "newest_issue_30d": (Result.TIMESTAMP, 0, 0),
    "spread_7d": (Result.FLOAT, 0, 0),
    "deviation_7d": (Result.FLOAT, 0, 0),
    "first_shop_lifetime": (Result.TEXT, 0, 0),
    "shops_1d": (Result.INT, 0, 0),
    "top_shops_30d": (Result.TEXT, 0, 0),
    "usual_shop_30d": (Result.TEXT, 0, 0),
    "shop_mix_30d": (Result.FLOAT, 0, 0),
    "decline_rate_1d": (Result.FLOAT, 0, 0),
    "since_first_lifetime": (Result.INT, 0, 0),
    "since_last_30d": (Result.INT, 0, 0),
    "gap_30d": (Result.INT, 0, 0),
    "pressure_1d": (Result.FLOAT, 0, 0),
    "spend_rate_1d": (Result.FLOAT, 0, 0),
    "last_amounts_30d": (Result.DECIMAL, 12, 2),
    "shop_seen_90d": (Result.BOOL, 0, 0),
}


def test_types_of_results() -> None:
    features = {one.name: one for one in load(ALL).views["card_all"].features}
    for name, (result, precision, scale) in RESULTS.items():
        one = features[name]
        assert (one.result, one.precision, one.scale) == (result, precision, scale), name
    assert {one.agg for one in features.values()} == set(Agg)
    assert features["total_1d"].has_default and features["total_1d"].default == 0
    assert features["average_7d"].default == 12.5
    assert features["smallest_7d"].has_default and features["smallest_7d"].default is None
    assert features["largest_7d"].default == 0 and features["first_shop_lifetime"].default == "none"
    assert features["deviation_7d"].delay_ms == 86_400_000
    assert features["pressure_1d"].half_life_ms == 7_200_000 and features["top_shops_30d"].k == 5
    assert features["rows_90m"].window_ms == 5_400_000 and features["rows_lifetime"].window_ms is None


def test_the_kernel_takes_every_plan() -> None:
    for path in [
        ROOT / "features" / "fraud.yaml",
        *sorted((ROOT / "examples" / "definitions").glob("*.yaml")),
    ]:
        for view in load(path).views.values():
            log = ViewLog(view.plan)
            assert log.evaluate_newest(log.new_slots(1)).words.shape == (view.plan.out_starts[-1], 1)


def test_layout_does_not_depend_on_the_order_in_the_file(seed: int) -> None:
    lines = [
        "a: {agg: sum, of: amount, where: declined, windows: [1h, 1m]}",
        "b: {agg: last, of: device, windows: [1h]}",
        "c: {agg: count, of: device, windows: [1h]}",
        "d: {agg: max, of: score, windows: [1h]}",
        "e: {agg: count, where: declined, windows: [1h]}",
    ]
    first = with_features("\n".join(lines)).views["card_activity"]
    random.Random(seed).shuffle(lines)
    again = with_features("\n".join(lines)).views["card_activity"]
    assert again.plan == first.plan and again.fingerprint == first.fingerprint
    assert [one.name for one in first.features] == ["a_1h", "a_1m", "b_1h", "c_1h", "d_1h", "e_1h"]


@pytest.mark.parametrize(
    ("line", "term", "other", "bits"),
    [
        ("f: {agg: count, windows: [1h]}", Term(), None, 0),
        ("f: {agg: sum, of: amount, windows: [1h]}", Term(0, -1), None, 0),
        ("f: {agg: sum, of: score, windows: [1h]}", Term(0, 0), None, 1),
        ("f: {agg: count, of: amount, windows: [1h]}", Term(-1, 0), None, 1),
        ("f: {agg: count, where: declined, windows: [1h]}", Term(-1, 0), None, 1),
        ("f: {agg: time_since_last, windows: [1h]}", Term(), None, 0),
        ("f: {agg: seen_before, of: device, windows: [1h]}", Term(0, 0), None, 1),
        ("f: {agg: seen_before, of: device, where: declined, windows: [1h]}", Term(0, 0), Term(0, 1), 2),
        ("f: {agg: seen_before, of: merchant, where: declined, windows: [1h]}", Term(0, 0), Term(0, -1), 1),
        (
            "f: {agg: ratio, numerator: {agg: count, where: declined}, "
            "denominator: {agg: count}, windows: [1h]}",
            Term(-1, 0),
            Term(-1, -1),
            1,
        ),
        (
            "f: {agg: ratio, numerator: {agg: sum, of: amount}, denominator: {agg: sum, of: score}, "
            "where: declined, windows: [1h]}",
            Term(0, 0),
            Term(1, 1),
            2,
        ),
    ],
)
def test_terms(line: str, term: Term, other: Term | None, bits: int) -> None:
    view = with_features(line).views["card_activity"]
    assert (view.features[0].term, view.features[0].other, view.plan.bits) == (term, other, bits)


def test_columns_and_bits_are_shared() -> None:
    view = with_features(
        """
        a: {agg: sum, of: amount, windows: [1h]}
        b: {agg: max, of: amount, where: declined, windows: [1h]}
        c: {agg: count, where: (declined), windows: [1h]}
        d: {agg: last, of: device, windows: [1h]}
        e: {agg: distinct, of: device, windows: [1h]}
        f: {agg: min, of: declined, windows: [1h]}
        g: {agg: mean, of: score, windows: [1h]}
        """
    ).views["card_activity"]
    assert view.plan.columns == (
        Column("amount", Kind.INT, 2),
        Column("device", Kind.TEXT),
        Column("declined", Kind.INT),
        Column("score", Kind.FLOAT),
    )
    # b: declined, of a required amount; c: the same without a field; d and e share one; g: score is there
    assert [one.term.bit for one in view.features] == [-1, 0, 1, 2, 2, -1, 3]
