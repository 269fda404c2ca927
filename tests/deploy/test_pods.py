"""What the production manifests start, on a real Kafka (TLS, SASL) and Valkey: lost, stopped, rescaled, replayed.

Events come as the test goes on, so that nothing depends on a machine's pace. Each card's events lie on one partition:
whatever a reader sees of a card must be what some prefix of them gives, and never a shorter one than before.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from lookback.client import Client
from lookback.training import load_training
from tests.conftest import SEED
from tests.deploy.local_pods import Cluster
from tests.deploy.manifests import KUBERNETES, Object, built, copied, objects
from tests.services.change_log import problems, read_log
from tests.services.kafka import PASSWORD, Broker, Sent
from tests.services.valkey import Valkey, running

TOPIC, LETTERS, UPDATES = "transactions", "lookback.dead-letters", "features.changes"
PARTITIONS, CARDS, MERCHANTS = 4, 24, 5
MINUTE, DAY = 60_000, 86_400_000
WINDOWS = {"1h": DAY // 24, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
DEFINITION = KUBERNETES / "components" / "prod-settings" / "features.yaml"
WATCHED = ["card_activity.tx_count_30d", "card_activity.amount_sum_1d"]


@dataclass(frozen=True)
class Payment:
    """One event."""

    number: int
    ts: int
    card: str
    merchant: str
    amount: Decimal
    declined: bool

    def sent(self) -> Sent:
        event = {
            "tx_id": self.number, "ts": self.ts, "card": self.card, "merchant": self.merchant, "country": "NZ",
            "amount": str(self.amount), "declined": self.declined,
        }  # fmt: skip
        return Sent(json.dumps(event).encode(), self.ts)


@dataclass
class Payments:
    """Payments of the last three days, produced piece by piece; one in 40 is no JSON."""

    kafka: Broker
    now: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    made: list[Payment] = field(default_factory=list)
    broken: int = 0
    _dice: random.Random = field(default_factory=lambda: random.Random(SEED))

    def more(self, count: int, of: int) -> None:
        """Produce `count` of `of` payments in all."""
        messages: dict[int, list[Sent]] = {p: [] for p in range(PARTITIONS)}
        for _ in range(count):
            number = len(self.made)
            card = self._dice.randrange(CARDS)
            ts = self.now - 3 * DAY + (3 * DAY - MINUTE) * number // of
            cents = Decimal(self._dice.randrange(100, 90_000)) / 100
            merchant = f"m{self._dice.randrange(MERCHANTS)}"
            one = Payment(number, ts, f"c{card}", merchant, cents, self._dice.random() < 0.2)
            self.made.append(one)
            if number % 40 == 7:
                self.broken += 1
                messages[card % PARTITIONS].append(Sent(b"{oops", ts))
            messages[card % PARTITIONS].append(one.sent())
        self.kafka.produce(TOPIC, messages)

    def of(self, **key: str) -> list[Payment]:
        """Return an entity's payments in order."""
        return [p for p in self.made if all(getattr(p, name) == value for name, value in key.items())]


def expected(payments: list[Payment], at: int) -> dict[str, Any]:
    """Return what features are at an instant, by their definition's words and nothing else."""

    def within(window: int) -> list[Payment]:
        return [p for p in payments if at - window < p.ts <= at]

    return {
        **{f"tx_count_{name}": len(within(window)) for name, window in WINDOWS.items()},
        "amount_sum_1d": sum((p.amount for p in within(DAY)), Decimal("0.00")),
        "amount_max_30d": max((p.amount for p in within(30 * DAY)), default=None),
        "declines_7d": sum(p.declined for p in within(7 * DAY)),
        "merchants_1d": len({p.merchant for p in within(DAY)}) or None,
    }  # fmt: skip


