"""When each entity's values change next though no event comes, and as of when they were last refreshed.

Of an entity in memory: 16 bytes beside its slot. Of one that leaves memory, a key of the database, written with the
next commit (a timer that has been overtaken by an event costs one needless refresh at most):

    timer := "t" view[6] due:u64be key utf8

After a start no entity is in memory: `ViewState.rebuild` reads them again, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lookback.windows.layout import Layout
from state import keys
from state.rocksdb import Database, Put

I64 = npt.NDArray[np.int64]

NEVER = -(2**62)
NONE = int(np.iinfo(np.int64).max)  # due: there is nothing to come
LEAST_LATE_MS, MOST_LATE_MS = 1_000, 60_000


def slack_ms(layout: Layout) -> I64:
    """Return how late a row's passing of each bound may be noticed: 1 % of the bound, 1 s to 1 min."""
    return np.clip(layout.bounds // 100, LEAST_LATE_MS, MOST_LATE_MS).astype(np.int64)


class Timers:
    """The timers of one view in one shard.

    floor_ms: no entity that isn't in memory was refreshed as of a later instant. latest_ms: no entity was.
    through_ms: all that was due by then has been sent.
    """

    def __init__(self, layout: Layout, db: Database, tag: bytes) -> None:
        self.slack_ms = slack_ms(layout)
        self.floor_ms = self.latest_ms = self.through_ms = NEVER
        self._db = db
        self._tag = tag
        self.due_ms: I64 = np.empty(0, np.int64)
        self.as_of_ms: I64 = np.empty(0, np.int64)
        self._puts: dict[bytes, bytes | None] = {}
        self._asleep_ms = NEVER  # the first timer in the database is due then or later
        self._awake_ms = NONE  # and the first of those in memory
        self._looked = b""  # the last timer taken since the last commit, which deletes those taken

    # --- slots -------------------------------------------------------------------------------------------

    def begin(self, slots: I64) -> None:
        """Take slots in whose entities come into memory."""
        more = int(slots.max()) + 1 - len(self.due_ms)
        if more > 0:
            more = max(1024, 2 * more, len(self.due_ms))
            self.due_ms = np.concatenate([self.due_ms, np.full(more, NONE, np.int64)])
            self.as_of_ms = np.concatenate([self.as_of_ms, np.full(more, NEVER, np.int64)])
        self.due_ms[slots] = NONE
        self.as_of_ms[slots] = self.floor_ms

    def leave(self, slots: I64, names_of: Callable[[I64], Sequence[str]]) -> None:
        """Keep the timers of entities that leave memory."""
        self.floor_ms = max(self.floor_ms, int(self.as_of_ms[slots].max(initial=NEVER)))
        slots = slots[self.due_ms[slots] != NONE]
        for due_ms, name in zip(self.due_ms[slots].tolist(), names_of(slots), strict=True):
            self._puts[keys.timer(self._tag, due_ms, name)] = b""

    def end(self, slots: I64) -> None:
        """Forget slots."""
        self.due_ms[slots] = NONE

    def set(self, slots: I64, due_ms: I64) -> None:
        """Let these slots be due then."""
        self.due_ms[slots] = due_ms
        self._awake_ms = min(self._awake_ms, int(due_ms.min(initial=NONE)))

    # --- what is due -------------------------------------------------------------------------------------

    def next_due_ms(self) -> int:
        """Return before when nothing is due; NONE: nothing ever.

        Exact after `look`, and then too early perhaps: a wave must not cost a look at all that is in memory.
        """
        return min(self._awake_ms, self._asleep_ms)

    def look(self, clock_ms: int) -> None:
        """See when something is due next, where that may be by now."""
        if self._awake_ms <= clock_ms:
            self._awake_ms = int(self.due_ms.min(initial=NONE))

    def overdue(self, clock_ms: int, most: int) -> I64:
        """Return at most so many slots that are due, the longest first."""
        if self._awake_ms > clock_ms:
            return np.empty(0, np.int64)
        slots = np.flatnonzero(self.due_ms <= clock_ms)
        if len(slots) > most:
            slots = slots[np.argpartition(self.due_ms[slots], most)[:most]]
        return slots

    def woken(self, clock_ms: int, most: int) -> tuple[list[str], I64]:
        """Return the entities whose timers in the database ran out, at most so many, and when each was due."""
        names: list[str] = []
        dues: list[int] = []
        if self._asleep_ms > clock_ms:
            return names, np.empty(0, np.int64)
        prefix = keys.timer_prefix(self._tag)
        self._asleep_ms = NONE
        for raw, _ in self._db.scan(self._looked or prefix, keys.after(prefix)):
            if raw == self._looked:
                continue
            due_ms, name = keys.read_timer(raw)
            if due_ms > clock_ms or len(names) == most:
                self._asleep_ms = due_ms
                break
            self._looked = raw
            self._puts[raw] = None
            names.append(name)
            dues.append(due_ms)
        return names, np.array(dues, np.int64)

    # --- storing -----------------------------------------------------------------------------------------

    def puts(self) -> list[Put]:
        """Return what the next commit writes, once."""
        found: list[Put] = list(self._puts.items())
        self._puts = {}
        self._looked = b""
        for raw, value in found:
            if value is not None:
                self._asleep_ms = min(self._asleep_ms, keys.read_timer(raw)[0])
        return found

    def to_json(self) -> dict[str, int]:
        """Return what a commit keeps."""
        return {"through": self.through_ms, "latest": self.latest_ms}

    def restore(self, kept: dict[str, int]) -> None:
        """Take what the last commit kept; of before timers were, nothing."""
        self.through_ms = kept.get("through", NEVER)
        self.raise_floor(kept.get("latest", NEVER))

    def raise_floor(self, as_of_ms: int) -> None:
        """Know that entities were refreshed as of this instant; none is in memory."""
        self.floor_ms = max(self.floor_ms, as_of_ms)
        self.latest_ms = max(self.latest_ms, as_of_ms)
