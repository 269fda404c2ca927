"""The protocol every online store keeps: what is written, what is read, who may write.

Owns: the shapes that cross between the job, a store and the reader, and the choice of a store by its URI.
Refuses: anything of one store's layout.

What holds for every store, whatever the order of writes and crashes:

    rows         a set keyed by (time, position): inserting one again changes nothing, and no fence applies
    values       fenced: a record lower in `sequence` or `as_of_ms` than the stored one is not taken
    covers_from  never falls; rows at or before it are not part of the record any more
    marks        written with the values that they describe or before them; an offset never falls
    owner        one generation a (fingerprint, shard): the newest that wrote; an older one is refused
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lookback.errors import StoreError, UsageError
from lookback.stores.texts import StoredTexts
from lookback.windows.plan import ROW_HEAD, ViewPlan

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

NEVER = int(np.iinfo(np.int64).min)  # `covers_from_ms` of an entity that was never trimmed

# In a served mark beside the offsets; no source part is named so.
AS_OF, SEQUENCE = "as_of_ms", "sequence"

REDIS_SCHEMES = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
HOW = (
    "write lmdb:PATH, the folder that `lookback run` writes to, redis://HOST[:PORT][/DB], "
    "redis+sentinel://HOST:PORT[,HOST:PORT]/MASTER or redis+cluster://HOST:PORT[,HOST:PORT]"
)

MAX_ROWS = 1000  # rows an entity keeps in the online store,
MAX_ROW_BYTES = 64 << 10  # and bytes of them: beyond either its record turns stale


def row_limit(plan: ViewPlan) -> int:
    """Return how many rows an entity of this view may keep in an online store.

    >>> row_limit(ViewPlan(columns=(), bits=0, features=()))
    1000
    """
    return min(MAX_ROWS, MAX_ROW_BYTES // (8 * (ROW_HEAD + plan.width)))


@dataclass(frozen=True)
class ViewWrite:
    """What one view of one shard has new: n distinct entities, m rows.

    words, status: int64[n_out, n] and uint8[n_out, n], as the kernel gives them; TEXT words index `texts`.
    row_starts, rows: rows[:, row_starts[i]:row_starts[i + 1]] are the rows of entity i that the store may
    not have yet, any order; TEXT columns index `texts`.
    replace[i]: the rows given are all that the entity has; what the store holds besides is deleted.
    whole[i]: the rows given are all that the entity has, so a store that knows nothing of it lacks none.
    covers_from_ms[i]: evaluation reaches back to there, `NEVER` if nothing was dropped yet.
    life: int64[n, L] lifetime accumulators, the rows at or before covers_from_ms folded in; the ids named
    by `text_words` index `texts`.
    marks: source part -> offset that these values include (the shard's served mark after this write), and under
    `AS_OF` an instant that no record of the shard was refreshed after, under `SEQUENCE` the highest of a record.
    known: of entities that the store has let expire nothing is to be written.
    trace: of a batch that these values include, where it is traced; 0: none.
    """

    view: str
    fingerprint: str
    shard: int
    keys: Sequence[str]
    event_time_ms: I64
    as_of_ms: I64
    sequence: int
    watermark_ms: int
    words: I64
    status: U8
    row_starts: I64
    rows: I64
    covers_from_ms: I64
    replace: Bool
    whole: Bool
    life: I64
    texts: Sequence[str]
    marks: Mapping[str, int]
    known: bool = False
    trace: int = 0


@dataclass(slots=True)
class Record:
    """What a store holds of one entity.

    rows: int64[2 + width, m] sorted by (time, position), all later than covers_from_ms; TEXT columns index
    `texts`. words: int64[n_out] as of as_of_ms, TEXT words index `texts` (see `Lookup`). stale: the rows
    passed the store's limit and were dropped; only words and status tell anything. Arrays are the record's
    own: contiguous (but for `rows`) and writable.
    """

    event_time_ms: int
    as_of_ms: int
    sequence: int
    watermark_ms: int
    covers_from_ms: int
    stale: bool
    words: I64
    status: U8
    rows: I64
    life: I64
    texts: StoredTexts


@dataclass(slots=True)
class Lookup:
    """One record to read.

    values: without them a store may leave `words` and `status` of a record that is not stale empty; a
    reader that evaluates the rows has no use for them. texts: without them it may leave out the texts that
    rows hold: which of them are alike is seen by their ids.
    """

    fingerprint: str
    key: str
    plan: ViewPlan
    values: bool = True
    texts: bool = True


# Told what was written, which of it is stale (as `StoreWriter.write` returns it), and when the call began, by
# `time.perf_counter_ns`; perhaps by a thread of the writer's own.
Written = Callable[[Sequence[ViewWrite], Sequence[I64], int], None]


def unheard(writes: Sequence[ViewWrite], stale: Sequence[I64], began_ns: int) -> None:
    """Be told by a writer that nobody listens to."""


class StoreWriter(Protocol):
    """The writing side, for the views of one job; one thread at a time."""

    written: Written  # called after each write that the store took; `unheard` until it is set

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Take the shard over for this generation and return its served mark; None: nothing is known of it.

        From here on a write of an older generation to this shard is refused, so the mark stands still.

        Raises: RefusedError when a newer generation owns the shard.
        """

    def kept(self, fingerprint: str, shard: int) -> dict[str, int]:
        """Return the offsets whose values the store is sure to have; of a shard that `marks` took over.

        Lower than the served mark after a crash within a write; lower than what was flushed only where the
        store lost what it had acknowledged: then all must be written again.
        """

    def write(self, writes: Sequence[ViewWrite]) -> list[I64]:
        """Write all; return for each the indices of entities whose record is stale.

        Marks are written before values, or in one transaction with them. A stale record takes rows again
        with a write that has `replace` set and fits `row_limit`.

        Raises: RefusedError when a newer generation owned a shard: nothing was written. StoreBusy, StoreError
        when the store fails, StoreLost when it lacks what it acknowledged: some records may be written, the
        marks say so, and the same call may be made again.
        """

    def send(self, writes: Sequence[ViewWrite]) -> None:
        """Do as `write`, but perhaps not yet: the next call of this writer raises what went wrong.

        After StoreBusy the same call may be made again: what was sent before is then written first.
        """

    def flush(self) -> None:
        """Return once everything written is durable."""

    def close(self) -> None:
        """Let go of the store; not durable without `flush`."""


class OnlineStore(Protocol):
    """One online store; reading is safe from several threads."""

    def claim(self, job: str) -> int:
        """Return a new generation for this run of `job`, above all before; its workers share it."""

    def writer(self, plans: Mapping[str, ViewPlan], generation: int, names: Mapping[str, str]) -> StoreWriter:
        """Open for writing the views of `plans` (by fingerprint; `names` are the views' names)."""

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Return the shard's served mark; None: the store knows nothing of it (new or emptied)."""

    def note(self, fingerprint: str) -> str | None:
        """Return what the last job noted of how it shards the view (`put_note`); None where none did."""

    def put_note(self, fingerprint: str, text: str) -> None:
        """Note how a view is sharded, by whom. No fence: a job does so once it has taken the shards over."""

    def versions(self) -> dict[str, str]:
        """Return fingerprint -> view name of all that a writer was ever opened for."""

    def read(self, lookups: Sequence[Lookup]) -> list[Record | None]:
        """Return each record as of one moment, None where the entity is unknown.

        Raises: StoreError when a record is damaged or the store has never seen a fingerprint.
        """

    def close(self) -> None:
        """Let go of the store."""


def open_store(uri: str, *, write: bool = False) -> OnlineStore:
    """Open the store that a URI names, for reading alone unless `write` is set.

    Raises: UsageError for a URI of no known kind, StoreError when there is nothing to read.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "lmdb" and rest:
        from lookback.stores.lmdb import LmdbStore

        try:
            return LmdbStore(rest, write=write)
        except OSError as error:
            raise StoreError(
                f"the online store {rest} can't be opened: {error.strerror or error}; name a folder you may use."
            ) from None
    if scheme in REDIS_SCHEMES and rest.startswith("//") and rest != "//":
        from lookback.stores.redis import RedisStore

        return RedisStore(uri, write=write)
    if scheme == "lmdb" and colon:
        raise UsageError(f"lmdb: names no folder: {HOW}.")
    known = not colon or scheme in REDIS_SCHEMES
    what = f"{uri!r} is no store URI" if known else f"no store is called {scheme!r}"
    raise UsageError(f"{what}: {HOW}.")
