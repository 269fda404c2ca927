"""What every source keeps, one suite for all of them: see `tests/contract/sources.py` for adding one.

A message is handed on once, in its partition's order, wherever the job stopped and went on; what is no good is
singled out with its position; the watermark comes back with the offset; an epoch takes no more than its bytes.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.batches import DeadLetter, Reason
from dataflows import board as b
from dataflows import draining
from dataflows.board import Board
from dataflows.ingest import Ingest, Use
from dataflows.route import Item
from dataflows.settings import Part, Settings
from dataflows.source import DEAD
from lookback.definition import loads
from lookback.events import key_texts
from lookback.windows.plan import unpack_position
from tests.contract.sources import KINDS, TOPIC, Message, SourceKind

DEFINITION = loads(
    f"""
streams:
  tx:
    topic: {TOPIC}
    event_time: {{field: ts, unit: ms}}
    lateness: 5s
    max_ahead: 1h
    fields: {{card: string, amount: int64}}
entities: {{card: string}}
views:
  v: {{entity: card, stream: tx, features: {{paid: {{agg: sum, of: amount, windows: [1h]}}}}}}
"""
)
VIEW = DEFINITION.views["v"]
T0 = 1_700_000_000_000
KEYS = ("00-a", "01-b")  # two shards
PARTITIONS = 3
PATIENCE_S = 60.0  # for a source to give what it has

Row = tuple[int, int, str, int]  # offset, event time, card, amount


def message(number: int, **changes: Any) -> Message:
    """Return the n-th message: a second after the one before, published half a second later."""
    value = {"ts": T0 + 1000 * number, "card": f"c{number % 7}", "amount": number, **changes}
    return Message(value, T0 + 1000 * number + 500)


def messages(partition: int, count: int = 120) -> list[Message]:
    """Return a partition's messages, all good; no two partitions have the same."""
    return [message(1000 * partition + n) for n in range(count)]


def row_of(offset: int, one: Message) -> Row:
    """Return what a good message must become."""
    assert not isinstance(one.value, bytes)
    return offset, one.value["ts"], one.value["card"], one.value["amount"]


@dataclass
class Got:
    """What one partition has given."""

    rows: list[Row] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    shards: set[str] = field(default_factory=set)  # that have heard of it at all
    marks: dict[str, int] = field(default_factory=dict)  # the newest watermark that each shard has
    ended: bool = False

    @property
    def offsets(self) -> list[int]:
        return sorted([row[0] for row in self.rows] + [letter.offset for letter in self.dead])

    def add(self, items: Sequence[tuple[str, Any]], part: Part) -> None:
        """Take a batch in; rows must be of the partition and of their shard, in order."""
        rows: list[Row] = []
        for key, item in items:
            if key.startswith(DEAD):
                assert all((x.topic, x.partition) == (part.topic, part.partition) for x in item)
                self.dead += item
                continue
            assert isinstance(item, Item) and item.part == part.id and KEYS[item.shard] == key
            self.shards.add(key)
            self.marks[key] = item.watermark_ms
            for chunk in item.chunks:
                places = [unpack_position(place) for place in chunk.position.tolist()]
                assert [place[0] for place in places] == [part.partition] * len(places)
                assert [place[1] for place in places] == sorted(place[1] for place in places)
                keys = key_texts(chunk.keys)
                columns = chunk.time_ms.tolist(), chunk.code.tolist(), chunk.values[-1].tolist()
                rows += [
                    (offset, at, keys[code], amount)
                    for (_, offset), at, code, amount in zip(places, *columns, strict=True)
                ]
        self.rows += sorted(rows)


class Job:
    """A job's source, driven as Bytewax drives it."""

    def __init__(self, kind: SourceKind, work: Path, **more: Any) -> None:
        self.kind = kind
        given = {"shards": 2, "shard_keys": KEYS, "batch_rows": 16, **more}
        self.settings: Settings = kind.settings(DEFINITION, work, **given)
        self.source = kind.open(DEFINITION, self.settings, self._ingest)
        self.parts = {part.partition: part for part in self.settings.parts}
        self.board = Board(self.settings.folder / "board", len(self.parts))

    @staticmethod
    def _ingest(part: Part, state: dict[str, Any] | None) -> Ingest:
        return Ingest(
            DEFINITION.streams[part.stream], part.topic, [Use(0, VIEW, VIEW.encode)], 2, None, state
        )

    def build(self, partition: int, state: bytes | None = None) -> Any:
        """Open a partition; state: what `saved` returned."""
        resumed = None if state is None else pickle.loads(state)
        return self.source.build_part("source", self.parts[partition].id, resumed)

    def batch(self, opened: Any, partition: int, got: Got) -> bool:
        """Take the next batch that holds anything; False at the end, or where nothing more comes."""
        quiet_since = time.monotonic()
        while True:
            awake = opened.next_awake()
            if awake is not None:
                time.sleep(max(0.0, (awake - datetime.now(UTC)).total_seconds()))
            try:
                items = list(opened.next_batch())
            except StopIteration:
                got.ended = True
                return False
            if items:
                got.add(items, self.parts[partition])
                return True
            if time.monotonic() - quiet_since > self.kind.silence_s:
                return False

    def rest(self, opened: Any, partition: int, got: Got | None = None) -> Got:
        """Take all that is left, an epoch a batch, and close the partition."""
        got = Got() if got is None else got
        until = time.monotonic() + PATIENCE_S
        while not got.ended:
            assert time.monotonic() < until, "the source came to no end"
            self.batch(opened, partition, got)
            opened.snapshot()
        opened.close()
        return got


