"""The change log of real jobs on a real broker: each update once for whoever reads what is committed."""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from lookback.client import Client
from tests.integration.events import T0, Live, payment, write_definition
from tests.recovery.job import command
from tests.services.change_log import Update, as_json, by_key, problems, read_log
from tests.services.kafka import Broker, Sent

CARDS = 9
TURN = 400  # events of each of two partitions between two starts
# A job of one worker dies, then one of two: in the state's commit, in a transaction, as what was held back goes out.
KILLS = ("l-sent", "3-after:9", "l-after", "2-again:3", "l-before", "4-before:2", "l-after:2")


def produce(kafka: Broker, topic: str, turn: int) -> None:
    """Send a turn's events of two partitions; some are late, and each card comes on both."""
    sent: dict[int, list[Sent]] = {0: [], 1: []}
    for number in range(turn * TURN, (turn + 1) * TURN):
        for partition in (0, 1):
            at = T0 + number * 500 - (400_000 if number % 97 == 5 else 0)
            sent[partition].append(
                payment(2 * number + partition, at, card=f"c{(number * 7 + partition) % CARDS}")
            )
    kafka.produce(topic, sent)


def a_job(kafka: Broker, folder: Path, name: str) -> Live:
    """Return a job over a topic of its own, with a change log of its own, and a first turn of events."""
    kafka.create(name, 2)
    kafka.create(f"{name}-updates", 3)
    produce(kafka, name, 0)
    where = f"kafka://{kafka.address}"
    options = ("--clock", "event", "--change-log", f"{where}/{name}-updates")
    return Live(folder, write_definition(folder, name), where, options)


def as_read(values: dict[str, Any]) -> dict[str, Any]:
    """Return the client's values as a message has them."""
    return as_json({name.removeprefix("cards."): value for name, value in values.items()})


def judge(updates: list[Update], live: Live) -> None:
    """The log is whole, in order, and its last values are what the client gives as of then."""
    assert not problems(updates)
    assert {update.key.split(":")[2] for update in updates} == {f"c{n}" for n in range(CARDS)}
    with Client(live.definition, live.uri) as client:
        for versions in by_key(updates).values():
            last = versions[-1].value
            assert last["values"] == as_read(client.get(last["entity"], at=last["as_of_ms"]).values)
            newest = client.get(last["entity"], at=T0 + 10**7, features=["cards.n_10m"]).age_ms["cards"]
            assert last["event_time_ms"] == T0 + 10**7 - (newest or 0)


def test_each_update_is_read_once_through_kills(kafka: Broker, tmp_path: Path) -> None:
    """Killed at every moment at which state and topic say different things, it goes on with neither loss nor repeat."""
    live = a_job(kafka, tmp_path, "log-kills")
    try:
        for turn, kill in enumerate(KILLS):
            live.start(
                "--until-end", "--workers", str(1 + turn % 2), LOOKBACK_FAULT=kill,
                LOOKBACK_FAULT_FILE=str(tmp_path / "fault"), LOOKBACK_TEST_JITTER="3:20",
            )  # fmt: skip
            assert live.wait() == 1, f"{kill}: {live.said()}"
            produce(kafka, "log-kills", turn + 1)
        assert live.finish() == 0, live.said()
    finally:
        live.end()
    points = [line.split()[0] for line in (tmp_path / "fault").read_text().splitlines()]
    struck = [point for point, _ in groupby(points)]  # two workers may be at it together
    assert struck == [kill.split(":")[0] for kill in KILLS]
    judge(read_log(kafka.address, "log-kills-updates"), live)


def test_without_a_look_at_the_tail_updates_come_twice(kafka: Broker, tmp_path: Path) -> None:
    """What the test above shows rests on it, and a consumer of what is not committed sees more than there is."""
    live = a_job(kafka, tmp_path, "log-tail")
    try:
        for kill in ("l-sent", "l-after"):
            live.start("--until-end", LOOKBACK_FAULT=kill, LOOKBACK_FAULT_OFF="log_tail")
            assert live.wait() == 1, live.said()
            produce(kafka, "log-tail", int(kill == "l-after") + 1)
        live.start("--until-end", LOOKBACK_FAULT_OFF="log_tail")
        assert live.wait() == 0, live.said()
    finally:
        live.end()
    found = problems(read_log(kafka.address, "log-tail-updates"))
    assert any("2 times" in one for one in found), found
    whole = read_log(kafka.address, "log-tail-updates", isolation="read_uncommitted")
    assert len(whole) > len(read_log(kafka.address, "log-tail-updates"))


