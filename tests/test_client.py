"""Reading through the client: the same values that the job's own log gives, at any instant."""

from __future__ import annotations

import datetime
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lookback import view_reader
from lookback.client import Client, EntityError, to_ms
from lookback.definition.loader import loads
from lookback.definition.view import Definition, View
from lookback.errors import StoreError, UsageError
from lookback.events import EventBatch, key_texts
from lookback.stores import base
from lookback.stores import lmdb as lmdb_module
from lookback.stores.base import ViewWrite
from lookback.stores.lmdb import LmdbStore
from lookback.windows.log import Values, ViewLog
from lookback.windows.results import to_python
from lookback.windows.text_words import text_words

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
T0 = 1_700_000_000_000

YAML = """
streams:
  payments:
    topic: payments
    event_time: {field: ts, unit: ms}
    fields:
      card: string
      merchant: string
      device: string?
      amount: decimal(12,2)
      score: float64
      declined: bool
entities:
  card: string
  merchant: string
  card_merchant: [card, merchant]
views:
  cards:
    entity: card
    stream: payments
    features:
      n: {agg: count, windows: [1m, 1h, 1d, lifetime]}
      paid: {agg: sum, of: amount, windows: [1h, 1d, lifetime]}
      most: {agg: max, of: amount, windows: [1d], delay: 1m}
      mean: {agg: mean, of: score, windows: [1d]}
      spread: {agg: stddev, of: score, windows: [1d]}
      shops: {agg: top_k, of: merchant, k: 2, windows: [1d]}
      kinds: {agg: distinct, of: merchant, windows: [1d]}
      last_device: {agg: last, of: device, windows: [1d, lifetime]}
      recent: {agg: last_k, of: amount, k: 3, windows: [1d]}
      known: {agg: seen_before, of: merchant, windows: [1d]}
      since: {agg: time_since_last, windows: [1d]}
      bad: {agg: ratio, numerator: {agg: count, where: declined}, denominator: {agg: count}, windows: [1d]}
      decay: {agg: decayed_sum, of: score, half_life: 1h, windows: [1d]}
  pairs:
    entity: card_merchant
    stream: payments
    features:
      n: {agg: count, windows: [1h, 1d]}
on_demand:
  times_most: amount / cards.most_1d
  busy: cards.n_1h > 3
services:
  small: [cards.n_1m, busy, pairs.n_1d]
"""

Event = dict[str, Any]


@dataclass
class Job:
    """A job in miniature: it keeps logs and writes them to the store, as the live one does."""

    definition: Definition
    store: LmdbStore
    logs: dict[str, ViewLog] = field(default_factory=dict)
    slots: dict[tuple[str, str], int] = field(default_factory=dict)
    events: int = 0

    def __post_init__(self) -> None:
        views = self.definition.views.values()
        plans = {view.fingerprint: view.plan for view in views}
        names = {view.fingerprint: view.name for view in views}
        self.writer = self.store.writer(plans, self.store.claim("job"), names)
        self.logs = {view.name: ViewLog(view.plan) for view in views}

    def feed(self, events: Sequence[Event]) -> None:
        """Apply events and write what they changed, new rows only."""
        stream = self.definition.streams["payments"]
        for view in self.definition.views.values():
            rows = view.encode(batch_of(stream.fields, events, self.events))
            keys, log = key_texts(rows.keys), self.logs[view.name]
            values = rows.values.copy()
            for word in text_words(view.plan).rows:
                values[word - 2] = log.texts.intern(rows.texts or [""])[values[word - 2]]
            slots = np.array([self.slot(view, key) for key in keys], np.int64)
            position = np.arange(self.events, self.events + len(events))
            log.apply(slots[rows.key_code], rows.time_ms, position, values)
            order = np.argsort(rows.key_code, kind="stable")
            new = np.concatenate([rows.time_ms[None], position[None], values])[:, order]
            counts = np.bincount(rows.key_code, minlength=len(keys))
            self.write(view, keys, slots, np.ascontiguousarray(new), counts)
        self.events += len(events)

    def write(
        self, view: View, keys: list[str], slots: Any, rows: Any, counts: Any, replace: bool = False
    ) -> None:
        log = self.logs[view.name]
        out, newest = log.evaluate_newest(slots), log.newest_ms(slots)
        _, _, life, covers = log.export(slots)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.writer.write(
            [
                ViewWrite(
                    view.name, view.fingerprint, 0, keys, newest, newest, self.events, int(newest.max()),
                    out.words, out.status, starts, rows, covers, np.full(len(keys), replace),
                    np.full(len(keys), replace), life, log.texts.get(range(len(log.texts))),
                    {"payments/0": self.events},
                )
            ]
        )  # fmt: skip

    def slot(self, view: View, key: str) -> int:
        if (view.name, key) not in self.slots:
            self.slots[view.name, key] = int(self.logs[view.name].new_slots(1)[0])
        return self.slots[view.name, key]

    def values(self, name: str, key: str, at: int) -> dict[str, Any]:
        """Return what the job's own log gives."""
        log, view = self.logs[name], self.definition.views[name]
        found = log.evaluate(np.array([self.slots[name, key]]), np.array([at]))
        return named(view, found, log)