def saved(opened: Any) -> bytes:
    """Return a partition's snapshot as the recovery store keeps it."""
    return pickle.dumps(opened.snapshot())


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceKind]:
    kind = request.param
    made: SourceKind = kind(tmp_path, *(request.getfixturevalue(name) for name in kind.needs))
    yield made
    made.close()


def test_every_message_comes_once_in_order_and_then_the_end(kind: SourceKind, tmp_path: Path) -> None:
    sent = [messages(p) for p in range(PARTITIONS)]
    kind.publish(sent)
    job = Job(kind, tmp_path / "work")
    assert sorted(job.source.list_parts()) == [job.parts[p].id for p in range(PARTITIONS)]
    assert [job.parts[p].name for p in range(PARTITIONS)] == [f"{TOPIC}/{p}" for p in range(PARTITIONS)]
    for p in range(PARTITIONS):
        got = job.rest(job.build(p), p)
        assert got.rows == [row_of(offset, one) for offset, one in enumerate(sent[p])]
        assert got.dead == [] and got.ended
        assert got.shards == set(KEYS)
        seen = job.board.rows[p]
        assert (seen[b.DONE], seen[b.ROWS], seen[b.OFFSET]) == (1, 120, 120)
        assert seen[b.EVENT_TIME] == got.rows[-1][1]


def test_what_is_published_after_the_start_lies_beyond_the_end(kind: SourceKind, tmp_path: Path) -> None:
    kind.publish([messages(0, 30)])
    job = Job(kind, tmp_path / "work")
    opened, got = job.build(0), Got()
    job.batch(opened, 0, got)
    kind.publish([[message(5000)]])
    assert [row[0] for row in job.rest(opened, 0, got).rows] == list(range(30))
    later = Job(kind, tmp_path / "later")
    assert [row[0] for row in later.rest(later.build(0, saved(opened)), 0).rows] == [30]


def test_a_part_goes_on_from_any_snapshot(kind: SourceKind, tmp_path: Path) -> None:
    sent = [messages(p) for p in range(PARTITIONS)]
    kind.publish(sent)
    job = Job(kind, tmp_path / "work")
    opened, got, taken = job.build(1), Got(), 0
    while job.batch(opened, 1, got):
        state = saved(opened)
        before = list(got.rows)
        if taken % 3 == 0:  # the others differ in nothing but their number
            again = Job(kind, tmp_path / f"again-{taken}")
            rest = again.rest(again.build(1, state), 1)
            assert before + rest.rows == [row_of(offset, one) for offset, one in enumerate(sent[1])]
            assert again.board.rows[1, b.ROWS] == 120
        taken += 1
    assert taken >= 8 and got.ended


def test_the_watermark_comes_back_with_the_offset(kind: SourceKind, tmp_path: Path) -> None:
    """Message 40 sets the watermark; what is late after it is so in a job that begins behind it as well."""
    sent = messages(0)
    sent[40] = message(40, ts=T0 + 100_000)
    late = [n for n in range(41, 95)]  # more than 5 s older than message 40
    kind.publish([sent])
    job = Job(kind, tmp_path / "work")
    whole = job.rest(job.build(0), 0)
    assert [(letter.offset, letter.reason) for letter in whole.dead] == [(n, Reason.LATE) for n in late]
    opened, got = job.build(0), Got()
    while max(got.offsets, default=0) < 47:
        assert job.batch(opened, 0, got)
    state = saved(opened)
    assert pickle.loads(state)["watermark"] == T0 + 100_000
    assert pickle.loads(state)["offset"] == max(got.offsets) + 1
    again = Job(kind, tmp_path / "again")
    rest = again.rest(again.build(0, state), 0)
    assert got.rows + rest.rows == whole.rows
    assert [letter.offset for letter in got.dead + rest.dead] == late
    assert again.board.rows[0, b.LATE] == len(late)


