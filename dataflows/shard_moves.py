"""Moving shards between the volumes of a job's pods, while no worker runs.

A shard is where its folder is. It moves in three steps, each of which may be repeated: the taker writes a copy under
another name and syncs it, renames it, and only then the giver lets its own go. A crash in between leaves two copies
that no job has run on; the next start keeps the one with more commits, and where both have as many, either.

    DIR/.moving-shard-NN/   a copy that is not whole; removed at each start
    DIR/.gone-shard-NN/     one that was let go, and is being removed
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import xxhash

from dataflows.placement import worker_of
from dataflows.pods import Link, PeerLost
from state.shard import read_commit

PIECE_BYTES = 1 << 20
LEFT_BEHIND = ("LOCK", "LOG")  # RocksDB makes them anew


def pod_of(key: str, pods: int, workers: int) -> int:
    """Return the pod whose worker Bytewax gives a shard's key to."""
    return worker_of(key, pods * workers) // workers


def held(state: Path) -> list[int]:
    """Return the shards whose folders are there, whole; tidy up what an earlier move left."""
    for path in (*state.glob(".moving-*"), *state.glob(".gone-*")):
        shutil.rmtree(path)
    return sorted(
        int(path.name.removeprefix("shard-")) for path in state.glob("shard-*") if (path / "CURRENT").exists()
    )


def commits(state: Path, shard: int) -> int:
    """Return how many epochs a shard has committed."""
    return int(read_commit(_folder(state, shard)).get("epoch", 0))


def give(link: Link, state: Path, shard: int) -> None:
    """Send a shard's files."""
    for path in sorted(_folder(state, shard).iterdir()):
        if path.name.startswith(LEFT_BEHIND):
            continue
        digest = xxhash.xxh3_64()
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                link.send("piece", piece, name=path.name)
        link.send("file", name=path.name, size=path.stat().st_size, digest=digest.hexdigest())
    link.send("whole")


def take(link: Link, state: Path, shard: int) -> None:
    """Write what `give` sends; the shard is there for good when this returns."""
    copy = state / f".moving-shard-{shard:02d}"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    while (frame := link.expect("piece", "file", "whole")).kind != "whole":
        path = copy / Path(str(frame.facts["name"])).name
        with path.open("ab") as file:
            file.write(frame.body)
            if frame.kind == "file":
                file.flush()
                os.fsync(file.fileno())
        if frame.kind == "file":
            _check(path, frame.facts["size"], frame.facts["digest"], link)
    _sync(copy)
    copy.rename(_folder(state, shard))
    _sync(state)


def let_go(state: Path, shard: int) -> None:
    """Remove a shard that another pod has."""
    gone = state / f".gone-shard-{shard:02d}"
    shutil.rmtree(gone, ignore_errors=True)
    _folder(state, shard).rename(gone)
    _sync(state)
    shutil.rmtree(gone)


def missing(shards: int, there: Sequence[Sequence[int]]) -> list[int]:
    """Return the shards that no pod holds."""
    return sorted(set(range(shards)).difference(*there))


def _check(path: Path, size: int, digest: str, link: Link) -> None:
    found = xxhash.xxh3_64()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    if path.stat().st_size != size or found.hexdigest() != digest:
        raise PeerLost(f"{path.name} did not come whole from {link.who}")


def _folder(state: Path, shard: int) -> Path:
    return state / f"shard-{shard:02d}"


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
