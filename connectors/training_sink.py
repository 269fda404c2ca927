"""The training output as a Bytewax sink: rows and marks in, day files out; the parent writes the manifest.

Nothing is finished on a drain: a writer is done when every view of every shard has marked its end.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.training import END, TrainingChunk, TrainingWriter, WrittenFiles

TrainingItem = TrainingChunk | tuple[int, int, int]  # rows, or (view, shard, passed_ms) behind them

_WRITTEN = "written.pickle"


class TrainingPart(StatefulSinkPartition[TrainingItem, None]):
    """The one writer of a replay."""

    def __init__(self, writer: TrainingWriter, streams: int, work: Path) -> None:
        self._writer = writer
        self._open_streams = streams  # views times shards that have not ended
        self._work = work

    def write_batch(self, values: list[TrainingItem]) -> None:
        """Take rows and marks, in the order of each shard."""
        for item in values:
            if isinstance(item, TrainingChunk):
                self._writer.add(item)
                continue
            self._writer.mark(*item)
            if item[2] == END:
                self._open_streams -= 1
        if self._open_streams == 0:
            self._open_streams = -1
            temporary = self._work / (_WRITTEN + ".new")
            temporary.write_bytes(pickle.dumps(self._writer.close()))
            temporary.rename(self._work / _WRITTEN)

    def snapshot(self) -> None:
        """Keep nothing: a replay that was stopped begins anew."""


class TrainingSink(FixedPartitionedSink[TrainingItem, None]):
    """One partition, on whichever worker Bytewax puts it."""

    def __init__(self, open_writer: Callable[[], TrainingWriter], streams: int, work: Path) -> None:
        self._open_writer = open_writer
        self._streams = streams
        self._work = work

    def list_parts(self) -> list[str]:
        """Return the one part."""
        return ["training"]

    def part_fn(self, item_key: str) -> int:
        """Return the one part, whatever the shard."""
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> TrainingPart:
        """Open the writer."""
        return TrainingPart(self._open_writer(), self._streams, self._work)


def written(work: Path) -> WrittenFiles | None:
    """Return what a replay's writer wrote; None where it did not come to its end."""
    path = work / _WRITTEN
    # The file is this program's own, made a moment ago in a folder that it holds locked.
    return pickle.loads(path.read_bytes()) if path.exists() else None
