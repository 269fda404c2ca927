"""`lookback reshard` within one process: what it goes on with, begins anew, refuses, and says of a full disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflows import reshard as job
from dataflows.route import shard_of_utf8
from dataflows.state_folder import HALF_MADE, StateFolder
from lookback.definition import loads
from lookback.errors import LookbackError, RefusedError, UsageError
from state import keys, reshard
from state.rocksdb import Database
from state.shard import commit_put
from tests.dataflows.test_state_folder import PARTS, SOURCE, TEXT
from tests.recovery.test_full_disk import fill, small_disk


def fill_shards(state: Path, entities: int, size: int) -> None:
    """Put records of as many bytes into a state's shards, and a commit into each."""
    [fingerprint] = json.loads((state / "state.json").read_text())["views"].values()
    texts = [f"card {n}" for n in range(entities)]
    owners = shard_of_utf8([text.encode() for text in texts], 32)
    rng = np.random.default_rng(2)
    view = {"applied": {}, "sequence": 3, "dirty": [], "durable": {}}
    for shard in range(32):
        db = Database(state / f"shard-{shard:02d}")
        own = [text for text, owner in zip(texts, owners, strict=True) if owner == shard]
        records = [(keys.entity(keys.view_tag(fingerprint), text), rng.bytes(size)) for text in own]
        commit: dict[str, Any] = {"epoch": 1, "watermarks": {}, "views": {"a": view}}
        db.write([*records, commit_put(commit)])
        db.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "old"
    StateFolder(path, loads(TEXT), SOURCE, PARTS).close()
    fill_shards(path, 300, 100)
    return path


@pytest.fixture
def old(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "old"))


def found(old: Path, new: Path, shards: int = 3) -> dict[str, Any]:
    return job.run(old, shards, new, quiet=True)


def test_a_made_state_is_opened_and_has_all(old: Path, tmp_path: Path) -> None:
    told = found(old, tmp_path / "new")
    assert (told["entities"], told["shards"], told["shards_before"]) == (300, 3, 32)
    folder = StateFolder(tmp_path / "new", loads(TEXT), SOURCE, PARTS)
    before = json.loads((old / "state.json").read_text())
    assert folder.shards == len(folder.keys) == 3 and folder.id != before["id"] == folder.job
    assert folder.line["origins"] == [{"id": folder.job, "shards": 32, "durable": {"a": [{}] * 32}}]
    folder.grow(SOURCE, [*PARTS, "tx/2"])  # what it came from outlives a new partition
    folder.close()
    again = StateFolder(tmp_path / "new", loads(TEXT), SOURCE, [*PARTS, "tx/2"])
    assert again.line == folder.line and again.job == folder.job
    again.close()
    assert found(old, tmp_path / "new") == told  # it is there: nothing is done


def test_what_is_copied_for_good_is_not_copied_again(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SAVE_BYTES", 1)  # each old shard
    copied: list[str] = []

    def copy(db: Database, *rest: Any, fail_at: int | None = None) -> reshard.Records:
        if len(copied) == fail_at:
            raise KeyboardInterrupt
        copied.append(db.path.name)
        return whole(db, *rest)

    whole: Callable[..., reshard.Records] = reshard.copy
    monkeypatch.setattr(reshard, "copy", lambda *all_: copy(*all_, fail_at=10))
    with pytest.raises(KeyboardInterrupt):
        found(old, tmp_path / "new")
    with pytest.raises(
        RefusedError, match=r"half made: give `lookback reshard .*old --shards 3 --out .*new`"
    ):
        StateFolder(tmp_path / "new", loads(TEXT), SOURCE, PARTS)
    monkeypatch.setattr(reshard, "copy", copy)
    assert found(old, tmp_path / "new")["entities"] == 300
    assert copied == [f"shard-{n:02d}" for n in range(32)]


@pytest.mark.parametrize("changed", ["the old state", "the count", "the note"])
def test_what_is_half_made_of_another_is_begun_anew(
    changed: str, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    with monkeypatch.context() as here:
        here.setattr(reshard, "merged", lambda *_: pytest.fail("stop"))  # all is copied by then
        with pytest.raises(pytest.fail.Exception):
            found(old, new)
    assert len(json.loads((new / HALF_MADE).read_text())["copied"]) == 32
    if changed == "the old state":
        [fingerprint] = json.loads((old / "state.json").read_text())["views"].values()
        text = next(f"x{n}" for n in range(999) if shard_of_utf8([b"x%d" % n], 32)[0] == 4)
        db = Database(old / "shard-04")
        view = {"applied": {}, "sequence": 4, "dirty": [], "durable": {}}
        db.write(
            [
                (keys.entity(keys.view_tag(fingerprint), text), b"1"),
                (keys.entity(keys.view_tag(fingerprint), "card 1"), None),
                commit_put({"epoch": 2, "watermarks": {}, "views": {"a": view}}),
            ]
        )
        db.close()
    if changed == "the note":
        (new / HALF_MADE).write_text("{")
    assert found(old, new, 2 if changed == "the count" else 3)["entities"] in (300, 301)
    StateFolder(new, loads(TEXT), SOURCE, PARTS).close()


def test_a_full_disk_is_said_and_gone_on_from(old: Path, tmp_path: Path) -> None:
    fill_shards(old, 2000, 8000)
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        ballast = fill(disk, 8 << 20)
        with pytest.raises(
            LookbackError, match="no space left for .*new: make room and give the same command again"
        ):
            found(old, disk / "new")
        assert not (disk / "new" / "state.json").exists()
        ballast.unlink()
        assert found(old, disk / "new")["bytes"] > 15e6


@pytest.mark.parametrize(
    ("shards", "out", "error", "says"),
    [
        (32, "new", UsageError, "as many already"),
        (0, "new", UsageError, "from 1 to 64"),
        (65, "new", UsageError, "from 1 to 64"),
        (7, "old/new", UsageError, "a folder of its own"),
        (7, ".", UsageError, "a folder of its own"),
        (7, "photos", RefusedError, "name a fresh --out"),
        (7, "photos/one.jpg", LookbackError, "name another --out"),
        (7, "other", RefusedError, "holds a state already"),
    ],
)
def test_wrong_use(
    shards: int, out: str, error: type[LookbackError], says: str, old: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    if out == "other":
        StateFolder(tmp_path / "other", loads(TEXT), SOURCE, PARTS).close()
    before = sorted(path for path in tmp_path.rglob("*") if path.name != "lock")
    with pytest.raises(error, match=says) as refused:
        found(old, tmp_path / out, shards)
    assert refused.value.exit_code == error.exit_code
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lock") == before


def test_a_state_in_use_or_that_is_none(old: Path, tmp_path: Path) -> None:
    folder = StateFolder(old, loads(TEXT), SOURCE, PARTS)
    with pytest.raises(RefusedError, match="another job runs"):
        found(old, tmp_path / "new")
    folder.close()
    with pytest.raises(UsageError, match="no state folder"):
        found(tmp_path / "none", tmp_path / "new")
    (old / "shard-07").rename(tmp_path / "aside")
    with pytest.raises(RefusedError, match="shard 7 of 32 is missing"):
        found(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
