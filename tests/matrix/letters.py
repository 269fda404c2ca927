"""Dead letters of a cell, in a folder or on a topic: none lost, none twice unless marked as the same."""

from __future__ import annotations

import time
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from connectors.dead_letters import read_dead_letters
from tests.matrix.events import Events

READ_SECONDS = 60.0
Found = dict[tuple[int, int], tuple[str, bytes]]  # (partition, offset) -> reason, bytes


def in_folder(folder: Path, events: Events) -> tuple[list[str], int]:
    """Return (what is wrong with a folder's letters, 0: a folder holds none twice)."""
    problems: list[str] = []
    found: Found = {}
    for letter in read_dead_letters(folder):
        at = letter.partition, letter.offset
        if at in found:
            problems.append(f"dead letter {at} lies twice in the folder")
        found[at] = letter.reason.value, letter.raw
    return problems + _compare(found, events), 0


def on_topic(address: str, topic: str, partitions: int, events: Events) -> tuple[list[str], int]:
    """Return (what is wrong with a topic's letters, how many were sent again with their mark)."""
    problems: list[str] = []
    found: Found = {}
    marks: dict[tuple[str, int, int, str], tuple[str, bytes]] = {}
    again = 0
    for partition in range(partitions):
        for headers, value in _messages(address, topic, partition):
            at = int(headers["partition"]), int(headers["offset"])
            mark = headers["job"], *at, headers["number"]
            what = headers["reason"], value
            if mark in marks:
                again += 1
                if marks[mark] != what:
                    problems.append(f"dead letter {at} came again with the same mark but as another")
            elif at in found:
                problems.append(f"dead letter {at} came twice, unmarked: {mark}")
            marks[mark] = found[at] = what
    return problems + _compare(found, events), again


def _messages(address: str, topic: str, partition: int) -> list[tuple[dict[str, str], bytes]]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "matrix", "enable.auto.commit": False})
    try:
        place = TopicPartition(topic, partition, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=READ_SECONDS)
        consumer.assign([place])
        out: list[tuple[dict[str, str], bytes]] = []
        deadline = time.monotonic() + READ_SECONDS
        while len(out) < end:
            assert time.monotonic() < deadline, f"{topic}/{partition} gave {len(out)} of {end} letters"
            for message in consumer.consume(10_000, 0.5):
                assert message.error() is None, message.error()
                headers = {name: value.decode() for name, value in message.headers()}
                out.append((headers, message.value() or b""))
        return out
    finally:
        consumer.close()


def _compare(found: Found, events: Events) -> list[str]:
    expected = events.letters()
    lost, strange = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [at for at in sorted(expected.keys() & found.keys()) if expected[at] != found[at]]
    problems = [f"{len(lost)} of {len(expected)} dead letters are lost, such as {lost[0]}"] if lost else []
    if strange:
        problems.append(
            f"{len(strange)} dead letters of good events, such as {strange[0]} {found[strange[0]]}"
        )
    problems += [f"dead letter {at} is {found[at]}, not {expected[at]}" for at in other[:3]]
    return problems
