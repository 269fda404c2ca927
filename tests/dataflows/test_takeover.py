"""Taking over what a state of other shards served: no mark falls, nobody else writes, no loss is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dataflows import takeover
from dataflows.takeover import Sharding, StateLine, check_line, sharding_of, take_over
from lookback.definition import loads
from lookback.errors import LookbackError, RefusedError
from lookback.stores.base import AS_OF, SEQUENCE, OnlineStore, StoreWriter, open_store
from state import faults
from tests.contract.adapters import ADAPTERS

DEFINITION = loads("""
streams:
  tx: {topic: tx, event_time: {field: ts, unit: ms}, fields: {card: string, shop: string}}
entities: {card: string, shop: string}
views:
  a: {entity: card, stream: tx, features: {n: {agg: count, windows: [1h, lifetime]}}}
  b: {entity: shop, stream: tx, features: {last: {agg: last, of: card, windows: [1h, lifetime]}}}
""")
FINGERPRINTS = [view.fingerprint for view in DEFINITION.views.values()]
FIRST = StateLine("first", "1", 3)
NONE: dict[str, list[dict[str, int]]] = {"a": [{}] * 3, "b": [{}] * 3}
ORIGIN = {"id": "1", "shards": 3, "durable": NONE}
APPLIED = {"a": {"tx/0": 12, "tx/1": 6}, "b": {"tx/0": 12}}
FEWER = StateLine("fewer", "2", 2, [ORIGIN], APPLIED)
MORE = StateLine("more", "3", 5, [ORIGIN, {"id": "2", "shards": 2, "durable": {}}], APPLIED)
SIBLING = replace(MORE, path="sibling", state="4", origins=[ORIGIN])
MARKS = [{"tx/0": 9, SEQUENCE: 4}, {"tx/0": 3, "tx/1": 8, SEQUENCE: 7, AS_OF: 5}, {"tx/0": 1, AS_OF: 2}]


@pytest.fixture(params=sorted(ADAPTERS))
def store(request: pytest.FixtureRequest) -> OnlineStore:
    opened = open_store(ADAPTERS[request.param](request), write=True)
    request.addfinalizer(opened.close)
    return opened


def writer(store: OnlineStore, generation: int) -> StoreWriter:
    plans = {view.fingerprint: view.plan for view in DEFINITION.views.values()}
    return store.writer(plans, generation, {})


def serve(store: OnlineStore) -> StoreWriter:
    """Let the first state serve; return its writer."""
    generation = store.claim("first")
    take_over(store, DEFINITION, FIRST, generation)
    out = writer(store, generation)
    for view in DEFINITION.views.values():
        out.write([takeover._marks(view, shard, marks) for shard, marks in enumerate(MARKS)])
    return out


def marks(store: OnlineStore, numbers: int) -> list[list[dict[str, int] | None]]:
    return [[store.marks(fingerprint, n) for n in range(numbers)] for fingerprint in FINGERPRINTS]


def test_each_new_shard_waits_for_all_that_any_old_one_served(store: OnlineStore) -> None:
    older = serve(store)
    generation = store.claim("fewer")
    take_over(store, DEFINITION, FEWER, generation)
    highest = {SEQUENCE: 7, AS_OF: 5}
    a, b = {**highest, "tx/0": 12, "tx/1": 8}, {**highest, "tx/0": 12, "tx/1": 8}
    assert marks(store, 3) == [[a, a, MARKS[2]], [b, b, MARKS[2]]]
    for n, fingerprint in enumerate(FINGERPRINTS):
        assert sharding_of(store, fingerprint) == Sharding("2", ("1",), 2, 2)
        for shard in range(3):  # the older job is gone from all of them, also those that the new one has not
            with pytest.raises(LookbackError):
                older.write([takeover._marks(list(DEFINITION.views.values())[n], shard, {"tx/0": 99})])
    out = writer(store, generation)
    for fingerprint in FINGERPRINTS:
        assert out.marks(fingerprint, 1) == a
        assert out.kept(fingerprint, 1)["tx/0"] == 12
    take_over(store, DEFINITION, MORE, store.claim("more"))
    assert marks(store, 5) == [[a] * 5, [b] * 5]


def test_the_next_start_takes_nothing_over(store: OnlineStore) -> None:
    serve(store)
    take_over(store, DEFINITION, FEWER, store.claim("fewer"))
    out = writer(store, store.claim("fewer"))
    [view, _] = DEFINITION.views.values()
    out.write([takeover._marks(view, 0, {"tx/0": 50})])
    take_over(store, DEFINITION, FEWER, store.claim("fewer"))
    assert [(mark or {})["tx/0"] for mark in marks(store, 2)[0]] == [50, 12]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_broken_off_it_is_done_again(step: int, store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(store)

    def stop(_: str, at: int = 0) -> None:
        if at == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as here:
        here.setattr(faults, "reach", stop)
        with pytest.raises(KeyboardInterrupt):
            take_over(store, DEFINITION, MORE, store.claim("more"))
    if step > 1:  # it counts as the newest from here on
        with pytest.raises(RefusedError, match="another state than first"):
            check_line(store, DEFINITION, FIRST)
    take_over(store, DEFINITION, MORE, store.claim("more"))
    assert {str(mark) for own in marks(store, 5) for mark in own} == {str(marks(store, 1)[0][0])}
    assert all((sharding_of(store, fingerprint) or FIRST.sharding()).whole for fingerprint in FINGERPRINTS)


@pytest.mark.parametrize(
    ("ran", "asks", "refused"),
    [
        (FIRST, FIRST, False), (FIRST, FEWER, False), (FIRST, MORE, False), (FEWER, MORE, False),
        (FEWER, FIRST, True), (MORE, FIRST, True), (MORE, FEWER, True), (FEWER, SIBLING, True),
        (MORE, StateLine("stranger", "9", 7), False),
    ],
)  # fmt: skip
def test_who_may_run_after_whom(ran: StateLine, asks: StateLine, refused: bool, store: OnlineStore) -> None:
    serve(store)
    take_over(store, DEFINITION, ran, store.claim("ran"))
    before = marks(store, 5), [store.note(fingerprint) for fingerprint in FINGERPRINTS]
    if refused:
        with pytest.raises(
            RefusedError, match=rf"another state than {asks.path}, one of {ran.shards} shards"
        ):
            check_line(store, DEFINITION, asks)
        assert (marks(store, 5), [store.note(f) for f in FINGERPRINTS]) == before
    else:
        check_line(store, DEFINITION, asks)
    take_over(store, DEFINITION, asks, store.claim("asks"))  # as with --accept-lost-state
    for own, served in zip(marks(store, asks.shards), before[0], strict=True):
        for mark in own:
            assert mark is not None
            for part in ("tx/0", "tx/1", SEQUENCE, AS_OF):
                if asks.shards != ran.shards:
                    assert mark[part] >= max((other or {}).get(part, -1) for other in served[: ran.shards])


def test_a_store_that_lost_values_is_refused(store: OnlineStore) -> None:
    """Of one shard: the highest of all offsets tells nothing."""
    serve(store)
    own = {"tx/0": 2}  # and the store has kept 1
    line = replace(FEWER, origins=[{**ORIGIN, "durable": {"a": [{}, {}, own], "b": [{}] * 3}}])
    with pytest.raises(RefusedError, match="has lost values of view a .*run the job on the old state once"):
        take_over(store, DEFINITION, line, store.claim("fewer"))
    own["tx/0"] = 1
    take_over(store, DEFINITION, line, store.claim("fewer"))


def test_a_store_of_a_release_before(store: OnlineStore) -> None:
    """It has marks and no note: they are the first state's."""
    serve(store)
    for fingerprint in FINGERPRINTS:
        _forget(store, fingerprint)
    assert sharding_of(store, FINGERPRINTS[0]) is None
    take_over(store, DEFINITION, MORE, store.claim("more"))
    assert all((mark or {})["tx/0"] == 12 for mark in marks(store, 5)[0])


def test_an_empty_store_has_no_marks_after(store: OnlineStore) -> None:
    """So that each shard writes all that it has."""
    take_over(store, DEFINITION, MORE, store.claim("more"))
    assert marks(store, 5) == [[None] * 5] * 2
    assert sharding_of(store, FINGERPRINTS[0]) == MORE.sharding()


def test_a_note_of_another_release_is_refused(store: OnlineStore) -> None:
    store.put_note(FINGERPRINTS[0], json.dumps({"shape": "round"}))
    with pytest.raises(RefusedError, match="can't be read"):
        sharding_of(store, FINGERPRINTS[0])


def _forget(store: Any, fingerprint: str) -> None:
    forget: dict[str, Callable[[], object]] = {
        "LmdbStore": lambda: store.env.writing(
            lambda txn: txn.delete(b"sharding" + fingerprint.encode(), db=store._meta(create=True))
        ),
        "RedisStore": lambda: _call(store, "HDEL", store._home + "sharding", fingerprint),
    }
    forget[type(store).__name__]()


def _call(store: Any, *words: str) -> None:
    with store._server.connection() as connection:
        connection.call(*words)