def named(view: View, found: Values, log: ViewLog) -> dict[str, Any]:
    names = [f"{view.name}.{feature.name}" for feature in view.features]
    return dict(zip(names, to_python(view.plan, found, 0, log.texts), strict=True))


def batch_of(fields: Mapping[str, Any], events: Sequence[Event], first: int) -> EventBatch:
    columns = {}
    for name, one in fields.items():
        values = [event.get(name) for event in events]
        if one.type.kind == "decimal":
            values = [int(Decimal(value).scaleb(one.type.scale)) for value in values if value is not None]
        columns[name] = pa.array(values, one.type.arrow())
    times = np.array([event["ts"] for event in events], np.int64)
    record = pa.RecordBatch.from_pydict(columns)
    return EventBatch("payments", "payments", 0, np.arange(first, first + len(events)), times, None, record)


def payment(ts: int, card: str = "c1", merchant: str = "m1", **more: Any) -> Event:
    return {
        "ts": ts, "card": card, "merchant": merchant, "device": None, "amount": "1.00", "score": 0.5,
        "declined": False, **more,
    }  # fmt: skip


def random_payments(rng: np.random.Generator, count: int, over_ms: int) -> list[Event]:
    times = np.sort(rng.integers(T0, T0 + over_ms, count)) + rng.integers(-HOUR, 1, count)
    return [
        payment(
            int(time),
            f"c{rng.integers(4)}",
            f"m|{rng.integers(6)}",
            device=None if rng.random() < 0.3 else f"d{rng.integers(5)}é",
            amount=str(Decimal(int(rng.integers(1, 10**6))).scaleb(-2)),
            score=float(rng.normal()),
            declined=bool(rng.random() < 0.2),
        )
        for time in times
    ]


@pytest.fixture(scope="module")
def definition() -> Definition:
    return loads(YAML)


class Clock:
    """A clock that stands still until it is set."""

    now = T0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job(definition: Definition, tmp_path: Path) -> Iterator[Job]:
    store = LmdbStore(tmp_path / "online", write=True)
    yield Job(definition, store)
    store.close()


@pytest.fixture
def client(job: Job, clock: Clock) -> Iterator[Client]:
    with Client(job.definition, f"lmdb:{job.store.path}", now=clock) as client:
        yield client


def stored_names(client: Client, view: str) -> list[str]:
    return [name for name in client.definition.all_features() if name.startswith(view + ".")]


def test_a_count_falls_as_time_passes_though_nothing_is_written(
    job: Job, client: Client, clock: Clock
) -> None:
    job.feed([payment(T0), payment(T0 + 10)])
    for now, minute, day in (
        (0, 2, 2),
        (MINUTE - 1, 2, 2),
        (MINUTE, 1, 2),
        (MINUTE + 10, 0, 2),
        (DAY + 10, 0, 0),
    ):
        clock.now = T0 + now
        got = client.get({"card": "c1"}, features=["cards.n_1m", "cards.n_1d", "cards.n_lifetime"])
        assert got.as_of_ms == T0 + max(now, 10)
        assert got.values == {"cards.n_1m": minute, "cards.n_1d": day, "cards.n_lifetime": 2}
        assert got.status["cards.n_1m"] == ("ok" if minute else "default")
        assert got.age_ms == {"cards": got.as_of_ms - T0 - 10}


