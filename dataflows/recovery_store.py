"""What a state's places are: Bytewax's recovery store, and those that a state was made with.

Owns: reading them as a restart does. Refuses: writing Bytewax's store, which is its own.

A restart goes on from the *resume epoch*: the lowest frontier of the last execution's workers, where all of them noted
one; else from where that execution began. Of each key it takes the newest snapshot before that epoch. A crash within a
commit leaves newer ones, which count for nothing.

A state that was made by `lookback reshard` has an empty recovery store at first; until its first epoch is durable,
what it goes on from stands in its state.json.
"""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import sqlite3
from pathlib import Path
from typing import Any

SOURCE, SHARD, LETTERS = "source", "shard", "dead_letters"  # steps of the graph
PLACES, LETTER_PLACES = "places", "letters"  # in `resharded` of state.json


def resumed(recovery: Path, step: str) -> dict[str, bytes]:
    """Return what each key of a step stored with the last durable epoch, as Bytewax pickled it."""
    executions: list[tuple[int, int, int]] = []
    fronts: list[tuple[int, int]] = []
    snaps: list[tuple[str, int, bytes | None]] = []
    for file in sorted(recovery.glob("part-*.sqlite3")):
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            executions += db.execute("SELECT ex_num, worker_count, resume_epoch FROM exs").fetchall()
            fronts += db.execute("SELECT ex_num, worker_frontier FROM fronts").fetchall()
            snaps += db.execute(
                "SELECT state_key, snap_epoch, ser_change FROM snaps WHERE step_id = ?", (f"lookback.{step}",)
            ).fetchall()
    if not executions:
        return {}
    last, workers, began = max(executions)
    own = [front for number, front in fronts if number == last]
    epoch = min(own) if len(own) == workers else began
    found: dict[str, tuple[int, bytes | None]] = {}
    for key, at, change in snaps:
        if at < epoch and at >= found.get(key, (at, None))[0]:
            found[key] = (at, change)
    return {key: change for key, (_, change) in found.items() if change is not None}


def recorded(state: Path, what: str) -> dict[str, Any]:
    """Return the places that a state was made with; none where it began at the beginning."""
    path = state / "state.json"
    if not path.exists():
        return {}
    made_with = json.loads(path.read_text()).get("resharded", {})
    return {key: unpickled(base64.b64decode(text)) for key, text in made_with.get(what, {}).items()}


def unpickled(raw: bytes) -> Any:
    """Return a snapshot, which this program's own sources and sinks wrote; Bytewax keeps them pickled."""
    return pickle.loads(raw)


def source_places(state: Path) -> dict[str, dict[str, Any]]:
    """Return what each source partition stored with the last durable epoch, by its id (`SourcePart.snapshot`)."""
    found = resumed(state / "recovery", SOURCE)
    return {**recorded(state, PLACES), **{key: unpickled(raw) for key, raw in found.items()}}
