"""Taking an online store over from a state that was cut into other shards.

A store keeps its marks by the number of a shard. Which entities a number stands for is what the job notes beside them,
view by view, so that a state which was cut anew (`lookback reshard`), or another one, knows how to read them:

    note := {"state", "ancestors", "shards", "numbers", "whole"}    JSON; see `Sharding`

A state that finds marks of other shards takes them over before its workers start, each step of which may be repeated:

    1  Take     every number that may have a mark is this generation's: whoever wrote there is refused from here on
    2  Note     that the state takes over (not whole)
    3  Mark     each new shard gets the highest mark, sequence and refresh of all old ones, and what the state was made
                with: what an old shard served, any new one may have to wait for
    4  Note     that it has (whole)

No value goes back: a new shard says nothing until it has passed all that any old one had served, and then goes on from
the highest sequence. A state that was cut into others which have run is refused: two of one line must not take turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lookback.definition import Definition, View
from lookback.errors import RefusedError
from lookback.stores.base import OnlineStore, StoreWriter, ViewWrite
from lookback.windows.layout import build_layout
from lookback.windows.plan import ROW_HEAD
from state import faults


@dataclass(frozen=True)
class Sharding:
    """Whose marks a store holds of a view.

    state, ancestors: ids of the state that wrote them, and of those that it was cut from. shards: how many it has.
    numbers: from 0 up to here a shard may have a mark that counts. whole: each of its shards has one.
    """

    state: str
    ancestors: tuple[str, ...]
    shards: int
    numbers: int
    whole: bool = True

    @property
    def line(self) -> set[str]:
        """Return the ids of the state and of those before it."""
        return {self.state, *self.ancestors}


@dataclass(frozen=True)
class StateLine:
    """A job's state, and what it was cut from.

    origins: the states before it, the first one first; of each `id`, `shards` and `durable`, by view and shard the
    offsets that the store had for good. applied: by view, the offsets that each of its shards began with.
    """

    path: str
    state: str
    shards: int
    origins: list[dict[str, Any]] = field(default_factory=list)
    applied: dict[str, dict[str, int]] = field(default_factory=dict)

    def sharding(self) -> Sharding:
        """Return the note that this state leaves."""
        return Sharding(self.state, tuple(one["id"] for one in self.origins), self.shards, self.shards)


def sharding_of(store: OnlineStore, fingerprint: str) -> Sharding | None:
    """Return what a store notes of a view; None where a release before this one wrote, or none."""
    text = store.note(fingerprint)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return Sharding(**{**found, "ancestors": tuple(found["ancestors"])})
    except (ValueError, KeyError, TypeError):
        raise RefusedError(
            f"the store's note on the shards of view {fingerprint[:12]} can't be read: use the release that wrote it, "
            "or name a fresh --store"
        ) from None


def check_line(store: OnlineStore, definition: Definition, line: StateLine) -> None:
    """Refuse a state from which another was cut that has run since. Raises RefusedError; nothing was changed."""
    mine = line.sharding()
    for view in definition.views.values():
        known = sharding_of(store, view.fingerprint)
        if known is None or known.state in mine.line or not mine.line & known.line:
            continue
        raise RefusedError(
            f"the job went on with another state than {line.path}, one of {known.shards} shards that came of `lookback "
            "reshard`: start it on that one, or name a fresh --store; where that one is lost, --accept-lost-state goes "
            "on with this one"
        )


def take_over(store: OnlineStore, definition: Definition, line: StateLine, generation: int) -> None:
    """Make the store's marks those of this state's shards. Raises RefusedError where it lost some of its values."""
    plans = {view.fingerprint: view.plan for view in definition.views.values()}
    names = {view.fingerprint: view.name for view in definition.views.values()}
    mine = line.sharding()
    writer = None
    for view in definition.views.values():
        known = sharding_of(store, view.fingerprint)
        if known == mine:
            continue
        if known is None and line.origins:  # a release before this one wrote them, as the first of the line
            first = line.origins[0]
            known = Sharding(first["id"], (), first["shards"], first["shards"])
        related = known is not None and bool(known.line & mine.line)
        if known is None or (known.whole and known.shards == mine.shards and not related):
            store.put_note(view.fingerprint, _text(mine))
            continue
        writer = writer or store.writer(plans, generation, names)
        _take_view(store, writer, view, line, known)
    if writer is not None:
        writer.flush()
        writer.close()


def _take_view(store: OnlineStore, writer: StoreWriter, view: View, line: StateLine, known: Sharding) -> None:
    mine = line.sharding()
    numbers = max(known.numbers, mine.shards)
    highest: dict[str, int] = {}
    kept = []
    for number in range(numbers):  # step 1
        for part, offset in (writer.marks(view.fingerprint, number) or {}).items():
            highest[part] = max(offset, highest.get(part, offset))
        kept.append(writer.kept(view.fingerprint, number))
    faults.reach("0-take", 1)
    if highest:  # else the store is new: the shards find no mark in it, and write all that they have
        if known.state != mine.state:
            _check_kept(view, line, known, kept)
        store.put_note(view.fingerprint, _text(mine, numbers=numbers, whole=False))
        faults.reach("0-take", 2)
        for part, offset in line.applied.get(view.name, {}).items():
            highest[part] = max(offset, highest.get(part, offset))
        writer.write([_marks(view, shard, highest) for shard in range(mine.shards)])
        faults.reach("0-take", 3)
    store.put_note(view.fingerprint, _text(mine))


def _check_kept(view: View, line: StateLine, known: Sharding, kept: list[dict[str, int]]) -> None:
    """Refuse a store that lacks what a state before this one knew it to have: it would not be written again."""
    durable: dict[str, list[dict[str, int]]] = next(
        (one["durable"] for one in line.origins if one["id"] == known.state), {}
    )
    for shard, offsets in enumerate(durable.get(view.name, [])):
        if any(kept[shard].get(part, -1) < offset for part, offset in offsets.items()):
            raise RefusedError(
                f"the store has lost values of view {view.name} since the state {line.path} was made by `lookback "
                "reshard`: run the job on the old state once, which writes them again, stop it and reshard once more, "
                "or name a fresh --store"
            )


def _text(note: Sharding, **changed: Any) -> str:
    return json.dumps({**asdict(note), **changed}, sort_keys=True)


def _marks(view: View, shard: int, marks: Mapping[str, int]) -> ViewWrite:
    """Return a write of a shard's marks alone."""
    plan = view.plan
    none = np.empty(0, np.int64)
    outputs = plan.out_starts[-1]
    lives = build_layout(plan).life_words
    return ViewWrite(
        view=view.name, fingerprint=view.fingerprint, shard=shard, keys=[], event_time_ms=none, as_of_ms=none,
        sequence=0, watermark_ms=0, words=np.empty((outputs, 0), np.int64), status=np.empty((outputs, 0), np.uint8),
        row_starts=np.zeros(1, np.int64), rows=np.empty((ROW_HEAD + plan.width, 0), np.int64), covers_from_ms=none,
        replace=np.empty(0, bool), whole=np.empty(0, bool), life=np.empty((0, lives), np.int64), texts=[],
        marks=marks,
    )  # fmt: skip