def test_any_instant_gives_what_the_jobs_log_gives(
    job: Job, client: Client, rng: np.random.Generator
) -> None:
    events = random_payments(rng, 600, 3 * DAY)
    names = stored_names(client, "cards")
    for start in range(0, len(events), 60):
        job.feed(events[start : start + 60])
        newest = max(event["ts"] for event in events[: start + 60])
        for card in ("c0", "c1", "c2", "c3"):
            for at in (newest, newest + 1, newest + 20 * MINUTE, newest + DAY):
                got = client.get({"card": card}, features=names, at=at)
                assert got.values == job.values("cards", card, at)
    for key in [key for name, key in job.slots if name == "pairs"]:
        parts = job.definition.views["pairs"].key_parts(key)
        got = client.get(parts, features=stored_names(client, "pairs"), at=newest)
        assert got.values == job.values("pairs", key, newest)


def test_a_request_row_gives_what_storing_it_gives(
    job: Job, client: Client, rng: np.random.Generator
) -> None:
    events = random_payments(rng, 300, DAY)
    job.feed(events)
    names = stored_names(client, "cards") + stored_names(client, "pairs")
    request = payment(
        max(event["ts"] for event in events) + 5, "c2", "m|3", device="d9", amount=12.5, score=-0.25
    )
    before = client.get({}, features=names, event=request)
    job.feed([request])
    after = client.get({"card": "c2", "merchant": "m|3"}, features=names, at=request["ts"])
    relational = {"cards.known_1d", "cards.since_1d"}
    for name in names:
        if name not in relational:
            assert before.values[name] == after.values[name], name
    log, slot = job.logs["cards"], np.array([job.slots["cards", "c2"]])
    as_of_itself = named(job.definition.views["cards"], log.evaluate_newest(slot), log)
    assert {name: before.values[name] for name in relational} == {
        name: as_of_itself[name] for name in relational
    }


def test_a_request_row_writes_nothing(job: Job, client: Client) -> None:
    job.feed([payment(T0)])
    for _ in range(2):
        got = client.get(
            {"card": "c1"}, features=["cards.n_1d"], event=payment(T0 + 5, merchant="never seen")
        )
        assert got.values == {"cards.n_1d": 2} and got.as_of_ms == T0 + 5
    assert client.get({"card": "c1"}, features=["cards.n_1d"]).values == {"cards.n_1d": 1}


def test_an_event_earlier_than_the_stored_ones_counts_at_its_own_time(job: Job, client: Client) -> None:
    job.feed([payment(T0), payment(T0 + HOUR)])
    got = client.get({"card": "c1"}, features=["cards.n_1d"], event=payment(T0 + 1))
    assert got.values == {"cards.n_1d": 2} and got.as_of_ms == T0 + 1


def test_what_a_request_leaves_out_is_null_and_counts_nowhere(job: Job, client: Client) -> None:
    job.feed([payment(T0, amount="5.00")])
    event = {"ts": T0 + 1, "card": "c1", "merchant": "m2"}
    got = client.get(
        {}, features=["cards.n_1d", "cards.paid_1d", "cards.recent_1d", "cards.kinds_1d"], event=event
    )
    assert got.values["cards.n_1d"] == 2 and got.values["cards.kinds_1d"] == 2
    assert got.values["cards.paid_1d"] == Decimal("5.00") and got.values["cards.recent_1d"] == [
        Decimal("5.00")
    ]


def test_on_demand_features_use_the_request_and_the_stored_values(job: Job, client: Client) -> None:
    job.feed([payment(T0, amount="20.00")])
    event = payment(T0 + 2 * MINUTE, amount="5.00")
    got = client.get({}, features=["times_most", "busy"], event=event)
    assert got.values == {"times_most": 0.25, "busy": False} and got.status == {
        "times_most": "ok",
        "busy": "ok",
    }
    without = client.get({"card": "c1"}, features=["times_most"])
    assert without.values == {"times_most": None} and without.status == {"times_most": "default"}
    unknown = client.get({"card": "nobody"}, features=["busy"])
    assert unknown.values == {"busy": False} and unknown.status == {"busy": "unknown"}


def test_an_unknown_entity_has_the_empty_values(job: Job, client: Client) -> None:
    job.feed([payment(T0)])
    got = client.get(
        {"card": "nobody"}, features=["cards.n_1d", "cards.paid_1d", "cards.most_1d", "cards.shops_1d"]
    )
    assert got.values == {
        "cards.n_1d": 0, "cards.paid_1d": Decimal("0.00"), "cards.most_1d": None, "cards.shops_1d": None,
    }  # fmt: skip
    assert set(got.status.values()) == {"unknown"} and got.age_ms == {"cards": None}
    scored = client.get({"card": "nobody"}, features=["cards.n_1d"], event=payment(T0 + 1, "nobody"))
    assert scored.values == {"cards.n_1d": 1} and scored.status == {"cards.n_1d": "unknown"}


