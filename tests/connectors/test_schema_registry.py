from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors import schema_registry
from connectors.avro_schema import WriterSchema
from connectors.schema_registry import Schemas, registry_settings
from connectors.settings_file import ClientSettings
from connectors.sources import check_settings, open_schemas
from lookback.errors import SourceError, UsageError
from tests.connectors.avro import record
from tests.connectors.build import stream_of
from tests.services.registry import Registry

SECRET = "not-for-logs"
PLAIN = record(ts="long")


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry().start()
    yield found
    found.stop()


def schemas_of(registry: Registry, **more: str) -> Schemas:
    return Schemas(ClientSettings({"url": registry.url, **more}, frozenset({SECRET})))


def soon(schemas: Schemas, *ids: int) -> None:
    """Ask until they are there."""
    deadline = time.monotonic() + 30
    while not schemas.ready(ids):
        assert time.monotonic() < deadline, schemas.waiting
        time.sleep(0.005)


def waits(schemas: Schemas, *ids: int) -> str:
    """Ask until it says what it waits for."""
    deadline = time.monotonic() + 30
    while schemas.waiting is None:
        assert not schemas.ready(ids) and time.monotonic() < deadline
        time.sleep(0.005)
    return schemas.waiting


def test_a_schema_is_asked_for_once(registry: Registry) -> None:
    one, two = registry.add(PLAIN), registry.add(record(ts="int"))
    schemas = schemas_of(registry)
    assert not schemas.ready([one, two]), "it never waits for an answer"
    soon(schemas, one, two)
    assert all(schemas.ready([one, two]) for _ in range(10))
    assert isinstance(schemas[one], WriterSchema) and isinstance(schemas[two], WriterSchema)
    assert [path.partition("?")[0] for path in registry.asked] == [f"/schemas/ids/{n}" for n in (one, two)]


def test_what_a_schema_names_is_fetched_too(registry: Registry) -> None:
    registry.add(record("lib.leaf", n="int"), "leaf")
    registry.add(record("lib.branch", leaf="lib.leaf"), "branch", **{"lib.leaf": "leaf"})
    one = registry.add(record(ts="long", b="lib.branch", c="lib.leaf"), "tree", **{"lib.branch": "branch"})
    schemas = schemas_of(registry)
    soon(schemas, one)
    found = schemas[one]
    assert isinstance(found, WriterSchema) and list(found.fields) == ["ts", "b", "c"]


def test_an_id_that_is_not_known_is_asked_for_again_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_registry, "UNKNOWN_SECONDS", 2.0)
    schemas = schemas_of(registry)
    soon(schemas, 1)
    assert schemas[1] == "the schema registry does not know the schema id 1"
    asked = len(registry.asked)
    assert schemas.ready([1]) and len(registry.asked) == asked
    registry.add(PLAIN)
    deadline = time.monotonic() + 30
    while not (schemas.ready([1]) and isinstance(schemas[1], WriterSchema)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(registry.asked) == asked + 1


def test_schemas_that_no_event_can_be_read_with_say_why(registry: Registry) -> None:
    other = registry.add('syntax = "proto3";', "p", "PROTOBUF")
    text = registry.add('"string"', "t")
    schemas = schemas_of(registry)
    soon(schemas, other, text)
    assert schemas[other] == f"the schema {other} is PROTOBUF, not Avro"
    assert schemas[text] == f"the schema {text} is not that of a record"


def test_a_registry_that_is_gone_is_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "AGAIN_SECONDS", 0.01)
    one, two = registry.add(PLAIN), registry.add(record(ts="int"))
    schemas = schemas_of(registry)
    soon(schemas, one)
    registry.stop()
    assert waits(schemas, one, two).startswith(f"the schema registry {registry.url} does not answer (")
    assert schemas.ready([one]), "what is known needs no registry"
    registry.start()
    registry.status = 503
    deadline = time.monotonic() + 30
    while "HTTP status code 503" not in str(schemas.waiting):
        assert not schemas.ready([two]) and time.monotonic() < deadline
        time.sleep(0.005)
    registry.status = 0
    soon(schemas, two)
    assert schemas.waiting is None


@pytest.mark.parametrize("wrong", ["password", "url"])
def test_what_waiting_does_not_mend_ends_the_job_without_a_secret(wrong: str) -> None:
    """A page that is not there is not a schema that is not there: a wrong URL must not make dead letters."""
    registry = Registry("me:other" if wrong == "password" else "").start()
    registry.add(PLAIN)
    more = {"url": registry.url + ("" if wrong == "password" else "/elsewhere")}
    try:
        schemas = schemas_of(registry, **{"basic.auth.user.info": f"me:{SECRET}", **more})
        with pytest.raises(SourceError, match="does not give the schema 1") as caught:
            soon(schemas, 1)
        assert ("401" if wrong == "password" else "404") in str(caught.value)
        assert SECRET not in str(caught.value)
    finally:
        registry.stop()


def test_the_credentials_of_the_settings_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(f"me:{SECRET}").start()
    one = registry.add(PLAIN)
    monkeypatch.setenv("REGISTRY", f"me:{SECRET}")
    file = tmp_path / "settings.yaml"
    file.write_text(f"schema_registry:\n  url: {registry.url}\n  basic.auth.user.info: {{env: REGISTRY}}\n")
    try:
        schemas = open_schemas([replace(stream_of({}), format="avro")], file)
        assert schemas is not None
        soon(schemas, one)
        assert SECRET not in repr(registry_settings(file))
    finally:
        registry.stop()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kafka: {}", "name it in --settings FILE"),
        ("schema_registry: {}", "name it in --settings FILE"),
        ("schema_registry: {url: localhost:8081}", "name it in --settings FILE"),
        (f"schema_registry: {{url: 'http://me:{SECRET}@h:1'}}", "use basic.auth.user.info"),
        (f"schema_registry: {{url: 'http://h:1', basic.auth.user.info: {SECRET}}}", "can't be used"),
        (f"schema_registry: {{url: 'http://h:1', no.such.property: {SECRET}}}", "no.such.property"),
        ("schema_registry: {url: 'http://h:1', timeout: soon}", "can't be used"),
        ("schema_registry: {url: 'http://h:1', max.retries: 9}", "leave max.retries out"),
        (f"registry: {{url: {SECRET}}}", "under their keys"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said_without_a_value(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    avro: Any = replace(stream_of({}), format="avro")
    with pytest.raises(UsageError) as caught:
        check_settings(file, [avro], "archive:x")
    assert told in str(caught.value) and SECRET not in str(caught.value)


def test_settings_are_for_a_cluster_or_a_registry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="events in Avro need a schema registry"):
        check_settings(None, [replace(stream_of({}), format="avro")], "kafka://h:1")
    with pytest.raises(UsageError, match="leave it out"):
        check_settings(tmp_path / "x", [stream_of({})], "archive:x")
    check_settings(None, [stream_of({})], "archive:x")
