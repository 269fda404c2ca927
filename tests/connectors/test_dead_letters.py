from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from hypothesis import given
from hypothesis import strategies as st

from connectors.batches import DeadLetter, Reason
from connectors.dead_letters import (
    DeadLetterPart,
    DeadLetterSink,
    from_line,
    part_name,
    read_dead_letters,
    to_line,
)
from lookback.errors import LookbackError, StoreError, UsageError


def letter(offset: int, topic: str = "tx", partition: int = 0, reason: Reason = Reason.PARSE) -> DeadLetter:
    return DeadLetter(topic, partition, offset, reason, f"why {offset}", b"{broken \xff\n" + b"%d" % offset)


def offsets(folder: Path) -> list[int]:
    return [found.offset for found in read_dead_letters(folder)]


@given(
    st.builds(
        DeadLetter, st.text(), st.integers(0, 99), st.integers(0, 2**47), st.sampled_from(Reason), st.text(),
        st.binary(), st.none() | st.integers(-(2**62), 2**62), st.none() | st.integers(0, 2**62),
        st.none() | st.binary(),
    )
)  # fmt: skip
def test_lines_round_trip(one: DeadLetter) -> None:
    line = to_line(one)
    assert from_line(line) == one
    assert line.endswith(b"\n") and line.count(b"\n") == 1


def test_the_line_is_as_documented() -> None:
    found = json.loads(to_line(DeadLetter("tx", 1, 7, Reason.LATE, "late by 5 ms", b"{}", 3, 4)))
    assert found == {
        "topic": "tx", "partition": 1, "offset": 7, "reason": "late", "detail": "late by 5 ms",
        "event_time_ms": 3, "broker_time_ms": 4, "raw": "e30=",
    }  # fmt: skip


def test_a_resumed_part_cuts_what_came_after_its_epoch(tmp_path: Path) -> None:
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    part.write_batch([[letter(1), letter(2)]])
    first = part.snapshot()
    part.write_batch([[letter(3)], [letter(4)]])
    second = part.snapshot()
    part.write_batch([[letter(5)]])
    part.close()
    assert offsets(tmp_path) == [1, 2, 3, 4, 5]
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other)
    DeadLetterPart(tmp_path, "tx-0", "job", second).close()
    assert offsets(tmp_path) == [1, 2, 3, 4]
    again = DeadLetterPart(other, "tx-0", "job", first)
    again.write_batch([[letter(3)]])
    assert again.snapshot() > first
    again.close()
    assert offsets(other) == [1, 2, 3]


def test_a_snapshot_of_an_epoch_that_never_was_is_not_believed(tmp_path: Path) -> None:
    """It was taken before a crash; the next start wrote that epoch anew, without a letter in it."""
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    part.write_batch([[letter(1)]])
    first = part.snapshot()
    part.write_batch([[letter(2)]])
    never = part.snapshot()
    part.close()
    part = DeadLetterPart(tmp_path, "tx-0", "job", first)
    part.close()
    assert offsets(tmp_path) == [1]
    for _ in range(2):
        part = DeadLetterPart(tmp_path, "tx-0", "job", never)
        part.close()
        assert offsets(tmp_path) == [1]
    part = DeadLetterPart(tmp_path, "tx-0", "job", never)
    part.write_batch([[letter(2), letter(3)]])
    later = part.snapshot()
    part.close()
    DeadLetterPart(tmp_path, "tx-0", "job", later).close()
    assert offsets(tmp_path) == [1, 2, 3]


def test_a_job_without_a_snapshot_goes_back_to_where_it_began(tmp_path: Path) -> None:
    part = DeadLetterPart(tmp_path, "tx-0", "old job", None)
    part.write_batch([[letter(1)]])
    part.snapshot()
    part.close()
    with (tmp_path / "tx-0.jsonl").open("ab") as stream:
        stream.write(b'{"topic": "torn')
    for _ in range(2):  # a crash before the first epoch, then a new start
        part = DeadLetterPart(tmp_path, "tx-0", "new job", None)
        part.write_batch([[letter(2)]])
        part.close()
    assert offsets(tmp_path) == [1, 2]


