"""What the language takes, the types it gives, and what it refuses with which words."""

from __future__ import annotations

import json

import pytest

from lookback.definition.expression_parse import FUNCTIONS, parse_condition, parse_expression
from lookback.definition.expression_read import ExpressionError, names_in
from tests.definition.expression_texts import NAMES as KINDS

NAMES = KINDS | {"v.count_1h": KINDS["i"]}

TYPES = [
    ("i + j", "int64:0"),
    ("i / j", "float64:0"),
    ("i + d", "decimal:2"),
    ("d - e", "decimal:6"),
    ("d * i", "float64:0"),
    ("d / d", "float64:0"),
    ("d + f", "float64:0"),
    ("d + 1", "decimal:2"),
    ("d + 0.125", "decimal:3"),
    ("i + 0.5", "float64:0"),
    ("0.5", "float64:0"),
    ("1e3", "float64:0"),
    ("i // 2", "int64:0"),
    ("-d", "decimal:2"),
    ("abs(d)", "decimal:2"),
    ("sqrt(i)", "float64:0"),
    ("log(d)", "float64:0"),
    ("min(i, d)", "decimal:2"),
    ("max(d, e)", "decimal:6"),
    ("min(i, 0.5)", "float64:0"),
    ("coalesce(d, 0)", "decimal:2"),
    ("coalesce(s, 'x')", "string:0"),
    ("i if b else None", "int64:0"),
    ("d if b else 1.125", "decimal:3"),
    ("t - event_time", "int64:0"),
    ("t + 1000", "timestamp:0"),
    ("max(t, event_time)", "timestamp:0"),
    ("hour(t, 'Asia/Tokyo')", "int64:0"),
    ("v.count_1h", "int64:0"),
    ("0 < i < 5", "bool:0"),
    ("s in ['a', 'b']", "bool:0"),
    ("i in (1, 2.5)", "bool:0"),
    ("f is None", "bool:0"),
    ("not b and (c or i == 1)", "bool:0"),
    ("d > i", "bool:0"),
    ("b == c", "bool:0"),
    ("i >= 9_000", "bool:0"),
]


@pytest.mark.parametrize(("text", "kind"), TYPES)
def test_types(text: str, kind: str) -> None:
    tree = parse_expression(text, NAMES)
    assert f"{tree.type.kind}:{tree.type.scale}" == kind
    json.dumps(tree.canonical())


