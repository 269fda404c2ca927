"""The compose file: what it holds is allowed, what it names is there, and its services do what they are for.

There is no Docker here: the services' own commands, environments and health checks run as local processes. Names and
ports of the services become free ports of 127.0.0.1, folders that are mounted the folders they are mounted from. Kafka
is configured by the program that its image begins with; Valkey and Prometheus are those that the tests have.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from confluent_kafka import Consumer, TopicPartition

from lookback import Client
from tests.services.endpoint import Endpoint, until
from tests.services.kafka import free_ports, jars_or_skip
from tests.services.valkey import binary

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "compose.yaml"
HOUR_MS = 3_600_000


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return found


def test_the_file_is_one() -> None:
    file = PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(FILE.read_text())))
    file.validate()
    assert file.to_spec().services is not None
    assert set(file.service_names()) == {"kafka", "valkey", "topic", "job", "producer", "prometheus"}


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("job", "depends_on", {"kafka": {"condition": "sometimes"}}),
        ("job", "stop_grace_period", "soon"),
        ("kafka", "ports", ["one:two"]),
    ],
)
def test_a_planted_fault_is_found(service: str, key: str, value: object) -> None:
    told = yaml.safe_load(FILE.read_text())
    told["services"][service][key] = value
    with pytest.raises((ValueError, RuntimeError)):
        PyCompose.from_yaml(yaml.safe_dump(told)).validate()


def test_what_it_names_is_there() -> None:
    told, named = services(), yaml.safe_load(FILE.read_text())["volumes"]
    for name, service in told.items():
        image, _, tag = service["image"].rpartition(":")
        assert image and tag[-1].isdigit() and "." not in image, name  # a version, no registry's host
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert source in named or (FILE.parent / source).is_dir(), volume
            assert target.startswith("/")
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in told[other]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if image == "lookback":
            assert service["build"] == {"context": ".."} and tag == "0.1.0"
    assert (ROOT / "Dockerfile").exists()


class Local:
    """The services of the file as processes here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kafka, controller, host, valkey, metrics, prometheus = free_ports(6)
        self.kafka, self.valkey = f"127.0.0.1:{kafka}", f"127.0.0.1:{valkey}"
        self.metrics, self.prometheus = f"127.0.0.1:{metrics}", f"127.0.0.1:{prometheus}"
        self._names = {
            "kafka:9092": self.kafka, "kafka/9092": f"127.0.0.1/{kafka}", "kafka:9093": f"127.0.0.1:{controller}",
            "0.0.0.0:29092": f"127.0.0.1:{host}", "127.0.0.1:29092": f"127.0.0.1:{host}",
            "valkey:6379": self.valkey, "job:9464": self.metrics, "0.0.0.0:9464": self.metrics,
            "127.0.0.1:9464": self.metrics,
        }  # fmt: skip
        # Folders of the containers: named volumes, then those that are mounted from the project.
        self._folders = {
            "/var/lib/kafka/data": folder / "kafka", "/var/lib/lookback": folder / "job",
            "/etc/prometheus": folder / "etc-prometheus", "/prometheus": folder / "prometheus",
            "/features": ROOT / "features", "/demo": ROOT,
        }  # fmt: skip
        (folder / "job").mkdir()
        shutil.copytree(ROOT / "examples" / "prometheus", folder / "etc-prometheus")
        scraped = folder / "etc-prometheus" / "prometheus.yaml"
        scraped.write_text(self.here(scraped.read_text()))

    def here(self, text: str) -> str:
        """Return a text with what is here for what is there."""
        for name, address in self._names.items():
            text = text.replace(name, address)
        for there, folder in self._folders.items():  # as a path, or behind an option's `=`
            if text.startswith(there) or f"={there}" in text:
                return text.replace(there, str(folder), 1)
        return text

    def words(self, name: str) -> list[str]:
        """Return a service's entry point and command."""
        service = services()[name]
        entry = service.get("entrypoint", ["lookback"] if service["image"].startswith("lookback:") else [])
        return [self.here(word) for word in (*entry, *service.get("command", []))]

    @contextmanager
    def running(
        self, name: str, *more: str, environment: Mapping[str, str] | None = None, words: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a service while the block lasts; what it says is in the file NAME.log."""
        command = [*(words or self.words(name)), *more]
        programs = {
            "lookback": Path(sys.executable).with_name("lookback"), "python": sys.executable,
            "valkey-server": binary("valkey-server"), "prometheus": shutil.which("prometheus"),
        }  # fmt: skip
        command[0] = str(programs.get(command[0], command[0]))
        cwd = self.here(services()[name].get("working_dir", str(self.folder)))
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if name == "producer" else log,
                stderr=log, text=True, cwd=cwd, env=environment,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def healthy(self, name: str, *more: str) -> None:
        """Wait until a service's health check passes."""
        mark, *words = services()[name]["healthcheck"]["test"]
        assert mark == "CMD"
        programs = {"valkey-cli": str(binary("valkey-cli")), "python": sys.executable}
        command = [programs.get(words[0], words[0]), *more, *(self.here(word) for word in words[1:])]
        until(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0)

    @contextmanager
    def broker(self) -> Iterator[subprocess.Popen[str]]:
        """Run Kafka as its image does: its own program makes the settings of the environment, and the data folder."""
        java = ["java", "-Xmx512m", "-cp", f"{jars_or_skip()}/*"]
        environment = {name: self.here(value) for name, value in services()["kafka"]["environment"].items()}
        folders = [self.folder / f"config-{name}" for name in ("default", "mounted", "final")]
        for folder in folders:
            folder.mkdir()
        (folders[0] / "server.properties").touch()
        options = ("--default-configs-dir", "--mounted-configs-dir", "--final-configs-dir")
        setup = [word for pair in zip(options, map(str, folders), strict=True) for word in pair]
        done = subprocess.run(
            [*java, "kafka.docker.KafkaDockerWrapper", "setup", *setup],
            env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        words = [*java, "kafka.Kafka", str(folders[2] / "server.properties")]
        with self.running("kafka", words=words) as process:
            yield process


def events_of(address: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield partition, offset and value of all payments on the topic."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "enable.auto.commit": False})
    parts = [TopicPartition("transactions", p, 0) for p in range(4)]
    ends = {part.partition: consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts}
    consumer.assign(parts)
    while any(ends.values()):
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        if message.offset() + 1 == ends[message.partition()]:
            ends[message.partition()] = 0
        yield message.partition(), message.offset(), message.value()
    consumer.close()


def check_values(local: Local, letters: set[tuple[int, int]]) -> None:
    """Compare what the store says of every card with what its payments on the topic say in plain Python."""
    payments = [
        json.loads(value, parse_float=Decimal)
        for partition, offset, value in events_of(local.kafka)
        if (partition, offset) not in letters
    ]
    at = max(payment["ts"] for payment in payments) + 1
    cards = sorted({payment["card"] for payment in payments})
    assert len(cards) > 100
    features = ["card_activity.tx_count_1h", "card_activity.amount_sum_1h", "card_activity.merchants_1d"]
    with Client(ROOT / "features" / "fraud.yaml", f"redis://{local.valkey}") as client:
        for card in cards:
            own = [one for one in payments if one["card"] == card]
            hour = [one["amount"] for one in own if one["ts"] > at - HOUR_MS]
            read = client.get({"card": card}, features=features, at=at)
            assert list(read.values.values()) == [len(hour), sum(hour), len({one["merchant"] for one in own})]


@pytest.fixture
def local(tmp_path: Path) -> Local:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus; install it with: apt install prometheus (Debian)")
    jars_or_skip()
    return Local(tmp_path)


def sent_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a producer says that it sent, once it has ended."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(out)
    return told


def test_the_services_do_what_they_are_for(local: Local) -> None:
    with ExitStack() as stack:
        stack.enter_context(local.broker())
        valkey = ("--port", local.valkey.split(":")[1], "--bind", "127.0.0.1")
        stack.enter_context(local.running("valkey", *valkey))
        local.healthy("kafka")
        local.healthy("valkey", "-p", local.valkey.split(":")[1])
        with local.running("topic") as topic:
            assert topic.wait(60) == 0, (local.folder / "topic.log").read_text()
        job = stack.enter_context(local.running("job"))
        prometheus = ["prometheus", *local.words("prometheus"), f"--web.listen-address={local.prometheus}"]
        stack.enter_context(local.running("prometheus", words=prometheus))
        # As the file has it, and stopped as compose stops it; then more of everything.
        producer = stack.enter_context(local.running("producer"))
        local.healthy("job")
        endpoint = Endpoint(f"http://{local.metrics}")
        until(lambda: total(endpoint, "lookback_partition_events") > 0)
        producer.send_signal(signal.SIGTERM)
        sent = sent_by(producer)
        assert sent["sent"] == sent["good"] + sent["late"] + sent["broken"] > 0
        many = ("--events", "3000", "--rate", "100000", "--late", "0.03", "--broken", "0.02", "--seed", "8")
        more = sent_by(stack.enter_context(local.running("producer", *many)))
        assert more["sent"] == 3000 and more["late"] > 50 and more["broken"] > 30
        bad = {kind: sent[kind] + more[kind] for kind in ("late", "broken")}
        until(lambda: total(endpoint, "lookback_partition_events") == sent["sent"] + more["sent"])
        until(lambda: endpoint.get("/readyz")[0] == 200)
        check_prometheus(local, sum(bad.values()))
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, (local.folder / "job.log").read_text()
        check_letters(local, bad)


def total(endpoint: Endpoint, name: str) -> float:
    """Return a counter of the job, summed."""
    return sum(value for found, _, value in endpoint.samples() if found == f"{name}_total")


def check_prometheus(local: Local, refused: int) -> None:
    """Look for the job's counters and alert rules in Prometheus."""

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://{local.prometheus}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def counted() -> bool:
        found = ask("query?query=sum(lookback_partition_quarantined_total)")["result"]
        return bool(found) and float(found[0]["value"][1]) == refused

    until(counted)
    rules = [rule["name"] for group in ask("rules")["groups"] for rule in group["rules"]]
    assert "LookbackDown" in rules and len(rules) > 5
    [target] = ask("targets")["activeTargets"]
    assert target["health"] == "up" and target["labels"]["job"] == "lookback"


def check_letters(local: Local, bad: Mapping[str, int]) -> None:
    """Compare the dead letters with what the producers sent, and the values with the rest."""
    words = ["dead-letters", "list", "--limit", "1000000", "--json"]
    where = local.folder / "job" / "state" / "dead-letters"
    lookback = Path(sys.executable).with_name("lookback")
    lines = subprocess.check_output([lookback, *words, "--dead-letters", where], text=True).splitlines()
    letters = [letter for letter in map(json.loads, lines) if "offset" in letter]
    reasons = [letter["reason"] for letter in letters]
    assert reasons.count("late") == bad["late"]
    assert reasons.count("parse") + reasons.count("schema") == bad["broken"] == len(reasons) - bad["late"]
    check_values(local, {(letter["partition"], letter["offset"]) for letter in letters})
