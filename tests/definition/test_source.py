"""Reading YAML: positions, the 1.2 core scalars, and what could hurt."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lookback.definition.source import MAX_BYTES, parse_source, read_bytes_as_text
from lookback.errors import DefinitionError


def plain(text: str) -> Any:
    root, problems = parse_source(text, "f")
    assert not problems
    return root.plain()


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = (
        "[no, on, yes, true, False, null, ~, 12, -3, 0x10, 1_000, 1.5, 1e3, .inf, 12:30, 2024-01-01, '5', '']"
    )
    assert plain(text) == [
        "no",
        "on",
        "yes",
        True,
        False,
        None,
        None,
        12,
        -3,
        "0x10",
        "1_000",
        1.5,
        1000.0,
        ".inf",
        "12:30",
        "2024-01-01",
        "5",
        "",
    ]


def test_places_are_of_the_key_or_the_value() -> None:
    root, _ = parse_source("a:\n  b: [1, xé,\n    3]\n", "f")
    assert root.place(("a", "b", 2)) == (3, 5)
    assert root.place(("a", "b"), at_key=True) == (2, 3)
    assert root.place(("a", "b", 1)) == (2, 10)
    assert root.place(("a", "b", 9, "c")) == (2, 6)  # the nearest there is


def test_aliases_within_the_budget_are_read() -> None:
    assert plain("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "once aliases are followed"),
        ("a: &x 1\nb: [" + "*x, " * 101 + "]", "more than 100 aliases"),
        ("a: &x [*x]", "names no anchor above it"),
        ("[" * 100_000, "nested more than"),
        ("{a: " * 100_000, "nested more than"),
        ("- " * 100_000 + "a", "nested more than"),
        ("a: " + "x" * MAX_BYTES, "at most"),
        ("[" + "1," * 110_000 + "]", "more than 100,000 values"),
        ("a: 1\n--- \nb: 2\n", "one document a file"),
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("a: [1", "not YAML"),
        ("a: \x07", "does not allow"),
        ("\ta: 1", "not YAML"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_what_could_hurt_is_refused_at_once(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(DefinitionError, match=words):
        parse_source(text, "f")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("a: 1\na: 2\n", "here twice", (2, 1)),
        ("a: !!python/object/apply:os.system [x]\n", "the tag", (1, 4)),
        ("? [a]\n: 1\n", "must be a name", (1, 3)),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "merge keys", (2, 5)),
    ],
)
def test_what_leaves_a_tree_is_noted(text: str, words: str, place: tuple[int, int]) -> None:
    _, problems = parse_source(text, "f")
    assert [(p.line, p.column) for p in problems] == [place]
    assert words in problems[0].message


def test_bytes() -> None:
    assert read_bytes_as_text(b"\xef\xbb\xbfa: 1", "f") == "a: 1"
    with pytest.raises(DefinitionError, match="f:2:4: this byte is not UTF-8"):
        read_bytes_as_text(b"a: 1\nb: \xff\n", "f")
    with pytest.raises(DefinitionError, match="split it"):
        read_bytes_as_text(b" " * (MAX_BYTES + 1), "f")
