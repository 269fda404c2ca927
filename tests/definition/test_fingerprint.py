"""What changes a value changes the fingerprint, nothing else does, and no release changes it by accident."""

from __future__ import annotations

import pytest

from lookback.definition import Definition, loads
from lookback.definition.fingerprint import digest
from tests.definition.samples import GOOD


def prints(definition: Definition) -> tuple[str, str]:
    return definition.views["card_activity"].fingerprint, definition.fingerprint


# of GOOD: state and KV keys in use are named by these, so a change here orphans them
GOLDEN = "28782df10d6d9e5214e99b157b85740d90ed8b39691b1f1385faa3fb5fd27551"


def test_the_fingerprint_of_an_unchanged_definition_stays() -> None:
    assert prints(loads(GOOD))[0] == GOLDEN
    assert len(GOLDEN) == 64 and loads(GOOD).views["card_activity"].short_fingerprint == GOLDEN[:12]
    assert digest({"b": [1, 0.5, "é"], "a": None}) == digest({"a": None, "b": [1, 0.5, "é"]})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("streams:\n", "# a comment\nowner: x\ntags: [y]\nstreams:\n"),
        ("    topic: transactions\n", "    description: d\n    topic: transactions\n"),
        ("of: amount", "of: amount, description: d, owner: o, tags: [t]"),
        ("{agg: count, windows: [1m, 1h]}", "{agg: count, windows: [1h, 1m]}"),
        ("event_id: tx_id", "lateness: 10m\n    max_ahead: 60m\n    format: json"),
        ("      score: float64?\n", ""),
        ("card: string\n  merchant: string", "merchant: string\n  card: string"),
        ("services:\n  fraud: [card_activity.tx_count_1m, ratio]", ""),
        ("amount: decimal(12,2)", "amount: {type: 'decimal(12,2)', from: amount}"),
        ("ratio: amount / card", "ratio: (amount) /card"),
    ],
)
def test_what_changes_no_value_changes_no_fingerprint(old: str, new: str) -> None:
    assert old in GOOD
    assert prints(loads(GOOD.replace(old, new, 1))) == prints(loads(GOOD))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("topic: transactions", "topic: others"),
        ("unit: ms", "unit: s"),
        ("field: ts", "field: at"),
        ("event_id: tx_id", "lateness: 11m"),
        ("event_id: tx_id", "max_ahead: 2h"),
        ("event_id: tx_id", "event_id: tx_id\n    drop_repeats: 1h"),
        ("event_id: tx_id", "format: arrow"),
        ("decimal(12,2)", "decimal(12,3)"),
        ("decimal(12,2)", "decimal(12,2)?"),
        ("amount: decimal(12,2)", "amount: {type: 'decimal(12,2)', from: sum}"),
        ("entity: card\n", "entity: card\n    key: merchant\n"),
        ("entity: card\n", "entity: card\n    resolution: 1s\n"),
        ("agg: max", "agg: min"),
        ("[30d]", "[31d]"),
        ("[1m, 1h]", "[1m, 60m]"),
        ("[1m, 1h]", "[1m]"),
        ("tx_count:", "n:"),
        ("k: 3", "k: 4"),
        ("of: amount", "of: amount, delay: 1d"),
        ("of: amount", "of: amount, default: 0"),
        ("of: amount", "of: amount, where: declined"),
        ("of: amount", "of: tx_id"),
    ],
)
def test_what_changes_a_value_changes_the_fingerprint(old: str, new: str) -> None:
    assert old in GOOD
    text = GOOD[: GOOD.index("on_demand:")]
    changed, base = loads(text.replace(old, new, 1)), loads(text)
    assert prints(changed)[0] != prints(base)[0]
    assert prints(changed)[1] != prints(base)[1]


def test_an_on_demand_expression_changes_the_files_fingerprint_only() -> None:
    changed = loads(GOOD.replace("ratio: amount /", "ratio: 2 * amount /"))
    assert prints(changed)[0] == prints(loads(GOOD))[0] and prints(changed)[1] != prints(loads(GOOD))[1]
