"""How far behind events come: what a plain loop counts, wherever a job stopped, whoever asks."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.lateness import BUCKETS, FINE, SHARES, Histogram, bucket, highest
from dataflows.lateness_report import as_json, of_source, of_state
from lookback.definition import load
from lookback.errors import UsageError
from tests.recovery.events import (
    LATENESS_MS,
    MAX_AHEAD_MS,
    REPEATS_MS,
    Archive,
    make_archive,
    write_definition,
)
from tests.recovery.job import Job, command

TIMES = st.integers(0, 2**53)


@given(st.lists(TIMES, min_size=1))
def test_a_bucket_is_as_fine_as_is_said(times: list[int]) -> None:
    found = bucket(np.array(times, np.int64))
    top = highest(found).tolist()
    assert all(t <= high and (high - t) * FINE <= t for t, high in zip(times, top, strict=True))
    assert (highest(found + 1) > highest(found)).all()
    assert found.max() < BUCKETS


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=300), st.sampled_from(SHARES))
def test_a_share_is_kept_and_a_shorter_lateness_would_not_keep_it(behind: list[int], share: str) -> None:
    histogram = Histogram()
    values = np.array(behind, np.int64)
    histogram.add(int((values == 0).sum()), values[values > 0], 0)
    histogram = Histogram(histogram.state())
    kept = histogram.keeps(share)
    assert kept is not None
    wanted = Fraction(share) / 100 * len(behind)
    exact = min(b for b in behind if sum(other <= b for other in behind) >= wanted)
    assert exact <= kept <= exact * (1 + 1 / FINE)
    assert share != "100" or kept == max(behind)
    assert histogram.events == len(behind)


def test_nothing_counted_keeps_nothing() -> None:
    assert Histogram().keeps("99") is None and Histogram(Histogram().state()).events == 0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("lateness")
    write_definition(folder)
    return make_archive(folder / "archive", seed=11, partitions=2, events=900)


def counted(archive: Archive) -> dict[str, list[tuple[int, bool]]]:
    """Return (how far behind, whether it has a card) of each partition's events that count here, by a plain loop."""
    found: dict[str, list[tuple[int, bool]]] = {}
    for path in sorted(archive.path.glob("*/*.parquet")):
        table = pq.read_table(path)
        rows: list[tuple[int, bool]] = []
        watermark, newest = -(2**62), dict[int, int]()
        for value, broker in zip(table["value"].to_pylist(), table["timestamp_ms"].to_pylist(), strict=True):
            try:
                event = json.loads(value)
            except ValueError:
                continue
            at = event["ts"]
            if at > broker + MAX_AHEAD_MS:
                continue
            watermark = max(watermark, at)
            behind = watermark - at
            if behind <= LATENESS_MS:
                again = newest.get(event["id"], -(2**62)) >= watermark - REPEATS_MS
                newest[event["id"]] = max(at, newest.get(event["id"], at))
                if again:
                    continue
            rows.append((behind, event["card"] is not None))
        found[f"payments/{len(found)}"] = rows
    return found


def expected(rows: list[tuple[int, bool]]) -> dict[str, Any]:
    behind = [b for b, _ in rows]
    tops, counts = np.unique(highest(bucket(np.array(behind))), return_counts=True)
    return {
        "events": len(behind),
        "out_of_order": sum(b > 0 for b in behind),
        "late": sum(b > LATENESS_MS for b in behind),
        "behind_ms": [list(pair) for pair in zip(tops.tolist(), counts.tolist(), strict=True)],
    }


def assert_counts(found: dict[str, Any], archive: Archive) -> None:
    (stream,) = found["streams"].values()
    by_hand = counted(archive)
    everything = [row for rows in by_hand.values() for row in rows]
    cases = [
        (stream, everything),
        (stream["views"]["shops"], everything),
        (stream["views"]["cards"], [row for row in everything if row[1]]),
        *((stream["partitions"][name], rows) for name, rows in by_hand.items()),
    ]
    assert set(stream["partitions"]) == set(by_hand) and set(stream["views"]) == {"cards", "shops"}
    for facts, rows in cases:
        assert {name: facts[name] for name in expected(rows)} == expected(rows)
        assert facts["keeps_ms"]["100"] == max(b for b, _ in rows)
    assert stream["late"] == archive.refused["late"] > 20
    assert stream["lateness_ms"] == LATENESS_MS


def test_a_source_is_counted_as_a_loop_counts_it(archive: Archive) -> None:
    definition = load(archive.path.parent / "features.yaml")
    assert_counts(as_json(of_source(definition, archive.uri, None, quiet=True)), archive)


def test_a_job_that_was_killed_counts_no_event_twice(archive: Archive, tmp_path: Path) -> None:
    definition = archive.path.parent / "features.yaml"
    job = Job(tmp_path, definition, archive)
    job.kill_at("3-after:20")
    job.kill_at("4-after:3")
    job.jitter_rows = None
    job.finish()
    assert_counts(as_json(of_state(load(definition), job.state)), archive)
    said = command("lateness", str(definition), "--state", str(job.state), "--json", said=tmp_path / "said")
    assert said.code == 0
    assert_counts(json.loads(said.said), archive)
    shown = command("lateness", str(definition), "--source", archive.uri, "--quiet", said=tmp_path / "shown")
    assert shown.code == 0 and "keeps 99.9 %" in shown.said and "view cards" in shown.said
    other = tmp_path / "other.yaml"
    other.write_text(definition.read_text().replace("lateness: 60s", "lateness: 61s"))
    with pytest.raises(UsageError, match="another definition's"):
        of_state(load(other), job.state)


def test_wrong_use_is_told(archive: Archive, tmp_path: Path) -> None:
    definition = str(archive.path.parent / "features.yaml")
    for words, told in (
        ((), "one of the two"),
        (("--state", "x", "--source", "archive:y"), "one of the two"),
        (("--state", str(tmp_path)), "is no state folder"),
    ):
        ended = command("lateness", definition, *words, said=tmp_path / "said")
        assert ended.code == 2 and told in ended.said
