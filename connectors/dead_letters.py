"""Dead letters in a local folder: refused events with position, reason and raw bytes.

Owns: the files' grammar, writing them exactly once, reading them back. Refuses: deciding what is refused.

    DIR/<topic>-<partition>.jsonl    one JSON object a line, in the order of writing:
        topic, partition, offset, reason (parse schema late ahead repeat), detail, event_time_ms, broker_time_ms
        (null where unknown), raw (base64), key (base64; left out where the message has none)
    DIR/.<topic>-<partition>.begun   {"job", "bytes", "start", "cut"}: where a job began in a file that another had
        filled, how often it was started, and the length that its last start cut the file to
Exactly once: a partition's snapshot is its file's length, taken after a sync, and the start that took it; a resumed
job cuts the file to the length of the epoch it resumes from. A job that resumes before its first epoch cuts it to
where it began. A crash within a commit may leave a snapshot of an epoch that never was; a later start that writes
that epoch without any letter leaves it standing. So a snapshot of a start before the last one is not believed: the
last start knew better, and has written nothing since. A reader may meet a last line that is not whole: it is being
written, and is left out.
"""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.batches import DeadLetter, Reason
from lookback.errors import LookbackError, StoreError, UsageError


def part_name(topic: str, partition: int) -> str:
    """Return the name of the sink's partition for a source partition."""
    return f"{topic}-{partition}"


Snapshot = tuple[int, int]  # length, start


class DeadLetterSink(FixedPartitionedSink[Sequence[DeadLetter], Snapshot]):
    """Write dead letters, keyed by `part_name`, each item a sequence of one partition's.

    parts: all (topic, partition) of the job's source. job: what tells this job's state from another's, so
    that a restart before the first epoch is told from a new job (its state's id).
    """

    def __init__(
        self,
        folder: str | Path,
        parts: Sequence[tuple[str, int]],
        job: str,
        recorded: Mapping[str, Snapshot] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._recorded = recorded or {}  # where a part goes on that has no snapshot yet
        self._job = job
        self._names = sorted(part_name(topic, partition) for topic, partition in parts)
        self._index = {name: index for index, name in enumerate(self._names)}
        with _disk(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def list_parts(self) -> list[str]:
        """Return all parts: every worker reaches the folder."""
        return self._names

    def part_fn(self, item_key: str) -> int:
        """Return the index of a part among all, by name."""
        return self._index[item_key]

    def build_part(self, step_id: str, for_part: str, resume_state: Snapshot | int | None) -> DeadLetterPart:
        """Open one part's file at the length of the resumed epoch."""
        if resume_state is None:
            resume_state = self._recorded.get(for_part)
        return DeadLetterPart(self._folder, for_part, self._job, resume_state)


class DeadLetterPart(StatefulSinkPartition[Sequence[DeadLetter], Snapshot]):
    """One part's file, open for appending.

    Raises StoreError where the folder can't be written, or the file is shorter than the resumed epoch's.
    """

    def __init__(self, folder: Path, name: str, job: str, resume: Snapshot | int | None) -> None:
        self._folder = folder
        path = folder / f"{name}.jsonl"
        with _disk(folder):
            self._file: IO[bytes] = path.open("ab")
            length = path.stat().st_size
            resume_bytes, self._start = _begin(folder / f".{name}.begun", path, job, resume)
            if length < resume_bytes:
                self._file.close()
                raise StoreError(
                    f"{path} has {length} bytes, and the job's last epoch had written {resume_bytes}; "
                    "restore the file, or give another --dead-letters folder and a fresh --state."
                )
            self._file.truncate(resume_bytes)
        self._bytes = self._synced = resume_bytes

    def write_batch(self, values: list[Sequence[DeadLetter]]) -> None:
        """Append letters; they are durable with the next snapshot."""
        lines = [to_line(letter) for letters in values for letter in letters]
        if lines:
            block = b"".join(lines)
            with _disk(self._folder):
                self._file.write(block)
            self._bytes += len(block)

    def snapshot(self) -> Snapshot:
        """Sync the file and return its length, and which start this is."""
        if self._bytes != self._synced:
            with _disk(self._folder):
                self._file.flush()
                os.fsync(self._file.fileno())
            self._synced = self._bytes
        return self._bytes, self._start

    def close(self) -> None:
        """Close the file."""
        with _disk(self._folder):
            self._file.close()


def _begin(marker: Path, path: Path, job: str, resume: Snapshot | int | None) -> tuple[int, int]:
    """Return the length that a start cuts a file to, and its number; remember both."""
    begun, start, cut = -1, 0, 0
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        if found["job"] == job:
            begun, start, cut = int(found["bytes"]), int(found.get("start", 0)), int(found.get("cut", 0))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # none yet, or torn: then nothing was written after it
    length, taken_by = (resume, 0) if isinstance(resume, int) else resume or (None, 0)
    if length is None:
        length = begun if begun >= 0 else _whole_bytes(path)
    elif taken_by < start:
        length = cut
    scratch = marker.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as stream:
        known = {"job": job, "bytes": begun if begun >= 0 else length, "start": start + 1, "cut": length}
        json.dump(known, stream)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(marker)
    return length, start + 1


def _whole_bytes(path: Path) -> int:
    """Return the length of a file's whole lines."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - (1 << 16))
            stream.seek(begin)
            newline = stream.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0


def to_line(letter: DeadLetter) -> bytes:
    """Return a letter as its line, newline included."""
    return (
        json.dumps(
            {
                "topic": letter.topic,
                "partition": letter.partition,
                "offset": letter.offset,
                "reason": letter.reason.value,
                "detail": letter.detail,
                "event_time_ms": letter.event_time_ms,
                "broker_time_ms": letter.broker_time_ms,
                "raw": base64.b64encode(letter.raw).decode("ascii"),
                **({} if letter.key is None else {"key": base64.b64encode(letter.key).decode("ascii")}),
            },
            separators=(",", ":"),
        ).encode("utf-8")
        + b"\n"
    )


def from_line(line: bytes) -> DeadLetter:
    """Return the letter of a line; raise ValueError, KeyError or TypeError where it is none."""
    found = json.loads(line)
    return DeadLetter(
        found["topic"],
        found["partition"],
        found["offset"],
        Reason(found["reason"]),
        found["detail"],
        base64.b64decode(found["raw"], validate=True),
        found["event_time_ms"],
        found["broker_time_ms"],
        base64.b64decode(found["key"], validate=True) if "key" in found else None,
    )


def read_dead_letters(folder: str | Path) -> Iterator[DeadLetter]:
    """Yield the letters of a folder by file name, then in the order of writing.

    Raises UsageError where there is no such folder, LookbackError, naming file and line, where one is
    damaged. Works while the job runs.
    """
    for path in _files(folder):
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield from_line(line)
                except (ValueError, KeyError, TypeError):
                    raise LookbackError(
                        f"{path}, line {number} is no dead letter; take the line out, or the file away."
                    ) from None


def _files(folder: str | Path) -> list[Path]:
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}; give the --dead-letters folder of a job.")
    return sorted(path.glob("*.jsonl"))


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a failing disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "its disk is full; make room" if full else f"{error.strerror or error}; see to it"
        raise StoreError(
            f"dead letters can't be written to {folder}: {what} and start the job again."
        ) from None
