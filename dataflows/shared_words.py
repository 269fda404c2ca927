"""A job's board over several pods: what each pod's own processes write there, the others read within a moment.

The board decides no value (see `dataflows.board`), so a word that comes late costs a little waiting and nothing else. A
word is this pod's once a process of its own has changed it; from then on nobody else's value is taken for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


class SharedWords:
    """One pod's view of the words. Made when they were reset, before any process writes them."""

    def __init__(self, words: I64) -> None:
        self._words = words
        self._known = words.copy()  # as others wrote them, or as they were reset
        self._told = words.copy()
        self._mine = np.zeros(len(words), bool)

    def news(self) -> bytes:
        """Return what this pod's processes have written since the last call: (index, value) as int64[2, n]."""
        now = self._words.copy()
        self._mine |= now != self._known
        index = np.flatnonzero(self._mine & (now != self._told))
        self._told[index] = now[index]
        return np.stack([index, now[index]]).tobytes()

    def take(self, news: bytes) -> None:
        """Write what another pod told."""
        index, value = np.frombuffer(news, np.int64).reshape(2, -1)
        others = ~self._mine[index] & (self._words[index] == self._known[index])
        self._words[index[others]] = self._known[index[others]] = value[others]
