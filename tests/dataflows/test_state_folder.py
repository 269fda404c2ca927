"""Which state folder a job may use: made whole or not at all, refused where it doesn't fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflows.state_folder import StateFolder
from lookback import RefusedError, UsageError
from lookback.definition import Definition, loads

TEXT = """
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, fields: {card: string}}
entities: {card: string}
views:
  a: {entity: card, stream: tx, features: {n: {agg: count, windows: [1h]}}}
"""
SOURCE = "archive:/somewhere"
PARTS = ["tx/0", "tx/1"]


@pytest.fixture
def definition() -> Definition:
    return loads(TEXT)


@pytest.fixture
def state(definition: Definition, tmp_path: Path) -> Path:
    path = tmp_path / "state"
    StateFolder(path, definition, SOURCE, PARTS).close()
    return path


def test_a_made_folder_opens_again(definition: Definition, state: Path) -> None:
    first = StateFolder(state, definition, SOURCE, PARTS)
    identity = first.id
    first.close()
    again = StateFolder(state, definition, SOURCE, [*PARTS, "tx/2"])
    assert again.id == identity
    again.close()
    assert json.loads((state / "state.json").read_text())["parts"] == ["tx/0", "tx/1", "tx/2"]


def test_what_a_crash_left_half_made_is_made_anew(definition: Definition, state: Path) -> None:
    (state / "state.json").unlink()
    shutil.rmtree(state / "shard-31")
    StateFolder(state, definition, SOURCE, PARTS).close()
    assert (state / "shard-31" / "CURRENT").exists()


def test_as_many_shards_as_asked_for(definition: Definition, tmp_path: Path) -> None:
    path = tmp_path / "state"
    StateFolder(path, definition, SOURCE, PARTS, shards=5).close()
    assert len(list(path.glob("shard-*"))) == 5
    for shards in (None, 5):
        again = StateFolder(path, definition, SOURCE, PARTS, shards=shards)
        assert (again.shards, len(again.keys)) == (5, 5)
        again.close()
    with pytest.raises(
        UsageError, match=f"--shards 8: .* has 5; .*`lookback reshard {path} --shards 8 --out NEW`"
    ):
        StateFolder(path, definition, SOURCE, PARTS, shards=8)
    StateFolder(path, definition, SOURCE, PARTS).close()  # it let go of the folder


def test_a_start_of_more_shards_that_broke_off_leaves_none_behind(
    definition: Definition, state: Path
) -> None:
    (state / "state.json").unlink()
    folder = StateFolder(state, definition, SOURCE, PARTS, shards=8)
    folder.close()
    assert len(list(state.glob("shard-*"))) == 8
    StateFolder(state, definition, SOURCE, PARTS).close()


def test_two_jobs_on_one_state(definition: Definition, state: Path) -> None:
    first = StateFolder(state, definition, SOURCE, PARTS)
    with pytest.raises(RefusedError, match="another job runs"):
        StateFolder(state, definition, SOURCE, PARTS)
    first.close()


def _without_shard(state: Path) -> None:
    (state / "shard-07").rename(state.parent / "aside")


def _without_recovery(state: Path) -> None:
    (state / "recovery").rename(state.parent / "aside")


def _damaged_recovery(state: Path) -> None:
    [part] = (state / "recovery").glob("part-*.sqlite3")
    raw = bytearray(part.read_bytes())
    raw[:200] = b"\xff" * 200
    part.write_bytes(bytes(raw))


def _damaged_meta(state: Path) -> None:
    (state / "state.json").write_text("{")


def _newer(state: Path) -> None:
    meta = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**meta, "format": 99}))


def _other_shards(state: Path) -> None:
    meta = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**meta, "shards": 8}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without_shard, "shard 7 of 32 is missing"),
        (_without_recovery, "recovery store .* is missing"),
        (_damaged_recovery, "recovery store .* is damaged"),
        (_damaged_meta, "state.json is damaged"),
        (_newer, "format 99"),
        (_other_shards, "has 8 shards"),
    ],
)
def test_harm_is_named_and_nothing_is_changed(
    harm: Callable[[Path], None], message: str, definition: Definition, state: Path
) -> None:
    harm(state)
    before = sorted(p.name for p in state.iterdir())
    with pytest.raises(RefusedError, match=message) as refusal:
        StateFolder(state, definition, SOURCE, PARTS)
    assert refusal.value.exit_code == 3
    assert sorted(p.name for p in state.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "source", "parts", "message"),
    [
        (TEXT.replace("1h", "2h"), SOURCE, PARTS, "view a changed .*fresh --state"),
        (TEXT.replace("  a:", "  b:"), SOURCE, PARTS, "view b is new; view a is gone"),
        (TEXT, "archive:/elsewhere", PARTS, "counts the events of archive:/somewhere"),
        (TEXT, SOURCE, ["tx/0"], "no partition tx/1 any more"),
    ],
)
def test_another_jobs_folder_is_refused(
    text: str, source: str, parts: list[str], message: str, state: Path
) -> None:
    with pytest.raises(RefusedError, match=message):
        StateFolder(state, loads(text), source, parts)


def test_a_comment_changes_nothing(state: Path) -> None:
    StateFolder(state, loads("# a note\n" + TEXT), SOURCE, PARTS).close()


def test_a_folder_of_someone_else_is_left_alone(definition: Definition, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(RefusedError, match="photos"):
        StateFolder(tmp_path, definition, SOURCE, PARTS)
    assert [p.name for p in tmp_path.iterdir() if p.name != "lock"] == ["photos"]
