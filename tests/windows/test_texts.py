"""Ids of texts: given once, kept while the table grows, ordered by bytes in the blob."""

from __future__ import annotations

import pytest

from lookback.windows.texts import TextTable


def test_ids_are_stable_while_the_table_grows() -> None:
    table = TextTable()
    texts = [f"text {i % 700} é" for i in range(2000)]
    ids = table.intern(texts)
    assert table.get(ids) == texts and len(table) == 700
    assert (table.intern(texts) == ids).all()
    for i in (0, 1, 699):
        assert bytes(table.blob[table.ends[i] : table.ends[i + 1]]).decode() == table[i]


def test_an_id_never_given_is_an_error() -> None:
    with pytest.raises(IndexError):
        TextTable().get([0])


def test_the_empty_text_is_a_text() -> None:
    table = TextTable()
    assert table.get(table.intern(["", "a", ""])) == ["", "a", ""]
    assert len(table) == 2 and table.nbytes > 0
