"""Every aggregate and option from YAML through the job: training Parquet, LMDB and reads equal the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows.live_job import run
from dataflows.live_round import LiveOptions
from dataflows.replay_job import ReplayOptions, replay
from lookback import Client, load_training
from lookback.definition import Definition, View, load
from lookback.stores.base import Lookup, open_store
from lookback.windows.log import Values
from lookback.windows.plan import unpack_position
from lookback.windows.results import to_python
from tests.contract.adapters import ADAPTERS
from tests.parity.events import (
    ALL_TIES,
    DAY,
    NO_TIES,
    Logs,
    accepted,
    logs_of,
    oracle_value,
    plain,
    write_lines,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "definitions"
START = 1_704_067_200_000


def payment(rng: np.random.Generator, at: int, number: int) -> dict[str, Any]:
    """Return one random payment; some fields null or left out, times often tied."""
    event: dict[str, Any] = {
        "paid_at": np.datetime_as_string(np.datetime64(at, "ms")) + "Z",
        "id": f"p{number}",
        "card": f"c{rng.integers(6)}",
        "SHOP NAME": f"shop {'äöü'[rng.integers(3)]}{rng.integers(4)}",
        "amount": str(round(float(rng.integers(-500, 90_000)) / 100, 2)),
        "declined": bool(rng.random() < 0.3),
    }
    if rng.random() < 0.8:
        event["device"] = None if rng.random() < 0.2 else f"d{rng.integers(5)}"
    if rng.random() < 0.7:
        event["points"] = int(rng.integers(-(2**52), 2**52))
    if rng.random() < 0.7:
        event["risk"] = float(rng.normal())
    if rng.random() < 0.5:
        event["issued_at"] = int(at - rng.integers(0, 10**9))
    return event


def payments(rng: np.random.Generator, count: int) -> list[list[Any]]:
    """Return three partitions of payments: out of order, tied, some late, some broken."""
    partitions: list[list[Any]] = [[], [], []]
    at = START
    for number in range(count):
        at += int(rng.choice([0, 0, 1000, 60_000, 3_600_000, DAY // 3], p=[0.2, 0.1, 0.2, 0.2, 0.2, 0.1]))
        back = int(rng.choice([0, 0, 0, 1000, 200_000, 900_000]))
        event = payment(rng, at - back, number)
        if rng.random() < 0.03:
            event = {**event, "amount": "1.234"}
        partitions[int(rng.integers(3))].append(event)
    return partitions


@pytest.fixture(scope="module")
def definition() -> Definition:
    return load(EXAMPLES / "every_aggregate.yaml")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("every")
    write_lines(path / "payments", payments(np.random.default_rng(3), 400))
    return path


@pytest.fixture(scope="module")
def logs(definition: Definition, archive: Path) -> Logs:
    return logs_of(definition.views["card_all"], accepted(definition, archive, "payments"))


@pytest.mark.parametrize(("as_of", "workers"), [("including", 1), ("before", 2)])
def test_training_rows_are_the_oracles(
    as_of: str, workers: int, definition: Definition, archive: Path, logs: Logs, tmp_path: Path
) -> None:
    options = ReplayOptions(
        source=f"archive:{archive}", out=tmp_path / "out", from_ms=0, including=as_of == "including",
        workers=workers, quiet=True,
    )  # fmt: skip
    replay(definition, options)
    rows = load_training(tmp_path / "out").arrow().to_pylist()
    assert len(rows) == len(logs.of_event)
    assert {"late", "bad"} <= {name for name, n in replay_counts(definition, archive, tmp_path).items() if n}
    compared = 0
    for row in rows:
        key, own = logs.of_event[row["_partition"], row["_offset"]]
        assert row["card"] == key
        for feature in logs.view.features:
            want = oracle_value(logs.view, feature, logs.rows[key], *own[:2], own, as_of == "including")
            assert plain(feature, row[f"card_all.{feature.name}"]) == want, (row["id"], feature.name)
            compared += 1
    assert compared > 10_000


def replay_counts(definition: Definition, archive: Path, tmp_path: Path) -> dict[str, int]:
    """Return what a replay counted."""
    options = ReplayOptions(source=f"archive:{archive}", out=tmp_path / "counts", from_ms=0, quiet=True)
    return replay(definition, options).counts


@pytest.fixture(params=["lmdb", "redis"])  # records on a cluster are those of a server
def store(request: pytest.FixtureRequest) -> str:
    """Return the URI of each kind of store in turn, new and empty."""
    return ADAPTERS[request.param](request)


def test_the_store_holds_the_oracles_values_and_reads_as_of_any_instant(
    definition: Definition, archive: Path, logs: Logs, store: str, tmp_path: Path
) -> None:
    view = logs.view
    run(definition, LiveOptions(f"archive:{archive}", store, tmp_path / "state", epoch_ms=100, quiet=True))
    opened = open_store(store)
    for key, rows in logs.rows.items():
        own = max(rows, key=lambda row: row[:2])
        [record] = opened.read([Lookup(view.fingerprint, key, view.plan)])
        assert record is not None
        # As of its newest event, or of a later instant where a row left a window since.
        refreshed = record.as_of_ms > own[0]
        place, event = (ALL_TIES, None) if refreshed else (own[1], own)
        values = Values(record.words.reshape(-1, 1), record.status.reshape(-1, 1))
        for feature, value in zip(view.features, to_python(view.plan, values, 0, record.texts), strict=True):
            want = oracle_value(view, feature, rows, record.as_of_ms, place, event, True)
            assert plain(feature, value) == want, feature.name
    opened.close()
    with Client(definition, store) as client:
        for key, rows in logs.rows.items():
            newest = max(row[0] for row in rows)
            for at in (newest, newest + 1, newest + 50_000, newest + DAY, newest + 40 * DAY):
                found = client.get({"card": key}, at=at)
                for feature in view.features:
                    want = oracle_value(view, feature, rows, at, ALL_TIES, None, True)
                    assert plain(feature, found[f"card_all.{feature.name}"]) == want, (key, at, feature.name)


def test_a_request_row_gives_what_replay_gives_once_it_is_stored(
    definition: Definition, archive: Path, store: str, tmp_path: Path
) -> None:
    """Score each card's newest event before it arrives; then store it and replay."""
    whole = tmp_path / "whole"
    partitions = payments(np.random.default_rng(4), 300)
    write_lines(whole / "payments", partitions)
    logs = logs_of(definition.views["card_all"], accepted(definition, whole, "payments"))
    newest = {max(rows, key=lambda row: row[:2])[1]: key for key, rows in logs.rows.items()}
    held_back: dict[str, Any] = {}
    for place, key in newest.items():
        partition, offset = unpack_position(place)
        held_back[key] = partitions[partition][offset]
    earlier = [[e if e not in held_back.values() else None for e in part] for part in partitions]
    (tmp_path / "part" / "payments").mkdir(parents=True)
    for number, part in enumerate(earlier):
        lines = [
            json.dumps({**event, "_partition": number, "_offset": offset})
            for offset, event in enumerate(part)
            if event is not None
        ]
        (tmp_path / "part" / "payments" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    run(definition, LiveOptions(f"archive:{tmp_path / 'part'}", store, tmp_path / "state", quiet=True))
    replay(definition, ReplayOptions(f"archive:{whole}", tmp_path / "out", 0, quiet=True))
    rows = {row["id"]: row for row in load_training(tmp_path / "out").arrow().to_pylist()}
    with Client(definition, store) as client:
        for key, event in held_back.items():
            reading = client.get({"card": key}, event=event)
            want = rows[event["id"]]
            assert {name: reading[name] for name in definition.all_features()} == {
                name: want[name] for name in definition.all_features()
            }


@pytest.fixture(scope="module")
def transfers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of two streams whose events share accounts and often milliseconds."""
    rng = np.random.default_rng(9)
    path = tmp_path_factory.mktemp("transfers")
    at, moves, logins = START, [], []
    for number in range(400):
        at += int(rng.choice([0, 300, 1000, 400_000, DAY // 8]))
        moves.append(
            {
                "booked_us": at * 1000, "transfer_id": number, "from_account": int(rng.integers(5)),
                "to_account": int(rng.integers(5)), "cents": int(rng.integers(1, 10**6)),
                "currency": "EUR" if rng.random() < 0.7 else "CHF",
            }
        )  # fmt: skip
        if rng.random() < 0.6:
            logins.append(
                {
                    "t": at // 1000,
                    "account": int(rng.integers(5)),
                    "ip": f"ip{rng.integers(3)}",
                    "ok": bool(rng.random() < 0.4),
                }
            )
    write_lines(path / "bank.transfers", [moves[0::2], moves[1::2]])
    write_lines(path / "bank.logins", [logins])
    return path


@pytest.mark.parametrize("as_of", ["including", "before"])
def test_two_streams_composite_keys_and_resolution(as_of: str, transfers: Path, tmp_path: Path) -> None:
    definition = load(EXAMPLES / "transfers.yaml")
    options = ReplayOptions(
        f"archive:{transfers}", tmp_path / "out", START, including=as_of == "including", stream="transfers",
        workers=2, quiet=True,
    )  # fmt: skip
    done = replay(definition, options)
    assert done.left_out == ["sign_ins"]  # transfers carry no `account`
    own = accepted(definition, transfers, "transfers")
    logs = [logs_of(view, own) for view in definition.views.values() if view.stream.name == "transfers"]
    rows = load_training(tmp_path / "out").arrow().to_pylist()
    assert len(rows) == sum(len(batch) for batch in own)
    places = [(row["event_time_ms"], row["_partition"], row["_offset"]) for row in rows]
    assert places == sorted(places)
    for row in rows:
        for log in logs:
            key, mine = log.of_event[row["_partition"], row["_offset"]]
            for feature in log.view.features:
                want = oracle_value(log.view, feature, log.rows[key], *mine[:2], mine, as_of == "including")
                assert plain(feature, row[f"{log.view.name}.{feature.name}"]) == want, (row, feature.name)


@pytest.mark.parametrize("including", [True, False])
def test_labels_ask_all_views_at_their_instants(including: bool, transfers: Path, tmp_path: Path) -> None:
    definition = load(EXAMPLES / "transfers.yaml")
    logs = {
        view.name: logs_of(view, accepted(definition, transfers, view.stream.name))
        for view in definition.views.values()
    }
    rng = np.random.default_rng(10)
    times = [row[0] for rows in logs["sign_ins"].rows.values() for row in rows]
    count = 200
    labels = pa.table(
        {
            "account": rng.integers(0, 7, count),
            "time": np.array(
                [int(t) + int(rng.choice([0, 0, 1, -1, 5000])) for t in rng.choice(times, count)]
            ),
            "fraud": rng.random(count) < 0.5,
        }
    )
    pq.write_table(labels, tmp_path / "labels.parquet")
    options = ReplayOptions(
        f"archive:{transfers}", tmp_path / "out", 0, including=including, labels=tmp_path / "labels.parquet",
        workers=2, quiet=True,
    )  # fmt: skip
    assert replay(definition, options).left_out == ["routes"]
    rows = load_training(tmp_path / "out").arrow().to_pylist()
    assert sorted((r["account"], r["event_time_ms"], r["fraud"]) for r in rows) == sorted(
        zip(*(labels[name].to_pylist() for name in ("account", "time", "fraud")), strict=True)
    )
    for row in rows:
        for name in ("outgoing", "incoming", "sign_ins"):
            _check_label(logs[name], row, including)


def _check_label(log: Logs, row: dict[str, Any], including: bool) -> None:
    view: View = log.view
    rows = log.rows.get(str(row["account"]), [])
    at = row["event_time_ms"]
    for feature in view.features:
        want = oracle_value(view, feature, rows, at, ALL_TIES if including else NO_TIES, None, True)
        assert plain(feature, row[f"{view.name}.{feature.name}"]) == want, (row, view.name, feature.name)
