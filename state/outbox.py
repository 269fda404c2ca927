"""What a shard has still to tell the change log: the *outbox*, one entry a commit, in the shard's own RocksDB.

    name  := "l"                  whose entries these are (JSON): the outbox's id, and who may be sending them
    entry := "o" number:u64be     a commit's updates, packed by the log's writer

An entry is part of the commit that made its updates true (step 3), so that neither is there without the other; it goes
with a later commit, once the log has it. Numbers rise by one and never fall: what the log holds of an outbox, by
its newest number, tells after a crash which entries it has. Refuses: sending, and what an entry means.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from state import keys
from state.rocksdb import Database, Put

ID_BYTES = 8


class Outbox:
    """One shard's. `sent` and `ends` are set by whoever sends, perhaps in a thread of its own."""

    def __init__(self, db: Database, kept: Mapping[str, Any], views: Sequence[str]) -> None:
        """Read what the last commit left. kept: what `to_json` gave it; empty of a shard that had no outbox."""
        self._db = db
        self._views = views
        self.id = ""
        self.sender = ""  # who was allowed to send last: may be at it still until fenced
        self.number: int = kept.get("number", 0)  # of the newest entry
        self.sent: int = kept.get("sent", 0)  # the log has all up to it
        self.ends: dict[str, int] = dict(
            kept.get("ends", {})
        )  # by partition of the log: no unsent entry is before
        told = kept.get("views", {})
        # Per view, entities whose rows are in the state and in no update yet: they wait for the served mark.
        self.untold: list[set[str]] = [set(told.get(name, {}).get("untold", ())) for name in views]
        # Per view, as of when entities of the dirty set were last told, where it was later than their newest event.
        self.told_ms: list[dict[str, int]] = [dict(told.get(name, {}).get("told", {})) for name in views]
        self._stored: deque[int] = deque()

    def begin(self, sender: str) -> str:
        """Let `sender` send from here on; return who did before, "" where nobody did."""
        raw = self._db.get(keys.OUTBOX)
        name = {"id": secrets.token_hex(ID_BYTES), "sender": ""} if raw is None else json.loads(raw)
        before = name["sender"]
        self.id, self.sender = name["id"], sender
        if before != sender:
            self._db.write([(keys.OUTBOX, json.dumps({"id": self.id, "sender": sender}).encode())])
        return str(before)

    def entries(self) -> list[tuple[int, bytes]]:
        """Return the entries that are stored, sent or not, in the order of their numbers."""
        stored = self._db.scan(keys.ENTRY, keys.after(keys.ENTRY))
        found = [(keys.entry_number(raw), value) for raw, value in stored]
        self._stored = deque(number for number, _ in found)
        return found

    def skip_to(self, number: int) -> None:
        """Give no number again up to this one: the log has it from a later state of this shard than this."""
        self.number = max(self.number, number)
        self.sent = max(self.sent, number)

    def puts(self, entry: bytes | None) -> list[Put]:
        """Return what a commit writes: the new entry, if there is one, and the deletes of those sent."""
        out: list[Put] = []
        sent = self.sent
        while self._stored and self._stored[0] <= sent:
            out.append((keys.entry(self._stored.popleft()), None))
        if entry is not None:
            self.number += 1
            self._stored.append(self.number)
            out.append((keys.entry(self.number), entry))
        return out

    def forget_sent(self) -> None:
        """Delete the entries that the log has, now that no commit will."""
        puts = self.puts(None)
        if puts:
            self._db.write(puts)

    def to_json(self) -> dict[str, Any]:
        """Return what a commit keeps."""
        views = zip(self._views, self.untold, self.told_ms, strict=True)
        return {
            "number": self.number,
            "sent": self.sent,
            "ends": self.ends,
            "views": {name: {"untold": sorted(untold), "told": told} for name, untold, told in views},
        }


def is_settled(path: Path, kept: Mapping[str, Any]) -> bool:
    """Return whether nothing of a shard is still to be told. kept: as its last commit left it."""
    if not kept:
        return True
    db = Database(path, read_only=True)
    try:
        waits = any(True for _ in db.scan(keys.ENTRY, keys.after(keys.ENTRY)))
    finally:
        db.close()
    return not waits and not any(view["untold"] for view in kept["views"].values())