def test_a_broker_that_is_away_holds_no_epoch_up(kafka: Broker, tmp_path: Path) -> None:
    """Updates wait in the state, also over a stop; the store goes on. The next start sends them."""
    own = a_job(kafka, tmp_path, "log-away")
    other = Broker(tmp_path / "other", kafka._libs)
    other.start()
    try:
        other.create("elsewhere", 1)
        own.options = ("--clock", "event", "--change-log", f"kafka://{other.address}/elsewhere")
        own.start()
        own.until(lambda: sum(own.offsets().values()) == 2 * TURN, "the first turn is durable")
        own.until(lambda: len(read_log(other.address, "elsewhere")) >= CARDS, "updates are told")
        other.kill()
        produce(kafka, "log-away", 1)
        own.until(lambda: sum(own.offsets().values()) == 4 * TURN, "the second turn is durable")
        own.until(lambda: "takes no updates" in own.said(), "it says so")
        own.stop()
        assert "wait in the state" in own.said()
        other.start()
        assert own.finish() == 0, own.said()
        judge(read_log(other.address, "elsewhere"), own)
    finally:
        own.end()
        other.stop()


def test_a_state_is_cut_anew_once_all_is_told(kafka: Broker, tmp_path: Path) -> None:
    """Reshard refuses a state whose outboxes hold something; afterwards nothing is told twice."""
    live = a_job(kafka, tmp_path, "log-cut")
    try:
        live.start("--until-end", LOOKBACK_FAULT="l-before")
        assert live.wait() == 1
        words = ["reshard", str(live.state), "--shards", "8", "--out", str(tmp_path / "cut")]
        refused = command(*words, said=tmp_path / "said-cut")
        assert (refused.code, "change log may not have" in refused.said) == (3, True), refused
        assert live.finish() == 0, live.said()
        done = command(*words, said=tmp_path / "said-cut")
        assert done.code == 0, done
        told = len(read_log(kafka.address, "log-cut-updates"))
        (tmp_path / "cut").rename(live.state.with_name("new"))
        live.state.rename(live.state.with_name("old"))
        live.state.with_name("new").rename(live.state)
        assert live.finish() == 0, live.said()
        assert len(read_log(kafka.address, "log-cut-updates")) == told
        produce(kafka, "log-cut", 1)
        assert live.finish() == 0, live.said()
    finally:
        live.end()
    updates = read_log(kafka.address, "log-cut-updates")
    assert len(updates) > told
    judge(updates, live)


def test_an_older_state_tells_again_what_it_counts_again(kafka: Broker, tmp_path: Path) -> None:
    """A state put back from a copy takes no number that the topic has: entries stay told apart."""
    live = a_job(kafka, tmp_path, "log-back")
    try:
        assert live.finish() == 0, live.said()
        os.system(f"cp -r {live.state} {tmp_path / 'copy'}")
        for turn in (1, 2):
            produce(kafka, "log-back", turn)
            assert live.finish() == 0, live.said()
        os.system(f"rm -r {live.state}; mv {tmp_path / 'copy'} {live.state}")
        assert live.finish("--accept-lost-state") == 0, live.said()
    finally:
        live.end()
    found = problems(read_log(kafka.address, "log-back-updates"))
    assert not [one for one in found if "times" in one or "lack" in one or "holes" in one], found


def test_a_sender_that_was_fenced_ends(kafka: Broker, tmp_path: Path) -> None:
    """Whoever takes its transactional id over ends the job, which says so; the same command goes on."""
    live = a_job(kafka, tmp_path, "log-fenced")
    try:
        live.start()
        live.until(lambda: len(read_log(kafka.address, "log-fenced-updates")) >= CARDS, "updates are told")
        (sender,) = json.loads((live.state / "log-senders").read_text())
        other = Producer({"bootstrap.servers": kafka.address, "transactional.id": sender, "log_level": 0})
        other.init_transactions(30)
        produce(kafka, "log-fenced", 1)
        assert live.wait() == 1, live.said()
        assert "has fenced this job" in live.said()
        assert "Traceback" not in live.said()
        assert live.finish() == 0, live.said()
    finally:
        live.end()
    judge(read_log(kafka.address, "log-fenced-updates"), live)


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("kafka://{0}/no-such-topic", 1, "updates have nowhere to go"),
        ("kafka://{0}/log-wrong", 2, "the job reads this topic"),
        ("kafka://{0}", 2, "write kafka://HOST:PORT[,HOST:PORT]/TOPIC"),
        ("log.json", 2, "is no Kafka address"),
    ],
)
def test_places_that_will_not_do(kafka: Broker, tmp_path: Path, place: str, code: int, said: str) -> None:
    """Refused at once, with what to write instead."""
    if "log-wrong" not in kafka.admin().list_topics(timeout=10).topics:
        kafka.create("log-wrong", 1)
    live = Live(tmp_path, write_definition(tmp_path, "log-wrong"), f"kafka://{kafka.address}")
    assert live.finish("--change-log", place.format(kafka.address)) == code, live.said()
    assert said in live.said()
