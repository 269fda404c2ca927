"""Two live jobs by mistake, on a real broker: the newer takes the store over, the older ends though no event comes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookback.client import Client
from tests.integration.events import T0, Live, payment, write_definition
from tests.services.kafka import Broker
from tests.services.valkey import Valkey

_numbers = itertools.count()


@pytest.fixture(params=["lmdb", "redis"])
def jobs(
    request: pytest.FixtureRequest, kafka: Broker, valkey: Valkey, tmp_path: Path
) -> Iterator[tuple[Live, Live]]:
    """Return two jobs of one definition on one store, each with a state folder of its own."""
    topic = f"two-jobs-{next(_numbers)}"
    kafka.create(topic, 2)
    definition = write_definition(tmp_path, topic)
    uri = f"lmdb:{tmp_path / 'shared'}" if request.param == "lmdb" else valkey.uri
    found = []
    for name in ("older", "newer"):
        (tmp_path / name).mkdir()
        found.append(Live(tmp_path / name, definition, f"kafka://{kafka.address}", server=uri))
    yield found[0], found[1]
    for job in found:
        job.end()
    kafka.delete(topic)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_older_of_two_jobs_ends_and_names_the_newer(
    jobs: tuple[Live, Live], kafka: Broker, workers: str
) -> None:
    older, newer = jobs
    topic = older.definition.stem
    kafka.produce(topic, {0: [payment(n, T0 + n * 1000) for n in range(70)]})
    older.start("--workers", workers)
    older.until(lambda: older.offsets() == {f"{topic}/0": 70, f"{topic}/1": 0}, "the first 70")
    assert newer.finish() == 3 and "--accept-lost-state" in newer.said()
    assert older.process is not None and older.process.poll() is None, "the refused one disturbs nothing"
    newer.start("--accept-lost-state")
    assert older.wait() == 3
    assert "has taken over the online store" in older.said() and str(newer.state) in older.said()
    newer.until(lambda: newer.offsets() == {f"{topic}/0": 70, f"{topic}/1": 0}, "the first 70")
    kafka.produce(topic, {1: [payment(n, T0 + n * 1000) for n in range(70, 140)]})
    newer.until(lambda: newer.offsets() == {f"{topic}/0": 70, f"{topic}/1": 70}, "70 more")
    newer.stop()
    with Client(newer.definition, newer.uri) as client:
        read = client.get({"card": "c3"}, features=["cards.n_1h"], at=T0 + 139_000)
        assert read.values["cards.n_1h"] == 20
    older.start()  # the newer has ended: its own state is as good as before
    older.until(lambda: older.offsets() == {f"{topic}/0": 70, f"{topic}/1": 70}, "70 more")
    older.stop()
