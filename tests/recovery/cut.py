"""What the tests of `lookback reshard` share: running it on real states, and what must hold of what it leaves."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.recovery.job import Ended, Job, command


def cut(old: Path, shards: int, new: Path, *, fault: str = "") -> Ended:
    """Run `lookback reshard`; `fault` arms a fault point."""
    said = new.with_name(f"{new.name}-said")
    armed = {"LOOKBACK_FAULT": fault} if fault else {}
    return command("reshard", str(old), "--shards", str(shards), "--out", str(new), said=said, **armed)


def cut_all(job: Job, shards: int, name: str) -> dict[str, Any]:
    """Cut a stopped job's state into so many shards and let the job go on from it; return what state.json says."""
    old, new = job.state, job.folder / name
    before = contents(old)
    ended = cut(old, shards, new)
    assert ended.code == 0 and f"in {shards} shards" in ended.said, ended
    assert contents(old) == before, "the old state was changed"
    job.state_at = new
    made: dict[str, Any] = json.loads((new / "state.json").read_text())
    assert made["shards"] == shards and len(list(new.glob("shard-*"))) == shards
    return made


def stop_half_way(job: Job, rows: int) -> None:
    """Run the job until it has read so many rows more, and stop it with SIGTERM."""
    run = job.start()
    before = run.until(run.rows, "a first batch")
    run.until(lambda: run.rows() > before + rows, f"{rows} rows more")
    run.process.send_signal(signal.SIGTERM)
    ended = run.wait()
    assert ended.code == 0 and ended.said.startswith("stopped: "), ended


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
