"""Texts of one stored record, as a store keeps them: UTF-8 bytes and lengths, decoded only where asked for.

Owns: the table that a record's ids index, in the form that kernels read. Refuses: how a store lays texts out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookback.windows.texts import TextTable

I64 = npt.NDArray[np.int64]


class TextBlock(NamedTuple):
    """Some texts in a row: how long each is in bytes, and the bytes."""

    lengths: npt.NDArray[np.uint32]
    utf8: bytes | memoryview


def block_of(texts: Sequence[str]) -> TextBlock:
    """Return texts as a block."""
    raw = [encode(text) for text in texts]
    return TextBlock(np.array([len(one) for one in raw], np.uint32), b"".join(raw))


def encode(text: str) -> bytes:
    """Return a text's bytes; a lone surrogate, which JSON may hold, keeps its own three."""
    return text.encode("utf-8", "surrogatepass")


def decode(raw: bytes | bytearray) -> str:
    """Return the text of bytes: the inverse of `encode`."""
    return raw.decode("utf-8", "surrogatepass")


_NONE = np.zeros(0, np.uint32)


class StoredTexts(TextTable):
    """Texts by id: 0 is "" (what a null holds), then those of the blocks in order.

    Stands in for a log's table, so rows go into the log with the ids they were stored with.

    >>> texts = StoredTexts([block_of(["b", "a"])])
    >>> list(texts), texts.intern(["a", "new"]).tolist()
    (['', 'b', 'a'], [2, 3])
    """

    def __init__(self, blocks: Sequence[TextBlock] = ()) -> None:
        if len(blocks) == 1:
            lengths = blocks[0].lengths
        else:
            lengths = np.concatenate([block.lengths for block in blocks]) if blocks else _NONE
        self._count = 1 + len(lengths)
        self._ends = np.zeros(len(lengths) + 2, np.int64)
        lengths.cumsum(out=self._ends[2:])
        self._utf8 = bytearray(b"").join([*(block.utf8 for block in blocks), b"\0"])
        self._blob = np.frombuffer(self._utf8, np.uint8)
        self._table: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, text_id: int) -> str:
        """Return one text."""
        start, end = self._ends[text_id : text_id + 2].tolist()
        return decode(self._utf8[start:end])

    def __iter__(self) -> Iterator[str]:
        """Yield all texts, by id."""
        return map(self.__getitem__, range(self._count))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._blob.nbytes + self._ends.nbytes + len(self._utf8)

    def get(self, ids: Iterable[int] | I64) -> list[str]:
        """Return the texts of ids."""
        return [self[int(text_id)] for text_id in ids]

    def intern(self, texts: Sequence[str]) -> I64:
        """Return the id of each text, giving new ones to those not seen before. int64[n]."""
        if self._table is None:
            # A text may stand twice, for rows and for values: the first id is the one that rows have.
            self._table = {}
            for at, text in enumerate(self):
                if at:
                    self._table.setdefault(text, at)
        out = []
        new: list[str] = []
        for text in texts:
            found = self._table.get(text)
            if found is None:
                found = self._table[text] = self._count + len(new)
                new.append(text)
            out.append(found)
        if new:
            block = block_of(new)
            ends = self._ends[-1] + np.cumsum(block.lengths, dtype=np.int64)
            self._ends = np.concatenate([self._ends, ends])
            self._utf8 = bytearray(b"").join([self._utf8[:-1], block.utf8, b"\0"])
            self._blob = np.frombuffer(self._utf8, np.uint8)
            self._count += len(new)
        return np.array(out, np.int64)
