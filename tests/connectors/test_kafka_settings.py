"""Addresses and settings of a cluster: what is taken, what is refused, and that no secret is ever said."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.kafka import KafkaSource
from connectors.kafka_settings import KafkaSettings, parse_uri, read_settings
from lookback.errors import UsageError

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("uri", "servers"),
    [
        ("kafka://localhost:9092", "localhost:9092"),
        ("kafka://a.example:9092,b-2.example:19092", "a.example:9092,b-2.example:19092"),
        ("kafka://[::1]:9092", "[::1]:9092"),
    ],
)
def test_an_address_names_brokers(uri: str, servers: str) -> None:
    assert parse_uri(uri) == (servers, "")
    assert parse_uri(uri + "/dead.letters", topic=True) == (servers, "dead.letters")


@pytest.mark.parametrize(
    ("uri", "topic", "told"),
    [
        ("kafka://", False, "write kafka://HOST:PORT"),
        ("kafka://localhost", False, "write kafka://HOST:PORT"),
        ("kafka://a:1,", False, "write kafka://HOST:PORT"),
        ("kafka://a:1/tx", False, "the definition names the topics"),
        ("kafka://a:1", True, "/TOPIC"),
        ("kafka://a:1/t x", True, "no name of a topic"),
        (f"kafka://me:{SECRET}@a:1", False, "--settings FILE"),
    ],
)
def test_another_address_is_refused(uri: str, topic: bool, told: str) -> None:
    with pytest.raises(UsageError, match="kafka://|topic") as caught:
        parse_uri(uri, topic=topic)
    assert told in str(caught.value) and SECRET not in str(caught.value)


def write(path: Path, text: str) -> Path:
    file = path / "kafka.yaml"
    file.write_text(text)
    return file


def test_values_come_from_the_file_the_environment_and_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    (tmp_path / "key").write_text("a private key\n")
    file = write(
        tmp_path,
        "kafka:\n  security.protocol: SASL_SSL\n  sasl.password: {env: KAFKA_PASSWORD}\n"
        f"  ssl.key.pem: {{file: {tmp_path / 'key'}}}\n  socket.keepalive.enable: true\n  fetch.wait.max.ms: 50\n",
    )
    found = read_settings("a:1", file)
    assert found.properties == {
        "bootstrap.servers": "a:1",
        "security.protocol": "SASL_SSL",
        "sasl.password": SECRET,
        "ssl.key.pem": "a private key",
        "socket.keepalive.enable": "true",
        "fetch.wait.max.ms": "50",
    }
    assert found.secrets == {SECRET, "a private key"}
    assert SECRET not in repr(found)
    assert found.harmless(f"bad password {SECRET}!") == "bad password ***!"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"kafka:\n  sasl.password: {SECRET}\n  a: [1", "kafka.yaml:3:8: this is not YAML"),
        (f"kafka: {{sasl.password: {SECRET}\n", "this is not YAML"),
        (f"sasl.password: {SECRET}", "under their keys, `kafka:`"),
        (f"kafka: {SECRET}", "under their keys, `kafka:`"),
        (f"kafka: {{sasl.password: [{SECRET}]}}", "sasl.password: write a text"),
        (f"kafka: {{sasl.password: {{value: {SECRET}}}}}", "sasl.password: write a text"),
        ("kafka: {sasl.password: {env: NOT_THERE}}", "the environment variable NOT_THERE is not set"),
        ("kafka: {sasl.password: {file: /not/there}}", "the file /not/there can't be read"),
        ("kafka: {enable.auto.commit: true}", "leave enable.auto.commit out"),
        ("kafka: {bootstrap.servers: 'x:1'}", "leave bootstrap.servers out"),
    ],
)
def test_what_is_wrong_is_said_without_a_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings("a:1", write(tmp_path, text))
    assert told in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["no.such.property", "security.protocol"])
def test_the_client_refuses_what_it_does_not_know(name: str) -> None:
    settings = KafkaSettings({"bootstrap.servers": "127.0.0.1:1", name: SECRET}, frozenset({SECRET}))
    with pytest.raises(UsageError, match="Kafka settings can't be used") as caught:
        KafkaSource(settings, ["tx"], "g", {}, False, 1).open("tx", 0, 0)
    assert name in str(caught.value) and SECRET not in str(caught.value)
