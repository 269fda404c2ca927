"""What the job leaves in Redis is read by clients that know nothing of Lookback, and says what our client says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dataflows.cli import init
from dataflows.live_job import run as run_job
from dataflows.live_round import LiveOptions
from lookback.client import Client
from lookback.definition import Definition, load
from lookback.reading import plain
from tests.services.valkey import Valkey, running

Fields = dict[str, str]


@dataclass(frozen=True)
class Made:
    """A server that a job has written the sample's features to."""

    server: Valkey
    definition: Definition

    def key(self, view: str, entity: str) -> str:
        return f"lookback:{view}:{self.definition.views[view].fingerprint[:12]}:{{{entity}}}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("plain")
    with running(folder / "valkey") as server:
        init(folder / "sample")
        definition = load(folder / "sample" / "features.yaml")
        source = f"archive:{folder / 'sample' / 'events'}"
        run_job(definition, LiveOptions(source, server.uri, folder / "state", quiet=True))
        yield Made(server, definition)


def by_valkey_cli(made: Made, key: str) -> Fields:
    lines = made.server.cli("--raw", "HGETALL", key).split("\n")[:-1]
    return dict(zip(lines[::2], lines[1::2], strict=True))


def by_perl(made: Made, key: str) -> Fields:
    perl = shutil.which("perl")
    if perl is None:
        pytest.skip("no perl: apt install perl-base")
    script = Path(__file__).with_name("read_record.pl")
    done = subprocess.run(
        [perl, str(script), "127.0.0.1", str(made.server.port), key],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


def by_redis_py(made: Made, key: str) -> Fields:
    with made.server.client() as client:
        return {name.decode(): value.decode() for name, value in client.hgetall(key).items()}


def same(text: str, value: Any) -> bool:
    """Return whether a field's text is this value."""
    if value is None:
        return text == ""
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, list):
        return bool(json.loads(text) == plain(value))
    return bool(type(value)(text) == value) and (not isinstance(value, Decimal) or text == format(value, "f"))


@pytest.mark.parametrize("read", [by_valkey_cli, by_perl, by_redis_py])
def test_every_field_is_what_the_client_says(made: Made, read: Callable[[Made, str], Fields]) -> None:
    checked = refreshed = 0
    with Client(made.definition, made.server.uri) as client, made.server.client() as look:
        for view in made.definition.views.values():
            names = [feature.name for feature in view.plan.features]
            prefix = made.key(view.name, "")[:-1]
            keys = sorted(key.decode() for key in look.keys(f"{prefix}*") if not key.endswith(b":rows"))
            for key in keys[:5]:
                fields = read(made, key)
                entity = dict(zip(view.key_names, key[len(prefix) : -1].split("|"), strict=True))
                reading = client.get(
                    entity, features=[f"{view.name}.{name}" for name in names], at=int(fields["_as_of_ms"])
                )
                for name in names:
                    value = reading[f"{view.name}.{name}"]
                    assert same(fields[name], value), (key, name, fields[name], value)
                    checked += 1
                assert len(fields["_status"]) == len(names)
                assert fields["_version"] == "1" and int(fields["_event_time_ms"]) <= int(fields["_as_of_ms"])
                refreshed += fields["_event_time_ms"] != fields["_as_of_ms"]
    assert checked > 50 and refreshed


def test_rows_are_read_by_their_documented_bytes(made: Made) -> None:
    """The newest row's first word is the record's event time; the score says the same."""
    view = next(iter(made.definition.views.values()))
    with made.server.client() as client:
        key = next(k for k in client.keys(made.key(view.name, "*")) if not k.endswith(b":rows"))
        (row, score) = client.zrange(key + b":rows", -1, -1, withscores=True)[0]
        newest = client.hget(key, "_event_time_ms")
    time_ms = int.from_bytes(row[:8], "big") - (1 << 63)
    assert newest is not None and time_ms == int(score) == int(newest)
    assert len(row) >= 8 * (2 + view.plan.width)