def test_the_past_beyond_what_is_kept_is_trimmed_not_partial(job: Job, client: Client) -> None:
    job.feed([payment(T0), payment(T0 + DAY), payment(T0 + 3 * DAY)])
    names = ["cards.n_1h", "cards.n_1d", "cards.n_lifetime"]
    now = client.get({"card": "c1"}, features=names)
    assert now.values == {"cards.n_1h": 1, "cards.n_1d": 1, "cards.n_lifetime": 3}
    covers = now.covers_from_ms["cards"]
    assert covers is not None and T0 + DAY <= covers < T0 + 3 * DAY
    past = client.get({"card": "c1"}, features=names, at=covers + HOUR)
    assert past.values == {"cards.n_1h": 0, "cards.n_1d": None, "cards.n_lifetime": 2}
    assert past.status == {"cards.n_1h": "default", "cards.n_1d": "trimmed", "cards.n_lifetime": "ok"}
    older = client.get({"card": "c1"}, features=names, at=T0)
    assert set(older.status.values()) == {"trimmed"} and set(older.values.values()) == {None}


def test_a_stale_record_gives_its_stored_values(
    job: Job, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_ROWS", 5)
    stale_client = job
    job = Job(stale_client.definition, stale_client.store)
    job.feed([payment(T0 + i, merchant="é") for i in range(6)])
    names = ["cards.n_1m", "cards.shops_1d", "cards.last_device_1d"]
    clock.now = T0 + DAY
    got = client.get({"card": "c1"}, features=names)
    assert got.values == {"cards.n_1m": 6, "cards.shops_1d": ["é"], "cards.last_device_1d": None}
    assert set(got.status.values()) == {"stale"} and got.age_ms == {"cards": DAY - 5}
    scored = client.get({"card": "c1"}, features=names, event=payment(T0 + 9))
    assert scored.values == got.values, "no request row on top of a stale record"
    past = client.get({"card": "c1"}, features=names, at=T0)
    assert set(past.values.values()) == {None} and set(past.status.values()) == {"trimmed"}


def test_many_entities_read_as_one(job: Job, client: Client, clock: Clock, rng: np.random.Generator) -> None:
    job.feed(random_payments(rng, 200, DAY))
    clock.now = T0 + DAY
    keys = [{"card": f"c{i % 6}", "merchant": f"m|{i % 7}"} for i in range(600)]
    many = client.get_many(keys, service="small")
    assert many == [client.get(key, service="small") for key in keys]
    assert list(many[0].values) == ["cards.n_1m", "busy", "pairs.n_1d"]
    assert client.get_many([]) == []


def test_threads_share_a_client(job: Job, client: Client, rng: np.random.Generator) -> None:
    """Each thread reads all entities many times, with and without an event; all get what one alone gets."""
    events = random_payments(rng, 200, DAY)
    job.feed(events)
    names = stored_names(client, "cards") + ["times_most", "busy"]
    at = T0 + DAY
    cards = [f"c{n}" for n in range(5)]
    requests = [None, payment(at, merchant="m|2", device="new"), payment(at, merchant="never seen")]

    def ask(card: str, request: Event | None) -> Any:
        event = None if request is None else {**request, "card": card}
        return client.get({"card": card}, features=names, event=event, at=at).to_dict()

    alone = {(card, n): ask(card, request) for card in cards for n, request in enumerate(requests)}
    wrong: list[Any] = []

    def read_on(first: int) -> None:
        try:
            for turn in range(60):
                card, n = cards[(first + turn) % 5], (first + turn // 5) % 3
                if ask(card, requests[n]) != alone[card, n]:
                    wrong.append((card, n))
        except BaseException as error:
            wrong.append(error)
            raise

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read_on, args=(first,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_texts_of_requests_are_kept_nowhere(job: Job, client: Client) -> None:
    """Entities without texts of their own share an empty table: it stays empty whatever is asked."""
    for n in range(5):
        for card in ("c1", "nobody"):
            event = payment(T0 + n, card, merchant=f"shop {n}")
            got = client.get({"card": card}, features=["cards.shops_1d"], event=event)
            assert got.values == {"cards.shops_1d": [f"shop {n}"]}
    assert list(view_reader.NO_TEXTS) == [""] and list(lmdb_module.NO_TEXTS) == [""]
    assert job.events == 0


def test_a_wrong_key_among_many_is_named(job: Job, client: Client) -> None:
    job.feed([payment(T0)])
    keys: list[Event] = [{"card": "c1"}] * 300 + [{"crad": "c1"}]
    with pytest.raises(EntityError, match="card is missing") as error:
        client.get_many(keys, features=["cards.n_1d"])
    assert error.value.index == 300


def test_json_is_as_documented(job: Job, client: Client, clock: Clock) -> None:
    job.feed([payment(T0, amount="7.10"), payment(T0 + 1, amount="0.05", merchant="m2")])
    clock.now = T0 + 61_000
    got = client.get(
        {"card": "c1"}, features=["cards.paid_1h", "cards.recent_1d", "cards.n_1m", "cards.mean_1d"]
    )
    assert json.loads(got.to_json()) == {
        "entity": {"card": "c1"},
        "as_of_ms": T0 + 61_000,
        "values": {
            "cards.paid_1h": "7.15", "cards.recent_1d": ["0.05", "7.10"],
            "cards.n_1m": 0, "cards.mean_1d": 0.5,
        },
        "status": {
            "cards.paid_1h": "ok", "cards.recent_1d": "ok", "cards.n_1m": "default", "cards.mean_1d": "ok",
        },
        "age_ms": {"cards": 60_999},
        "watermark_ms": {"cards": T0 + 1},
    }  # fmt: skip


def test_wrong_use_says_what_to_do(job: Job, client: Client) -> None:
    job.feed([payment(T0)])
    with pytest.raises(UsageError, match="merchant is missing"):
        client.get({"card": "c1"}, features=["pairs.n_1d"])
    with pytest.raises(UsageError, match="no feature"):
        client.get({"card": "c1"}, features=["cards.n_1y"])
    with pytest.raises(UsageError, match="no service"):
        client.get({"card": "c1"}, service="smal")
    with pytest.raises(UsageError, match="not both"):
        client.get({"card": "c1"}, service="small", features=["busy"])
    with pytest.raises(UsageError, match="asked for is 'c1'"):
        client.get({"card": "c1"}, features=["cards.n_1d"], event=payment(T0, "c2"))
    with pytest.raises(UsageError, match="no stream"):
        client.get({"card": "c1"}, features=["cards.n_1d"], event=payment(T0), stream="other")
    with pytest.raises(UsageError, match="amount"):
        client.get({"card": "c1"}, features=["cards.n_1d"], event=payment(T0, amount="much"))
    assert client.get({"card": "c1"}, features=["cards.n_1d"]).values == {"cards.n_1d": 1}


@pytest.mark.parametrize(
    ("entity", "more"),
    [("c1", {}), (None, {}), ({"card": "c1"}, {"event": "x"}), ({"card": "c1"}, {"features": "x"})],
)
def test_a_text_where_a_mapping_or_list_is_due(client: Client, entity: Any, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        client.get(entity, **more)


def test_another_version_of_a_view_is_no_unknown_entity(job: Job, clock: Clock) -> None:
    job.feed([payment(T0)])
    changed = loads(YAML.replace("windows: [1m, 1h, 1d, lifetime]", "windows: [1m, 1h, 2d, lifetime]"))
    with Client(changed, f"lmdb:{job.store.path}", now=clock) as other:
        with pytest.raises(StoreError, match=r"no values of view cards in this version .* it holds"):
            other.get({"card": "c1"}, features=["cards.n_2d"])
        pairs = other.get({"card": "c1", "merchant": "m1"}, features=["pairs.n_1d"])
        assert pairs.values == {"pairs.n_1d": 1}, "a view that did not change is still read"


@pytest.mark.parametrize(
    ("at", "ms"),
    [
        (5, 5), ("5", 5), ("-5", -5), ("1970-01-01T00:00:01Z", 1000), ("1970-01-02", DAY),
        ("1970-01-01T01:00:00+01:00", 0), (datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.UTC), 1000),
    ],
)  # fmt: skip
def test_instants(at: int | str | datetime.datetime, ms: int) -> None:
    assert to_ms(at) == ms


@pytest.mark.parametrize("at", ["yesterday", "", 2**63, True, datetime.datetime(2024, 1, 1)])  # noqa: DTZ001
def test_instants_that_are_none(at: Any) -> None:
    with pytest.raises(UsageError):
        to_ms(at)
