"""Every way a definition can be wrong is named with its place and what to write, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookback.definition import load, loads
from lookback.errors import DefinitionError, UsageError
from tests.definition.samples import GOOD, ROOT

COUNT = "tx_count: {agg: count, windows: [1m, 1h]}"
MAX = "{agg: max, of: amount, windows: [30d]}"
RATIO = "ratio: amount / card_activity.amount_max_30d"

# what is replaced, by what, (line, column) of the problem, what the message says
WRONG = [
    ("agg: max", "agg: maxx", (25, 25), "did you mean `max`?"),
    ("of: amount", "of: amuont", (25, 34), "no field `amuont`; did you mean `amount`?"),
    ("topic: transactions", "topic: 5", (3, 12), "put 5 in quotes"),
    ("topic: transactions", "tpoic: transactions", (3, 5), "unknown key `tpoic`; did you mean `topic`?"),
    ("    topic: transactions\n", "", (3, 5), "`topic` is missing"),
    ("unit: ms", "unit: ns", (4, 35), "`unit` cannot be `ns`"),
    ("{field: ts, unit: ms}", "ts", (4, 17), "such as {field: ts, unit: ms}"),
    ("event_id: tx_id", "event_id: tx", (5, 15), "no field `tx`"),
    ("event_id: tx_id", "event_id: amount", (5, 15), "an id is int64 or string"),
    ("event_id: tx_id", "lateness: 10 minutes", (5, 15), "`10 minutes` is not a duration"),
    ("event_id: tx_id", "lateness: 600", (5, 15), "`600` is not a duration"),
    ("event_id: tx_id", "drop_repeats: 1h", (5, 19), "name the field that holds it with `event_id`"),
    ("event_id: tx_id", "event_id: tx_id\n    drop_repeats: 9m", (6, 19), "write 10m or more"),
    ("event_id: tx_id", "event_id: tx_id\n    drop_repeats: 3600", (6, 19), "`3600` is not a duration"),
    ("event_id: tx_id", "max_ahead: -1h", (5, 16), "`-1h` is not a duration"),
    ("event_id: tx_id", "max_ahead: 6000w", (5, 16), "longer than a hundred years"),
    ("decimal(12,2)", "decimal(20,2)", (11, 15), "a precision of 1 to 18"),
    ("decimal(12,2)", "decimal(4,5)", (11, 15), "more decimals than digits"),
    ("decimal(12,2)", "decimall", (11, 15), "is not a type"),
    ("score: float64?", "score: double?", (12, 14), "did you mean `float64?`?"),
    ("tx_id: int64", "tx_id: int64\n      tx_id: string", (8, 7), "here twice (first in line 7)"),
    ("at: timestamp?", "event_time: timestamp", (14, 7), "`from: event_time`"),
    ("at: timestamp?", "at: {type: timestamp, form: x}", (14, 29), "did you mean `from`?"),
    ("at: timestamp?", "at: 7", (14, 11), "must be a type"),
    ("card_merchant: [card, merchant]", "card_merchant: [card, card]", (18, 25), "in the key twice"),
    ("card_merchant: [card, merchant]", "card_merchant: [card]", (18, 18), "at least 2"),
    ("card_merchant: [card, merchant]", "both: [card, both]", (18, 16), "composite itself"),
    ("card_merchant: [card, merchant]", "card_merchant: float64", (18, 18), "cannot be `float64`"),
    ("card: string\n  merchant", "card: int64\n  merchant", (21, 13), "make them one type"),
    ("entity: card\n", "entity: crad\n", (21, 13), "did you mean `card`?"),
    ("entity: card\n", "entity: card\n    key: crad\n", (22, 10), "did you mean `card`?"),
    ("entity: card\n", "entity: card\n    key: amount\n", (22, 10), "a key is a string or int64 field"),
    ("entity: card\n", "entity: card\n    key: [card, merchant]\n", (22, 10), "`key` has 2 fields"),
    ("entity: card\n", "entity: card_merchant\n    key: {shop: card}\n", (22, 11), "no key part `shop`"),
    ("entity: card\n", "entity: card\n    key: 5\n", (22, 10), "`key` must be a field"),
    ("entity: card\n", "entity: card\n    resolution: 0s\n", (22, 17), "above 0"),
    ("entity: card\n", "entity: card\n    resolution: 2m\n", (25, 40), "shorter than the view's resolution"),
    ("stream: transactions", "stream: transaction", (22, 13), "did you mean `transactions`?"),
    ("tx_count:", "Tx-count:", (24, 7), "is not a name"),
    ("card_activity:", "if:", (20, 3), "a word of the expression language"),
    ("[1m, 1h]", "[1m, 1m]", (24, 44), "listed twice"),
    ("[1m, 1h]", "[0m]", (24, 40), "longer than 0"),
    ("[1m, 1h]", "[01h]", (24, 40), "is not a duration"),
    ("[1m, 1h]", "[60]", (24, 40), "is not a duration"),
    ("[1m, 1h]", "1h", (24, 39), "must be a list: [1h]"),
    ("[1m, 1h]", "[]", (24, 39), "must not be empty"),
    ("k: 3, ", "", (26, 12), "top_k needs `k`"),
    ("k: 3", "k: 101", (26, 42), "a whole number of 1 to 100"),
    ("k: 3", "k: 3, default: 1", (26, 45), "takes no default"),
    (MAX, "{agg: max, windows: [30d]}", (25, 19), "max needs `of`"),
    (MAX, "{agg: max, of: card, windows: [30d]}", (25, 34), "max takes numbers"),
    (MAX, "{agg: sum, of: declined, windows: [30d]}", (25, 34), "sum takes numbers"),
    (MAX, "{agg: mean, of: declined, windows: [30d]}", (25, 35), "`agg: ratio`"),
    (MAX, "{agg: max, of: amount, k: 2, windows: [30d]}", (25, 42), "max takes no `k`"),
    (MAX, "{agg: max, of: amount, half_life: 1d, windows: [30d]}", (25, 42), "takes no `half_life`"),
    (MAX, "{agg: decayed_sum, of: amount, windows: [30d]}", (25, 19), "needs a `half_life`"),
    (MAX, "{agg: max, of: amount, default: 1.555, windows: [30d]}", (25, 51), "more than 2 decimals"),
    (MAX, "{agg: max, of: amount, default: true, windows: [30d]}", (25, 51), "`default` must be"),
    (COUNT, "tx_count: {agg: count, default: 0.5, windows: [1h]}", (24, 39), "a whole number"),
    (COUNT, "tx_count: {agg: count, delay: soon, windows: [1h]}", (24, 37), "not a duration"),
    (COUNT, "tx_count: {agg: count, numerator: {agg: count}, windows: [1h]}", (24, 30), "belongs to ratio"),
    (
        COUNT,
        "tx_count: {agg: ratio, of: amount, windows: [1h]}",
        (24, 30),
        "inside numerator and denominator",
    ),
    (
        COUNT,
        "tx_count: {agg: ratio, numerator: {agg: count}, windows: [1h]}",
        (24, 17),
        "needs a `denominator`",
    ),
    (COUNT, "tx_count: {agg: count, where: declined == 1, windows: [1h]}", (24, 37), "`not x` for a bool"),
    (COUNT, "tx_count: {agg: count, where: amount > x, windows: [1h]}", (24, 46), "`x` is not known here"),
    (COUNT, "tx_count: {agg: count, where: amount, windows: [1h]}", (24, 37), "must be true or false"),
    (COUNT, 'tx_count: {agg: count, where: "device == None", windows: [1h]}', (24, 38), "`device is None`"),
    (
        RATIO,
        "ratio: amount / card_activity.amount_max_3d",
        (28, 19),
        "did you mean `card_activity.amount_max_30d`",
    ),
    (RATIO, "ratio: card_activity.top_30d == 'x'", (28, 10), "is a list"),
    (RATIO, "ratio: ratio + 1", (28, 10), "cannot read itself"),
    (
        RATIO,
        "ratio: two + 1\n  two: three + 1\n  three: ratio + 1",
        (28, 10),
        "reads two reads three reads ratio",
    ),
    (RATIO, "ratio: amount / card_activity.amount_max_30d\n  amount: 1 + 1", (29, 3), "a field of stream"),
    (
        RATIO,
        "ratio: amount / card_activity.amount_max_30d\n  card_activity: 1 + 1",
        (29, 3),
        "name of a view",
    ),
    (
        RATIO,
        "ratio: amount / card_activity.amount_max_30d\n  hour: 1 + 1",
        (29, 3),
        "a word of the expression",
    ),
    (RATIO, "ratio: {expression: amount + 1, stream: tx}", (28, 43), "no stream `tx`"),
    (RATIO, "ratio: 7", (28, 10), "must be an expression"),
    ("[card_activity.tx_count_1m, ratio]", "[ratoi]", (30, 11), "did you mean `ratio`?"),
    ("[card_activity.tx_count_1m, ratio]", "[ratio, ratio]", (30, 18), "listed twice"),
    ("[card_activity.tx_count_1m, ratio]", "[card_activity.tx_count]", (30, 11), "add a window"),
    ("[card_activity.tx_count_1m, ratio]", "ratio", (30, 10), "must be a list"),
    ("services:", "servises:", (29, 1), "did you mean `services`?"),
]


@pytest.mark.parametrize(("old", "new", "place", "words"), WRONG, ids=[case[1][:60] for case in WRONG])
def test_each_problem_is_named_at_its_place(old: str, new: str, place: tuple[int, int], words: str) -> None:
    assert old in GOOD
    with pytest.raises(DefinitionError) as caught:
        loads(GOOD.replace(old, new, 1), "f.yaml")
    found = [problem for problem in caught.value.problems if words in problem.message]
    assert found, caught.value
    assert (found[0].line, found[0].column) == place, caught.value
    assert f"f.yaml:{place[0]}:{place[1]}: " in str(caught.value)


def test_the_sample_is_right() -> None:
    assert loads(GOOD).all_features() == [
        "card_activity.amount_max_30d",
        "card_activity.top_30d",
        "card_activity.tx_count_1h",
        "card_activity.tx_count_1m",
        "ratio",
    ]


def test_all_problems_come_at_once_and_in_file_order() -> None:
    text = GOOD
    for old, new in [
        ("unit: ms", "unit: ns"),
        ("decimal(12,2)", "decimal(99,2)"),
        ("k: 3", "k: 0"),
        ("[1m, 1h]", "[1m, 0h]"),
        ("entity: card\n", "entity: crad\n"),
        (RATIO, "ratio: amount +"),
        ("[card_activity.tx_count_1m, ratio]", "[nothing]"),
    ]:
        text = text.replace(old, new, 1)
    with pytest.raises(DefinitionError) as caught:
        loads(text)
    lines = [problem.line for problem in caught.value.problems]
    # the stream is broken, so what depends on it is not blamed: views and on-demand come once it is right
    assert lines == sorted(lines)
    assert {4, 21, 26} <= set(lines)


def test_what_depends_on_a_broken_part_is_not_blamed() -> None:
    text = GOOD.replace("decimal(12,2)", "decimal(99,2)").replace(
        "tx_count: {agg: count,", "tx_count: {agg: count, where: amount > 1,"
    )
    with pytest.raises(DefinitionError) as caught:
        loads(text)
    assert [problem.line for problem in caught.value.problems] == [11]


def test_two_streams_of_one_topic_are_refused() -> None:
    stream = GOOD[GOOD.index("  transactions:") : GOOD.index("entities:")]
    with pytest.raises(DefinitionError, match="reads the topic transactions already"):
        loads(GOOD.replace("entities:", stream.replace("  transactions:", "  again:", 1) + "entities:", 1))


def test_a_row_too_wide_for_the_store_is_refused() -> None:
    fields = "".join(f"      f{i}: int64\n" for i in range(60))
    features = "".join(f"      s{i}: {{agg: sum, of: f{i}, windows: [1d]}}\n" for i in range(60))
    text = GOOD.replace("    fields:\n", "    fields:\n" + fields, 1).replace(
        "    features:\n", "    features:\n" + features, 1
    )
    with pytest.raises(DefinitionError, match="split the view in two"):
        loads(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a file that exists"):
        load(tmp_path / "none.yaml")
    with pytest.raises(UsageError):
        load(tmp_path)
    wrong = tmp_path / "latin.yaml"
    wrong.write_bytes("streams:\n  é: 1\n".encode("latin-1"))
    with pytest.raises(DefinitionError, match=r":2:3: .*UTF-8"):
        load(wrong)


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_file_gives_problems_and_never_a_traceback(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        piece = data.draw(
            st.sampled_from(
                [
                    "",
                    " ",
                    ":",
                    "[",
                    "}",
                    "- a",
                    "\n",
                    "5",
                    "null",
                    "&a ",
                    "*a",
                    "'",
                    '"',
                    "!x ",
                    "\t",
                    "é",
                    "|",
                    "{a: {b: [c]}}",
                ]
            )
            | st.text(max_size=4)
        )
        text = text[:start] + piece + text[end:]
    try:
        loads(text)
    except DefinitionError as error:
        assert error.problems
        assert all(
            problem.line >= 1 and problem.column >= 1 and problem.message for problem in error.problems
        )


@pytest.mark.parametrize(
    "path",
    [ROOT / "features" / "fraud.yaml", *sorted((ROOT / "examples" / "definitions").glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_the_examples_are_right(path: Path) -> None:
    assert load(path).all_features()
