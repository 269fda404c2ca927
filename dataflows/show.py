"""What `get` and `status` print."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dataflows.board import COLUMNS, DUE, HEADER, REGISTRY, SHARDS, WORKERS, Counts
from dataflows.progress import LATE_MS, instant
from dataflows.recovery_store import source_places
from dataflows.state_folder import part_name
from lookback.errors import UsageError
from lookback.reading import Reading, plain
from state.shard import read_commit

UNBROKEN = 10_000  # columns where nothing is wrapped


def answers() -> Console:
    """Return where answers are printed: wrapped to a terminal's width, whole lines where a program reads them."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNBROKEN)


def duration(ms: int) -> str:
    """Return a time span as a person reads it.

    >>> duration(90_061_000), duration(250)
    ('1d 1h', '250ms')
    """
    if ms < 0:
        return "-" + duration(-ms)
    if ms < 1000:
        return f"{ms}ms"
    units = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
    parts = []
    for name, size in units:
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{name}")
    return " ".join(parts[:2])


def reading_table(reading: Reading) -> Group:
    """Return a reading as a table of features, and under it how fresh each view is."""
    key = " ".join(f"{name}={value}" for name, value in reading.entity.items())
    table = Table(title=Text(f"{key} as of {instant(reading.as_of_ms)}"), title_justify="left", box=None)
    table.add_column("feature")
    table.add_column("value", justify="right")
    table.add_column("status")
    for name, value in reading.values.items():
        shown = "null" if value is None else json.dumps(plain(value), ensure_ascii=False).strip('"')
        table.add_row(Text(name), Text(shown), Text(reading.status[name]))
    notes = []
    for view, age in reading.age_ms.items():
        if age is None:
            notes.append(f"{view}: {_without_events(reading, view)}")
            continue
        text = f"{view}: newest event {duration(age)} before"
        mark, covers = reading.watermark_ms[view], reading.covers_from_ms[view]
        if mark is not None:
            text += f"; the job had reached {instant(mark)}"
        text += "; all rows are kept" if covers is None else f"; rows kept from {instant(covers)}"
        notes.append(text)
    return Group(table, *(Text(note, style="dim") for note in notes))


def _without_events(reading: Reading, view: str) -> str:
    """Say why a view has no event up to the instant: none at all, or later ones alone."""
    covers = reading.covers_from_ms[view]
    if covers is None and reading.watermark_ms[view] is None:
        return "this entity is unknown to the store"
    kept = "" if covers is None else f"; rows kept from {instant(covers)}"
    return f"no event at or before this instant is kept{kept}"


def status_of(state: Path) -> dict[str, Any]:
    """Return what a state folder says of its job; each shard as of its last commit."""
    path = state / "state.json"
    if not path.exists():
        raise UsageError(f"{state} is no state folder: give the --state of a job")
    meta = json.loads(path.read_text())
    shards = [dict(read_commit(state / f"shard-{i:02d}")) for i in range(meta["shards"])]
    views = {name: sum(_rows(s["views"].get(name, {})) for s in shards if s) for name in meta["views"]}
    running = is_running(state)
    return {
        "state": str(state),
        "source": meta["source"],
        "running": running,
        "waiting": _waiting(state, running),
        "shards": meta["shards"],
        "commits": max((s["epoch"] for s in shards if s), default=0),
        "state_bytes": sum(f.stat().st_size for f in state.glob("shard-*/*") if f.is_file()),
        "views": {n: {"fingerprint": f, "rows": views[n]} for n, f in meta["views"].items()},
        "partitions": _partitions(state),
    }


def _rows(view: dict[str, Any]) -> int:
    """Return how many rows a shard has counted for a view (as its sequence alone told at first)."""
    return int(view.get("counted", view.get("sequence", 0)))


def is_running(state: Path) -> bool:
    """Return whether a job holds a state folder."""
    import fcntl

    with (state / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _waiting(state: Path, running: bool) -> dict[str, int]:
    """Return what a running job waits for: how long its source has not answered, how many workers or partitions wait
    for what, and by how long refreshes are late.
    """
    path = state / "board"
    words = np.fromfile(path, np.int64) if running and path.exists() else np.empty(0, np.int64)
    if len(words) < HEADER:  # it doesn't run, or is just starting
        words = np.zeros(HEADER, np.int64)
    _, disk, store = words[: 3 * WORKERS].reshape(3, WORKERS)
    away = int(words[3 * WORKERS])
    return {
        "source_ms": max(1, time.time_ns() // 1_000_000 - away) if away else 0,
        "disk_workers": int((disk != 0).sum()),
        "store_workers": int((store != 0).sum()),
        "registry_partitions": int(words[HEADER:].reshape(-1, COLUMNS)[:, REGISTRY].sum()),
        "refresh_ms": int(words[DUE + SHARDS : DUE + 2 * SHARDS].max()),
    }


def _waits(waiting: dict[str, int]) -> list[str]:
    """Return a sentence for each thing that a job waits for."""
    found = []
    if waiting["source_ms"]:
        found.append(f"waits for its source, which has not answered for {duration(waiting['source_ms'])}")
    for what, name in (("room on the disk", "disk_workers"), ("the online store", "store_workers")):
        if waiting[name]:
            found.append(f"waits for {what} (workers: {waiting[name]})")
    if waiting["registry_partitions"]:
        found.append(f"waits for the schema registry (partitions: {waiting['registry_partitions']})")
    if waiting["refresh_ms"] > LATE_MS:
        found.append(f"refreshes values {duration(waiting['refresh_ms'])} late")
    return found


def _partitions(state: Path) -> dict[str, Any]:
    """Return each source partition's place as of the last durable epoch."""
    found = {
        part_name(part): {
            "offset": place["offset"],
            "watermark_ms": place["watermark"],
            **asdict(Counts(**place["counts"])),
        }
        for part, place in source_places(state).items()
    }
    return dict(sorted(found.items()))


def status_table(found: dict[str, Any]) -> Group:
    """Return a state's status for a terminal."""
    head = [
        f"{found['state']}: {'running' if found['running'] else 'not running'}, {found['shards']} shards, "
        f"{found['commits']} commits, {found['state_bytes'] / 1e6:,.1f} MB",
        f"source {found['source']}",
        *_waits(found["waiting"]),
    ]
    views = Table(box=None)
    for name in ("view", "fingerprint", "rows counted"):
        views.add_column(name, justify="right" if name == "rows counted" else "left")
    for name, view in found["views"].items():
        views.add_row(name, view["fingerprint"][:12], f"{view['rows']:,}")
    places = Table(box=None)
    for name in ("partition", "next offset", "watermark"):
        places.add_column(name, justify="right" if name == "next offset" else "left", no_wrap=True)
    events = Table(box=None)  # a table of its own: both fit 80 columns
    for name in ("partition", "events", "bad", "late", "ahead", "repeat", "no key"):
        events.add_column(name, justify="left" if name == "partition" else "right", no_wrap=True)
    for name, part in found["partitions"].items():
        places.add_row(name, f"{part['offset']:,}", instant(part["watermark_ms"]))
        events.add_row(name, *(f"{part[c]:,}" for c in ("rows", "bad", "late", "ahead", "repeat", "no_key")))
    return Group(*(Text(line) for line in head), Text(), views, Text(), places, Text(), events)


def lossless(raw: bytes) -> tuple[str, str]:
    r"""Return bytes as JSON can hold them, and how: as the text that they are, else in base64.

    >>> lossless("é".encode()), lossless(b"\xff")
    (('é', 'utf-8'), ('/w==', 'base64'))
    """
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode("ascii"), "base64"
