"""Text ids of a log, renumbered into a record's own and back, so that each record can be read alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookback.windows.text_words import TextWords

I64 = npt.NDArray[np.int64]


def localize(words: I64, owner: I64, records: int) -> tuple[I64, I64, I64]:
    """Renumber text ids record by record.

    words: text ids; owner: the record each belongs to (same length, any order). Returns (local ids int64[n],
    the distinct ids of each record one after the other, starts of each record's part there [records + 1]).
    Cost: one sort of n words.
    """
    order = np.lexsort((words, owner))
    sorted_owner, sorted_words = owner[order], words[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (sorted_owner[1:] != sorted_owner[:-1]) | (sorted_words[1:] != sorted_words[:-1])
    index = np.cumsum(fresh) - 1
    starts = np.searchsorted(sorted_owner[fresh], np.arange(records + 1))
    local = np.empty(len(order), np.int64)
    local[order] = index - starts[sorted_owner]
    return local, sorted_words[fresh], starts.astype(np.int64)


def life_places(life: I64, words: TextWords) -> tuple[I64, I64]:
    """Return (records, life words) of all lifetime accumulators that hold a text id. life: int64[n, L]."""
    found = [(np.flatnonzero(life[:, count] > 0), word) for count, word in words.lives]
    records = [rows for rows, _ in found]
    places = [np.full(len(rows), word, np.int64) for rows, word in found]
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *records]), np.concatenate([empty, *places])


def renumber(flat: I64, starts: I64, life: I64, words: TextWords, columns: int) -> tuple[I64, I64, I64, I64]:
    """Return (flat, life, distinct ids, starts there) of exported logs, text ids renumbered log by log.

    flat, starts, life: as `ViewLog.export` gives them, with `columns` words a row.
    """
    rows = np.diff(starts) // columns
    owner = np.repeat(np.arange(len(rows)), rows)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows)
    base = np.repeat(starts[:-1], rows) + within
    length = np.repeat(rows, rows)
    places = np.concatenate([base + c * length for c in words.rows])
    records, life_words = life_places(life, words)
    ids = np.concatenate([flat[places], life[records, life_words]])
    owners = np.concatenate([np.tile(owner, len(words.rows)), records])
    local, distinct, text_starts = localize(ids, owners, len(rows))
    flat, life = flat.copy(), life.copy()
    flat[places] = local[: len(places)]
    life[records, life_words] = local[len(places) :]
    return flat, life, distinct, text_starts


def restore(rows: I64, life: I64, ids: I64, words: TextWords) -> tuple[I64, I64]:
    """Return a record's rows int64[2 + width, n] and life int64[L] with its own text numbers mapped by `ids`."""
    rows, life = rows.copy(), life.copy()
    for column in words.rows:
        rows[column] = ids[rows[column]]
    for count, word in words.lives:
        if len(life) and life[count] > 0:
            life[word] = ids[life[word]]
    return rows, life


def pick(texts: Sequence[bytes], rows: I64, life: I64, words: TextWords) -> tuple[list[bytes], I64, I64]:
    """Return (texts, rows, life) of a part of a log whose ids index `texts`, with those alone that it names."""
    places = list(words.rows)
    _, life_words = life_places(life[None], words if len(life) else _NONE)
    ids = np.concatenate([rows[places].reshape(-1), life[life_words]])
    used, local = np.unique(ids, return_inverse=True)
    rows, life = rows.copy(), life.copy()
    split = len(ids) - len(life_words)
    rows[places] = local[:split].reshape(len(places), -1)
    life[life_words] = local[split:]
    return [texts[i] for i in used.tolist()], rows, life


_NONE = TextWords((), (), ())