def test_a_file_that_lost_bytes_is_refused(tmp_path: Path) -> None:
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    part.write_batch([[letter(1)]])
    length, start = part.snapshot()
    part.close()
    (tmp_path / "tx-0.jsonl").write_bytes(b"")
    with pytest.raises(StoreError, match=f"has 0 bytes, and the job's last epoch had written {length}"):
        DeadLetterPart(tmp_path, "tx-0", "job", (length, start))


def test_reading_goes_by_file_and_place(tmp_path: Path) -> None:
    for partition, reason in ((0, Reason.PARSE), (1, Reason.LATE)):
        part = DeadLetterPart(tmp_path, part_name("tx", partition), "job", None)
        part.write_batch([[letter(n, "tx", partition, reason) for n in range(3)]])
        part.snapshot()
        part.close()
    assert offsets(tmp_path) == [0, 1, 2, 0, 1, 2]
    assert list(read_dead_letters(tmp_path))[-1] == letter(2, "tx", 1, Reason.LATE)
    with pytest.raises(UsageError, match="there is no folder"):
        offsets(tmp_path / "none")


def test_a_line_being_written_is_left_out_and_a_damaged_one_named(tmp_path: Path) -> None:
    file = tmp_path / "tx-0.jsonl"
    file.write_bytes(to_line(letter(1)) + to_line(letter(2))[:-5])
    assert offsets(tmp_path) == [1]
    file.write_bytes(to_line(letter(1)) + b"{}\n" + to_line(letter(2)))
    with pytest.raises(LookbackError, match=r"tx-0\.jsonl, line 2 is no dead letter"):
        offsets(tmp_path)


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """Let writes beyond a file size fail, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fails_says_which_folder(tmp_path: Path) -> None:
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    with small_disk(1000), pytest.raises(StoreError, match=f"can't be written to {tmp_path}"):
        part.write_batch([[letter(n) for n in range(100)]])
        part.snapshot()
    part.close()
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    part.write_batch([[letter(1)]])
    part.snapshot()
    part.close()
    assert offsets(tmp_path) == [1]


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = DeadLetterPart(tmp_path, "tx-0", "job", None)
    part.write_batch([[letter(1)]])

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("connectors.dead_letters.os.fsync", full)
    with pytest.raises(StoreError, match="its disk is full; make room"):
        part.snapshot()
    monkeypatch.undo()
    part.close()


class Letters(FixedPartitionedSource[Any, int]):
    """One letter a batch; stops as a crash does before number `crash_at`."""

    def __init__(self, crash_at: int | None) -> None:
        self.crash_at = crash_at

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> LettersPart:
        return LettersPart(resume_state or 0, self.crash_at)


class LettersPart(StatefulSourcePartition[Any, int]):
    def __init__(self, number: int, crash_at: int | None) -> None:
        self.number, self.crash_at = number, crash_at

    def next_batch(self) -> list[Any]:
        if self.number == self.crash_at:
            raise AbortExecution
        if self.number == 60:
            raise StopIteration
        number, self.number = self.number, self.number + 1
        return [(part_name("tx", number % 12), [letter(number, "tx", number % 12)])]

    def snapshot(self) -> int:
        return self.number


def test_a_dataflow_that_crashes_writes_each_letter_once(tmp_path: Path) -> None:
    parts = [("tx", n) for n in range(12)]
    recovery, out = tmp_path / "recovery", tmp_path / "out"
    recovery.mkdir()
    init_db_dir(recovery, 1)
    for crash_at in (3, 25, 41, None):
        flow = Dataflow("letters")
        source = op.input("in", flow, Letters(crash_at))
        op.output("out", source, DeadLetterSink(out, parts, "job"))
        epoch = timedelta(days=1) if crash_at == 3 else timedelta(0)  # the first crash: before any epoch
        run_main(flow, epoch_interval=epoch, recovery_config=RecoveryConfig(str(recovery)))
    assert sorted(offsets(out)) == list(range(60))
    for file in out.glob("*.jsonl"):
        with file.open("rb") as stream:
            assert {part_name(found.topic, found.partition) for found in map(from_line, stream)} == {
                file.stem
            }
    assert len(list(out.glob("*.jsonl"))) == 12
