"""What `lookback dead-letters` does: list refused events, show some, send some again."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.batches import DeadLetter, Reason
from connectors.dead_letters import read_dead_letters
from connectors.sources import KAFKA
from dataflows.progress import instant
from dataflows.show import lossless
from lookback.errors import LookbackError, UsageError

SHOWN_CHARS = 1000  # of a refused event's bytes in a list, on a terminal
TRANSACTION_LETTERS = 10_000

Position = tuple[str, int, int]


@dataclass(frozen=True)
class Wanted:
    """Which letters: those at some positions, or of a topic and a reason; all of them where nothing is said."""

    positions: frozenset[Position] = frozenset()
    topic: str | None = None
    reason: Reason | None = None

    @staticmethod
    def of(positions: Sequence[str], topic: str | None, reason: str | None) -> Wanted:
        """Read what a person wrote. Raises UsageError."""
        try:
            why = None if reason is None else Reason(reason)
        except ValueError:
            raise UsageError(f"--reason {reason}: write {', '.join(r.value for r in Reason)}") from None
        return Wanted(frozenset(map(_position, positions)), topic, why)

    def has(self, letter: DeadLetter) -> bool:
        """Return whether a letter is one of them."""
        return (
            (not self.positions or (letter.topic, letter.partition, letter.offset) in self.positions)
            and self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
        )


def letters_at(where: str, settings: Path | None) -> Iterator[DeadLetter]:
    """Yield the letters of a folder, or of the topic that a `kafka://` address names."""
    if not where.startswith(KAFKA):
        return read_dead_letters(where)
    from connectors.dead_letters_topic import letter_topic, read_letters

    return read_letters(*letter_topic(where, settings))


def list_letters(letters: Iterator[DeadLetter], wanted: Wanted, limit: int, *, as_json: bool) -> None:
    """Print letters, then how many there are of each reason."""
    counts: Counter[tuple[str, Reason]] = Counter()
    printed = 0
    for letter in letters:
        counts[letter.topic, letter.reason] += 1
        if printed >= limit or not wanted.has(letter):
            continue
        printed += 1
        if as_json:
            print(json.dumps(_record(letter), ensure_ascii=False))
        else:
            raw = _harmless(letter.raw, SHOWN_CHARS)
            print(f"{_place(letter)}  {letter.reason.value}: {letter.detail}\n  {raw}")
    if not as_json:
        total = ", ".join(f"{n:,} {why.value} of {name}" for (name, why), n in sorted(counts.items()))
        print(f"in all: {total or 'none'}", file=sys.stderr)


def show_letters(letters: Iterator[DeadLetter], wanted: Wanted, *, as_json: bool) -> None:
    """Print the letters at some positions with all that is known of them. Raises LookbackError where one is none."""
    if not wanted.positions:
        raise UsageError("say which: lookback dead-letters show TOPIC/PARTITION@OFFSET --dead-letters …")
    found = [letter for letter in letters if wanted.has(letter)]
    _none_missing(found, wanted)
    for letter in found:
        if as_json:
            print(json.dumps(_record(letter), ensure_ascii=False))
            continue
        print(f"{_place(letter)}  {letter.reason.value}: {letter.detail}")
        for name, time_ms in (("event", letter.event_time_ms), ("broker", letter.broker_time_ms)):
            print(f"  {name} time  {'unknown' if time_ms is None else instant(time_ms)}")
        print(f"  key         {'none' if letter.key is None else _harmless(letter.key, None)}")
        print(f"  {_harmless(letter.raw, None)}")


def requeue(letters: Iterator[DeadLetter], wanted: Wanted, source: str, settings: Path | None) -> int:
    """Send letters to their topics again, marked, each transaction of them whole or not at all; return how many.

    Raises UsageError where nothing is chosen, LookbackError where the brokers don't take them.
    """
    if wanted == Wanted():
        raise UsageError("say which: name positions (TOPIC/PARTITION@OFFSET), --topic or --reason")
    from confluent_kafka import KafkaException, Producer

    from connectors.kafka_settings import parse_uri, producer_properties, read_settings

    servers, _ = parse_uri(source)
    cluster = read_settings(servers, settings)
    chosen = [letter for letter in letters if wanted.has(letter)]
    _none_missing(chosen, wanted)
    sent = 0
    try:
        producer = Producer(
            {**producer_properties(cluster), "transactional.id": f"lookback-requeue-{uuid.uuid4()}"}
        )
        producer.init_transactions(60)
        for start in range(0, len(chosen), TRANSACTION_LETTERS):
            batch = chosen[start : start + TRANSACTION_LETTERS]
            producer.begin_transaction()
            for letter in batch:
                mark = f"{letter.topic}/{letter.partition}@{letter.offset}".encode()
                producer.produce(
                    letter.topic,
                    letter.raw,
                    key=letter.key,
                    partition=letter.partition,
                    headers=[("lookback-requeued", mark)],
                )
            producer.commit_transaction(120)
            sent += len(batch)
    except KafkaException as error:
        said = cluster.harmless(error.args[0].str())
        raise LookbackError(
            f"{source} takes no letters: {said}; {sent:,} of {len(chosen):,} were sent"
        ) from None
    return sent


def _none_missing(found: Sequence[DeadLetter], wanted: Wanted) -> None:
    missing = wanted.positions - {(letter.topic, letter.partition, letter.offset) for letter in found}
    if missing:
        topic, partition, offset = min(missing)
        raise LookbackError(
            f"there is no dead letter {topic}/{partition}@{offset}: `list` names those that there are"
        )


def _position(text: str) -> Position:
    match = re.fullmatch(r"(.+)/(\d{1,9})@(\d{1,18})", text)
    if match is None:
        raise UsageError(f"{text!r} is no position: write TOPIC/PARTITION@OFFSET, such as payments/0@17")
    return match[1], int(match[2]), int(match[3])


def _place(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition} @ {letter.offset}"


def _record(letter: DeadLetter) -> dict[str, Any]:
    raw, encoding = lossless(letter.raw)
    key, key_encoding = (None, None) if letter.key is None else lossless(letter.key)
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason.value,
        "detail": letter.detail,
        "event_time_ms": letter.event_time_ms,
        "raw": raw,
        "raw_encoding": encoding,
        "key": key,
        "key_encoding": key_encoding,
    }


def _harmless(raw: bytes, most: int | None) -> str:
    """Return bytes as text for a terminal: nothing that steers it, and where `most` says so not a screenful."""
    text = raw.decode(errors="backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return (
        shown
        if most is None or len(text) <= most
        else f"{shown}… ({len(raw):,} bytes; --json prints them all)"
    )
