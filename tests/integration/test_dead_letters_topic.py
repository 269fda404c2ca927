"""Dead letters on a topic: none lost over a crash, repeats are marked; listed, shown, and sent again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.batches import DeadLetter, Reason
from connectors.dead_letters import read_dead_letters
from connectors.dead_letters_topic import from_message, read_letters
from connectors.kafka import KafkaSource
from connectors.kafka_settings import read_settings
from tests.integration.events import MINUTE, T0, Live, payment, write_definition
from tests.recovery.job import Ended, command
from tests.services.kafka import Broker, Sent

_numbers = itertools.count()


@pytest.fixture
def topics(kafka: Broker) -> Iterator[tuple[str, str]]:
    """Return a topic of payments, some of them bad, and one for letters."""
    number = next(_numbers)
    source, letters = f"paid-{number}", f"paid-{number}.letters"
    kafka.create(source, 2)
    kafka.create(letters, 3)
    for partition in range(2):
        sent = []
        for n in range(400):
            now = T0 + n * MINUTE
            one = payment(n, now, ts=now - (30 * MINUTE if n % 20 == 7 else 0))
            sent.append(Sent(b"{oops \xff", now, key=b"k\xfe") if n % 31 == 5 else one)
        kafka.produce(source, {partition: sent})
    yield source, letters
    kafka.delete(source)
    kafka.delete(letters)


def raw_letters(kafka: Broker, topic: str) -> list[tuple[DeadLetter, str, int]]:
    """Return all messages of a topic of letters, repeats included."""
    settings = read_settings(kafka.address, None)
    infos = KafkaSource(settings, [topic], "tests", {}, False, 1).partitions()
    found = []
    for info in infos:
        ends = {(topic, info.partition): info.end_offset}
        reader = KafkaSource(settings, [topic], "tests", ends, False, 1).open(topic, info.partition)
        while (messages := reader.messages(1000, 0.1)) is not None:
            found += [from_message(message) for message in messages]
        reader.close()
    return found


def dead_letters(folder: Path, *words: str) -> Ended:
    return command("dead-letters", *words, said=folder / "letters-said")


def test_a_crash_loses_no_letter_and_marks_those_that_come_twice(
    kafka: Broker, topics: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, letters = topics
    definition = write_definition(tmp_path, source)
    (tmp_path / "folder").mkdir()
    undisturbed = Live(tmp_path / "folder", definition, f"kafka://{kafka.address}")
    assert undisturbed.finish() == 0, undisturbed.said()
    expected = list(read_dead_letters(undisturbed.state / "dead-letters"))
    assert len(expected) > 60 and expected[0].key == b"k\xfe"

    (tmp_path / "topic").mkdir()
    place = f"kafka://{kafka.address}/{letters}"
    job = Live(tmp_path / "topic", definition, f"kafka://{kafka.address}", ("--dead-letters", place))
    for seed, fault in enumerate(("4-before:3", "3-after:10", "2-after:6", "4-before:2")):
        monkeypatch.setenv("LOOKBACK_FAULT", fault)
        monkeypatch.setenv("LOOKBACK_TEST_JITTER", f"{seed}:10")
        assert job.finish() == 1 and "SIGKILL" in job.said(), job.said()
    monkeypatch.delenv("LOOKBACK_FAULT")
    assert job.finish() == 0, job.said()

    seen = raw_letters(kafka, letters)
    by_mark: dict[tuple[int, int, int], DeadLetter] = {}
    for letter, _, number in seen:
        assert by_mark.setdefault((letter.partition, letter.offset, number), letter) == letter
    assert len({job_id for _, job_id, _ in seen}) == 1
    assert len(seen) > len(by_mark), "no letter came twice: the kills proved nothing"
    assert sorted(by_mark) == [(letter.partition, letter.offset, 0) for letter in expected]
    found = list(read_letters(read_settings(kafka.address, None), letters))
    order = sorted(found, key=lambda letter: (letter.partition, letter.offset))
    assert order == expected


def test_list_show_and_requeue(kafka: Broker, topics: tuple[str, str], tmp_path: Path) -> None:
    source, letters = topics
    brokers = f"kafka://{kafka.address}"
    place = f"{brokers}/{letters}"
    job = Live(tmp_path, write_definition(tmp_path, source), brokers, ("--dead-letters", place))
    assert job.finish() == 0, job.said()
    broken = 2 * len(range(5, 400, 31))
    late = 2 * len(set(range(7, 400, 20)) - set(range(5, 400, 31)))
    listed = dead_letters(tmp_path, "list", "--dead-letters", place, "--reason", "late", "--limit", "3")
    assert (
        listed.code == 0 and f"{late} late of {source}" in listed.said and f"{broken} parse of" in listed.said
    )
    assert listed.said.count("behind the partition's watermark") == 3
    shown = dead_letters(tmp_path, "show", f"{source}/1@5", "--dead-letters", place)
    assert shown.code == 0 and "{oops \\xff" in shown.said and "key k\\xfe" in shown.said
    assert "event time unknown" in shown.said and "broker time 2023-11-14 22:18:20Z" in shown.said
    missing = dead_letters(tmp_path, "show", f"{source}/1@6", "--dead-letters", place)
    assert missing.code == 1 and f"no dead letter {source}/1@6" in missing.said

    chosen = ("requeue", f"{source}/1@5", f"{source}/0@7", "--dead-letters", place)
    assert dead_letters(tmp_path, *chosen).code == 2
    assert dead_letters(tmp_path, "requeue", "--dead-letters", place, "--source", brokers).code == 2
    sent = dead_letters(tmp_path, *chosen, "--source", brokers)
    assert sent.code == 0 and "sent 2 events again" in sent.said
    settings = read_settings(kafka.address, None)
    for partition, offset, key in ((0, 7, b"c0"), (1, 5, b"k\xfe")):
        ends = {(source, partition): 401}
        reader = KafkaSource(settings, [source], "tests", ends, False, 1).open(source, partition, 400)
        found = []
        while (messages := reader.messages(10, 0.1)) is not None:
            found += messages
        reader.close()
        (message,) = found
        assert message.key() == key
        assert message.headers() == [("lookback-requeued", f"{source}/{partition}@{offset}".encode())]
    assert found[0].value() == b"{oops \xff"
    # The job reads them on, and refuses the broken one again: a letter more.
    assert job.finish() == 0, job.said()
    reasons = [letter.reason for letter in read_letters(settings, letters) if letter.offset >= 400]
    assert Reason.PARSE in reasons


def test_a_place_that_letters_can_not_have(kafka: Broker, topics: tuple[str, str], tmp_path: Path) -> None:
    source, _ = topics
    brokers = f"kafka://{kafka.address}"
    job = Live(tmp_path, write_definition(tmp_path, source), brokers)
    assert job.finish("--dead-letters", f"{brokers}/nowhere") == 1
    assert "dead letters have nowhere to go" in job.said() and "no topic 'nowhere'" in job.said()
    assert job.finish("--dead-letters", f"{brokers}/{source}") == 2
    assert "the job reads this topic" in job.said()
    assert job.finish("--dead-letters", brokers) == 2
    assert not job.state.exists()
