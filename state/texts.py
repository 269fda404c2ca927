"""Text ids of a log: where a life holds them, and a record's own turned back into them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.text_words import TextWords

I64 = npt.NDArray[np.int64]


def life_places(life: I64, words: TextWords) -> tuple[I64, I64]:
    """Return (records, life words) of all lifetime accumulators that hold a text id. life: int64[n, L]."""
    found = [(np.flatnonzero(life[:, count] > 0), word) for count, word in words.lives]
    records = [rows for rows, _ in found]
    places = [np.full(len(rows), word, np.int64) for rows, word in found]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *records]), np.concatenate([empty, *places])


def restore(rows: I64, life: I64, ids: I64, words: TextWords) -> tuple[I64, I64]:
    """Return a record's rows int64[2 + width, n] and life int64[L] with its own text numbers mapped by `ids`."""
    rows, life = rows.copy(), life.copy()
    for column in words.rows:
        rows[column] = ids[rows[column]]
    for count, word in words.lives:
        if len(life) and life[count] > 0:
            life[word] = ids[life[word]]
    return rows, life