class Watcher:
    """Reads all cards over and over, in a thread."""

    def __init__(self, store: str, payments: Payments) -> None:
        self._payments = payments
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.problems: list[str] = []
        self.seen = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            before = dict.fromkeys(range(CARDS), 0)
            with Client(DEFINITION, self._store) as client:
                while not self._stop.is_set():
                    at = self._payments.now
                    found = client.get_many([{"card": f"c{c}"} for c in before], features=WATCHED, at=at)
                    made = list(self._payments.made)
                    for card, reading in enumerate(found):
                        self._judge(
                            card, at, reading.values, [p for p in made if p.card == f"c{card}"], before
                        )
                    time.sleep(0.02)
        except BaseException as error:
            self.problems.append(repr(error))

    def _judge(
        self, card: int, at: int, values: dict[str, Any], made: list[Payment], before: dict[int, int]
    ) -> None:
        count, paid = (values[name] for name in WATCHED)
        sums = list(accumulate((p.amount for p in made if p.ts > at - DAY), initial=Decimal(0)))
        older = sum(p.ts <= at - DAY for p in made)
        right = count <= len(made) and paid == sums[max(0, count - older)]
        if not right or count < before[card]:
            self.problems.append(
                f"c{card}: {count} payments and {paid}, after {before[card]}; {len(made)} are made"
            )
        self.seen += count > before[card]
        before[card] = count


@pytest.fixture
def payments(kafka: Broker) -> Iterator[Payments]:
    kafka.create(TOPIC, PARTITIONS)
    kafka.create(LETTERS, 1)
    kafka.create(UPDATES, 2)
    yield Payments(kafka)
    for topic in (TOPIC, LETTERS, UPDATES):
        kafka.delete(topic)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """Return a server that asks for a password."""
    with running(tmp_path / "valkey", {"requirepass": PASSWORD}) as server:
        yield server


@pytest.fixture
def cluster(kafka: Broker, valkey: Valkey, tmp_path: Path) -> Iterator[Cluster]:
    hosts = {
        "kafka.data:9093": kafka.secure_address,
        "redis://valkey.data:6379": valkey.uri,
    }
    secrets = {
        "lookback": {"kafka-password": PASSWORD, "redis-password": PASSWORD},
        "lookback-kafka-ca": {"ca.crt": kafka.certificate.read_text()},
    }
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster", hosts, secrets)
    yield made
    made.end()


def edited(kubernetes: Path, file: str, change: Callable[[str], str]) -> None:
    path = kubernetes / file
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def peers(count: int) -> Callable[[str], str]:
    """Return an edit of job.env: so many pods."""
    line = "LOOKBACK_PEERS=" + ",".join(f"lookback-{i}.lookback:2100" for i in range(count))
    return lambda text: "\n".join(
        line if one.startswith("LOOKBACK_PEERS=") else one for one in text.split("\n")
    )


def counted(client: Client, payments: Payments) -> bool:
    keys = [{"card": f"c{c}"} for c in range(CARDS)]
    found = client.get_many(keys, features=WATCHED, at=payments.now)
    return sum(one.values[WATCHED[0]] or 0 for one in found) == len(payments.made)


def assert_right(client: Client, payments: Payments) -> None:
    """Compare every card, and some merchants' counts, with their definition's words."""
    for card in range(CARDS):
        key = {"card": f"c{card}"}
        wanted = expected(payments.of(**key), payments.now)
        values = client.get(
            key, features=[f"card_activity.{name}" for name in wanted], at=payments.now
        ).values
        assert values == {f"card_activity.{name}": value for name, value in wanted.items()}, key
    for number in range(MERCHANTS):
        key = {"merchant": f"m{number}"}
        wanted = expected(payments.of(**key), payments.now)
        values = client.get(key, features=["merchant_activity.tx_count_1d"], at=payments.now).values
        assert values["merchant_activity.tx_count_1d"] == wanted["tx_count_1d"]


def shards(cluster: Cluster) -> list[int]:
    """Return how many shards lie on each claim."""
    claims = sorted((cluster.folder / "claims").glob("state-*"))
    return [len(list(claim.glob("state/shard-*"))) for claim in claims]