REFUSED = [
    ("", 0, "empty"),
    ("i +", 2, "not an expression"),
    ("i = 1", 2, "write `==`"),
    ("b && c", 3, "write `and`"),
    ("b || c", 3, "write `or`"),
    ("!b", 0, "write `not`"),
    ("i <> j", 2, "write `!=`"),
    ("b & c", 0, "write `and` for &"),
    ("i ** 2", 0, "write `x * x`"),
    ("~i", 0, "write `not`"),
    ("x + 1", 0, "`x` is not known"),
    ("i + ev_time", 4, "not known"),
    ("event_tim", 0, "did you mean `event_time`"),
    ("v.count_1d", 0, "did you mean `v.count_1h`"),
    ("a.b.c", 0, "view.feature_window"),
    ("null", 0, "`x is None`"),
    ("b == true", 5, "write `True`"),
    ("i == None", 0, "write `i is None`"),
    ("None != s", 0, "write `s is not None`"),
    ("b is True", 5, "null tests only"),
    ("i is 5", 5, "null tests only"),
    ("i + s", 4, "takes numbers"),
    ("i + None", 4, "coalesce"),
    ("b + 1", 0, "takes numbers"),
    ("d // 2", 0, "whole numbers"),
    ("s > 5", 0, "quotes"),
    ("b == 1", 0, "`not x` for a bool"),
    ("b < c", 0, "no order"),
    ("t > 5", 0, "do not compare"),
    ("not i", 4, "takes true or false"),
    ("i and b", 0, "takes true or false"),
    ("s in 'abc'", 5, "takes a list"),
    ("s in ()", 5, "takes a list"),
    ("s in (u,)", 6, "takes values"),
    ("s in ('a', None)", 11, "takes values"),
    ("i in ('a',)", 6, "do not compare"),
    ("i if b else s", 0, "of one type"),
    ("coalesce(i)", 0, "two values or more"),
    ("min(s, u)", 0, "takes numbers or times"),
    ("log(i, 2)", 0, "takes one number"),
    ("log(s)", 4, "takes numbers"),
    ("logg(i)", 0, "did you mean `log`"),
    ("eval('1')", 0, "not a function"),
    ("__import__('os')", 0, "not a function"),
    ("i.bit_length()", 0, "not a function"),
    ("s.__class__", 0, "not known"),
    ("[x for x in s]", 0, "not part of"),
    ("lambda: 1", 0, "not part of"),
    ("f'{i}'", 0, "not part of"),
    ("(i := 1)", 1, "not part of"),
    ("s[0]", 0, "not part of"),
    ("{'a': 1}", 0, "not part of"),
    ("(1, 2)", 0, "not part of"),
    ("1j", 0, "not a number"),
    ("b'x'", 0, "not a number"),
    ("...", 0, "not a number"),
    ("9223372036854775808", 0, "does not fit int64"),
    ("1e400", 0, "does not fit float64"),
    ("min(*i)", 0, "plain arguments"),
    ("log(x=i)", 0, "plain arguments"),
    ("hour(i)", 5, "takes a timestamp"),
    ("hour(t, s)", 8, "as a text"),
    ("hour(t, 'Europe/Pariss')", 8, "did you mean `Europe/Paris`"),
    ("hour(t, '../../etc/passwd')", 8, "not a time zone"),
    ("hour(t, 'localtime')", 8, "not a time zone"),
    ("hour", 0, "is a function"),
    ("None", 0, "always null"),
    ("None if b else None", 0, "always null"),
    ("i # note", 2, "comment"),
    ("i +\n# note\n j", 12, "not an expression"),
    ("(" * 300 + "i" + ")" * 300, 0, ""),
    ("-" * 3000 + "i", 0, "too"),
    ("i" + "+i" * 300, 0, "too large"),
    ("i" * 5000, 0, "keep it under"),
    ("i + \x00", 0, ""),
    ("yield i", 0, ""),
    ("i; j", 1, ""),
    ("import os", 0, ""),
]


@pytest.mark.parametrize(("text", "offset", "words"), REFUSED, ids=[case[0][:40] for case in REFUSED])
def test_everything_else_is_refused_in_its_place(text: str, offset: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text, NAMES)
    assert words in caught.value.message
    if words:
        assert caught.value.offset == offset, caught.value.message


def test_a_condition_is_true_or_false() -> None:
    assert parse_condition("b", NAMES).type.kind == "bool"
    with pytest.raises(ExpressionError, match="must be true or false, this is int64"):
        parse_condition("i", NAMES)


@pytest.mark.parametrize(
    ("one", "two"),
    [("i>1", "( i  >\n 1 )"), ("b and c", "(b) and (c)"), ("s=='a'", 's == "a"'), ("1_000", "1000")],
)
def test_spelling_does_not_change_the_meaning(one: str, two: str) -> None:
    assert parse_expression(one, NAMES).canonical() == parse_expression(two, NAMES).canonical()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("i > 1", "i >= 1"),
        ("d > 1.5", "d > 1.25"),
        ("hour(t)", "hour(t, 'Europe/Paris')"),
        ("s == '1'", "s == '2'"),
    ],
)
def test_another_meaning_is_another_tree(one: str, two: str) -> None:
    assert parse_expression(one, NAMES).canonical() != parse_expression(two, NAMES).canonical()


def test_names() -> None:
    assert names_in("min(v.count_1h, i) > 1 and s == 'j'") == {"v.count_1h", "i", "s"}
    assert names_in("i +") == set()
    assert parse_expression("v.count_1h + i", NAMES).names() == {"v.count_1h", "i"}
    assert "hour" in FUNCTIONS
