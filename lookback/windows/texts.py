"""Texts of one view's rows, each once, under small ids that kernels can compare and order.

Owns: the table from id to UTF-8 bytes. Refuses: ids that outlive the process (stores keep their own).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


def distinct(ids: I64, size: int) -> tuple[I64, I64]:
    """Return (the distinct ids in order, each id's place among them); ids: int64[n], 0 <= id < size.

    >>> [a.tolist() for a in distinct(np.array([5, 2, 5]), 6)]
    [[2, 5], [1, 0, 1]]
    """
    if size > 16 * len(ids):  # few of a large table: sorting them costs less than a pass over the table
        used, place = np.unique(ids, return_inverse=True)
        return used, place
    named = np.zeros(size, bool)
    named[ids] = True
    return np.flatnonzero(named), (np.cumsum(named) - 1)[ids]


class TextTable:
    """Texts by id, in the order they were first seen: 0, 1, 2, ...

    Text i is ``blob[ends[i]:ends[i + 1]]``.

    >>> table = TextTable()
    >>> table.intern(["b", "a", "b"]).tolist(), table.get([1, 0])
    ([0, 1, 0], ['a', 'b'])
    """

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []
        self._blob = np.zeros(64, dtype=np.uint8)
        self._ends = np.zeros(16, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def blob(self) -> npt.NDArray[np.uint8]:
        """All bytes, with room behind them."""
        return self._blob

    @property
    def ends(self) -> I64:
        """Where each text ends, from index 1 on, with room behind them."""
        return self._ends

    @property
    def nbytes(self) -> int:
        """Bytes held, the texts' Python objects included (estimated at 56 a text and its characters)."""
        used = int(self._ends[len(self._texts)])
        return self._blob.nbytes + self._ends.nbytes + sys.getsizeof(self._ids) + 64 * len(self) + used

    def intern(self, texts: Sequence[str]) -> I64:
        """Return the id of each text, giving new ones to those not seen before. int64[n]."""
        ids = self._ids
        # map() over dict.get: a lookup a text without interpreting a line for it.
        out = np.fromiter(map(ids.get, texts, repeat(-1)), np.int64, len(texts))
        missing = np.flatnonzero(out < 0).tolist()
        if missing:
            first = len(self._texts)
            new = list(dict.fromkeys(texts[i] for i in missing))
            ids.update(zip(new, range(first, first + len(new)), strict=True))
            self._texts += new
            out[missing] = [ids[texts[i]] for i in missing]
            self._append(new, first)
        return out

    def get(self, ids: Iterable[int] | I64) -> list[str]:
        """Return the texts of ids; IndexError for one that was never given."""
        texts = self._texts
        if isinstance(ids, np.ndarray):
            ids = ids.tolist()
        return [texts[i] for i in ids]

    def __getitem__(self, text_id: int) -> str:
        return self._texts[text_id]

    def _append(self, texts: list[str], first: int) -> None:
        joined = "".join(texts)
        if joined.isascii():
            raw, lengths = joined.encode(), [len(text) for text in texts]
        else:
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            raw, lengths = b"".join(encoded), [len(part) for part in encoded]
        start = int(self._ends[first])
        ends = start + np.cumsum(lengths, dtype=np.int64)
        self._blob = _with_room(self._blob, start, int(ends[-1]))
        self._ends = _with_room(self._ends, first + 1, first + 1 + len(texts))
        self._blob[start : ends[-1]] = np.frombuffer(raw, dtype=np.uint8)
        self._ends[first + 1 : first + 1 + len(texts)] = ends


def _with_room(array: npt.NDArray[T], used: int, needed: int) -> npt.NDArray[T]:
    if needed <= len(array):
        return array
    grown = np.zeros(max(needed, 2 * len(array)), dtype=array.dtype)
    grown[:used] = array[:used]
    return grown
