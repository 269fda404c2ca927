"""A state that is new where the store is not: the job's disk was lost, or the folder was mistyped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dataflows.settings import SHARDS, Part
from dataflows.takeover import sharding_of
from lookback.definition import Definition
from lookback.errors import RefusedError, StoreError
from lookback.stores.base import OnlineStore, open_store


def check_state_is_there(definition: Definition, uri: str, state: Path, parts: Sequence[Part]) -> None:
    """Refuse to begin a new state where a store holds what these views counted of these partitions.

    Counting anew shows readers nothing new until all is counted again, and nothing of what the source has lost since.
    Raises RefusedError.
    """
    if (state / "state.json").exists():
        return
    try:
        store = open_store(uri)
    except StoreError:  # none there yet; what else is wrong shows when it is opened to be written
        return
    try:
        view = _counted(store, definition, {part.id for part in parts})
    finally:
        store.close()
    if view is not None:
        raise RefusedError(
            f"the store {public(uri)} holds values of view {view} that a job counted from this source, and {state} "
            "holds no state: put that job's state folder back or name it with --state, name a fresh --store, or count "
            "everything again from the source with --accept-lost-state"
        )


def public(uri: str) -> str:
    """Return a store's URI without user and password.

    >>> public("redis://me:secret@host:6379/1"), public("lmdb:store")
    ('redis://host:6379/1', 'lmdb:store')
    """
    return re.sub(r"//[^/]*@", "//", uri).partition("?")[0]


def _counted(store: OnlineStore, definition: Definition, parts: set[str]) -> str | None:
    """Return a view that the store has counted events of these partitions for."""
    known = store.versions()
    for view in definition.views.values():
        if view.fingerprint not in known:
            continue
        sharding = sharding_of(store, view.fingerprint)
        for shard in range(SHARDS if sharding is None else sharding.numbers):
            if parts & (store.marks(view.fingerprint, shard) or {}).keys():
                return view.name
    return None