def test_an_event_ahead_of_its_broker_time_moves_no_watermark(kind: SourceKind, tmp_path: Path) -> None:
    sent = messages(0, 50)
    sent[20] = message(20, ts=T0 + 20_000 + 3_600_501)
    sent[30] = message(30, ts=T0 + 30_000 + 500)
    kind.publish([sent])
    job = Job(kind, tmp_path / "work")
    got = job.rest(job.build(0), 0)
    assert [(letter.offset, letter.reason) for letter in got.dead] == [(20, Reason.AHEAD)]
    assert got.dead[0].broker_time_ms == sent[20].broker_time_ms
    assert len(got.rows) == 49 and job.board.rows[0, b.EVENT_TIME] == T0 + 49_000


def test_bad_input_is_singled_out(kind: SourceKind, tmp_path: Path) -> None:
    sent = messages(0)
    bad = {0: Reason.SCHEMA, 33: Reason.SCHEMA, 34: Reason.SCHEMA, 119: Reason.SCHEMA}
    for n in bad:
        sent[n] = message(n, card=None)
    if kind.any_bytes:
        bad |= {1: Reason.PARSE, 70: Reason.PARSE}
        for n in (1, 70):
            sent[n] = Message(b'{"ts": %d, "card": oops' % n, T0 + 1000 * n + 500)
    kind.publish([sent])
    job = Job(kind, tmp_path / "work")
    got = job.rest(job.build(0), 0)
    assert got.rows == [row_of(n, one) for n, one in enumerate(sent) if n not in bad]
    assert [(x.offset, x.reason) for x in got.dead] == sorted(bad.items())
    for letter in got.dead:
        value = sent[letter.offset].value
        if isinstance(value, bytes):
            assert letter.raw.startswith(value)
        else:
            assert b'"amount"' in letter.raw and str(value["amount"]).encode() in letter.raw
            assert "card" in letter.detail
            assert letter.broker_time_ms == sent[letter.offset].broker_time_ms
    assert job.board.rows[0, b.BAD] == len(bad)


def test_an_epoch_takes_no_more_than_its_bytes(kind: SourceKind, tmp_path: Path) -> None:
    kind.publish([messages(0)])
    everything = Job(kind, tmp_path / "all")
    everything.rest(everything.build(0), 0)
    in_all = int(everything.board.rows[0, b.BYTES])
    budget = in_all // 6
    job = Job(kind, tmp_path / "work", batch_rows=4, epoch_bytes=budget)
    opened, got, epochs, before = job.build(0), Got(), 0, 0
    while not got.ended:
        while job.batch(opened, 0, got):
            pass
        if not got.ended:
            assert opened.next_awake() is not None, "it waits without a time to look again"
        now = int(job.board.rows[0, b.BYTES])
        assert now - before <= budget * 1.5, "one batch over the budget at most"
        opened.snapshot()
        before, epochs = now, epochs + 1
        assert epochs < 100
    assert epochs >= 5 and len(got.rows) == 120


def test_a_replays_last_mark_is_the_end(kind: SourceKind, tmp_path: Path) -> None:
    kind.publish([messages(0, 40)])
    job = Job(kind, tmp_path / "work", out="out")
    opened, got = job.build(0), Got()
    while job.batch(opened, 0, got):
        safe = max(row[1] for row in got.rows) - 5000 - 1 if got.rows else b.NEVER
        assert set(got.marks.values()) <= {safe, b.END}
    assert got.ended and got.marks == dict.fromkeys(KEYS, b.END)
    assert job.board.rows[0, b.WATERMARK] == b.END


def test_a_drained_part_goes_on_later(
    kind: SourceKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.publish([messages(0, 60)])
    job = Job(kind, tmp_path / "work", out="out")
    opened, got = job.build(0), Got()
    job.batch(opened, 0, got)
    with monkeypatch.context() as patch:
        patch.setattr(draining, "_draining", True)
        assert not job.batch(opened, 0, got) and got.ended
    assert b.END not in got.marks.values()
    state = saved(opened)
    opened.close()
    again = Job(kind, tmp_path / "again", out="out")
    assert [row[0] for row in got.rows + again.rest(again.build(0, state), 0).rows] == list(range(60))


def test_a_new_job_may_start_at_a_broker_time(kind: SourceKind, tmp_path: Path) -> None:
    kind.publish([messages(0, 80)])
    job = Job(kind, tmp_path / "work", start_ms=T0 + 50_000)
    got = job.rest(job.build(0), 0)
    assert [row[0] for row in got.rows] == list(range(50, 80))