def test_three_pods_one_lost_one_stopped_two_pods_and_three_again(
    cluster: Cluster, payments: Payments, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKBACK_REDIS_PASSWORD", PASSWORD)  # of this test's own readers
    kubernetes = copied(tmp_path)
    total = 3000
    line = f"LOOKBACK_CHANGE_LOG=kafka://kafka.data:9093/{UPDATES}\n"
    edited(kubernetes, "components/prod-settings/job.env", lambda text: text + line)
    three: list[Object] = objects(built("prod", kubernetes))
    payments.more(total // 6, total)
    cluster.start(three, "StatefulSet", 0, 1, 2)
    cluster.ready(0, 1, 2)
    with Client(DEFINITION, valkey.uri) as client, Watcher(valkey.uri, payments) as watcher:

        def go_on(*pods: int) -> None:
            payments.more(total // 6, total)
            cluster.until("all is counted", lambda: counted(client, payments))
            cluster.ready(*pods)
            assert_right(client, payments)

        assert shards(cluster) == [11, 11, 10]
        # A node is lost while events come; its pod comes back with its claim.
        payments.more(total // 6, total)
        cluster.kill("lookback-2")
        cluster.until("it is missed", lambda: "pod 2 is gone" in cluster.said())
        cluster.until("none is ready", lambda: not cluster.running["lookback-1"].probe("readinessProbe"))
        assert cluster.running["lookback-0"].probe("livenessProbe")
        cluster.start(three, "StatefulSet", 2)
        go_on(0, 1, 2)
        # One pod is asked to stop: all are drained with it, and the others wait for it.
        cluster.delete("lookback-1")
        cluster.start(three, "StatefulSet", 1)
        cluster.ready(0, 1, 2)
        # Two pods: first the count; the third pod gives its shards away. Then it may go.
        edited(kubernetes, "components/prod-settings/job.env", peers(2))
        two = objects(built("prod", kubernetes))
        cluster.delete("lookback-0", "lookback-1", "lookback-2")
        cluster.start(two, "StatefulSet", 0, 1, 2)
        cluster.ready(0, 1)
        assert shards(cluster) == [16, 16, 0]
        cluster.delete("lookback-2")
        go_on(0, 1)
        # Three again, the third with the claim that it left behind.
        edited(kubernetes, "components/prod-settings/job.env", peers(3))
        assert objects(built("prod", kubernetes)) == three
        cluster.delete("lookback-0", "lookback-1")
        cluster.start(three, "StatefulSet", 0, 1, 2)
        go_on(0, 1, 2)
        assert shards(cluster) == [11, 11, 10]
        cluster.delete("lookback-0", "lookback-1", "lookback-2")
    assert watcher.problems == [] and watcher.seen > CARDS
    infos = payments.kafka.admin().list_topics(LETTERS, timeout=30).topics[LETTERS]
    assert len(infos.partitions) == 1
    updates = read_log(payments.kafka.address, UPDATES)
    assert not problems(updates)
    assert {u.value["entity"]["card"] for u in updates if u.value["view"] == "card_activity"} == {
        f"c{c}" for c in range(CARDS)
    }


def test_replay_jobs(cluster: Cluster, payments: Payments, tmp_path: Path) -> None:
    """The indexed Job's pods together write the rows of the one Job, and those are what the definition says."""
    payments.more(1200, 1200)
    kubernetes = copied(tmp_path)
    day = payments.now // DAY * DAY
    for overlay in ("prod-replay", "prod-replay-by-range"):
        env = f"overlays/{overlay}/replay.env"
        edited(kubernetes, env, lambda _: f"FROM={day - 3 * DAY}\nTO={day + DAY}\n")
    found = objects(built("prod-replay", kubernetes))
    cluster.start(found, "Job", 0)
    cluster.complete()
    found = objects(built("prod-replay-by-range", kubernetes))
    (job,) = (one["spec"] for one in found if one["kind"] == "Job")
    assert job["completionMode"] == "Indexed"
    cluster.start(found, "Job", *range(job["completions"]))
    cluster.complete()
    training = cluster.folder / "claims" / "lookback-training"
    whole = load_training(training / "all").arrow().to_pylist()
    parts = [
        row
        for i in range(job["completions"])
        for row in load_training(training / f"part-{i}").arrow().to_pylist()
    ]
    assert whole == parts and len(whole) == len(payments.made)
    for row, payment in list(zip(whole, sorted(payments.made, key=lambda p: (p.ts, p.number)), strict=True))[
        ::50
    ]:
        wanted = expected(
            [p for p in payments.of(card=payment.card) if p.number <= payment.number], payment.ts
        )
        assert {name: row[f"card_activity.{name}"] for name in wanted} == wanted
