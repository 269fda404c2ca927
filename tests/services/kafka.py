"""A real Apache Kafka for tests: one KRaft node as broker and controller on free ports, its data in a folder.

Clients come in at `address` (no encryption), or at `secure_address` (TLS with SASL PLAIN, see `USER`), or
at `token_address` (SASL OAUTHBEARER, tokens that nobody has signed).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

HERE = Path(__file__).resolve().parent
COMMAND = "tests/services/kafka.sh"  # provides the jars
START_SECONDS = 120.0
USER, PASSWORD = "lookback", "not-for-logs"


@dataclass(frozen=True)
class Sent:
    """One message to produce; time None: now."""

    value: bytes | None
    time_ms: int | None = None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def jars() -> Path | None:
    """Return the folder of Kafka's jars; None where they, or a JVM, are not there."""
    if shutil.which("java") is None:
        return None
    found = subprocess.run([HERE / "kafka.sh", "--there"], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()) / "libs" if found.returncode == 0 else None


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Broker:
    """One broker; `start` and `stop` may be called again and again, the data stays."""

    replicas = 1  # of the topics it makes
    heap = "512m"

    def __init__(self, folder: Path, libs: Path) -> None:
        self.folder = folder
        self._libs = libs
        self.environment: Mapping[str, str] = {}  # of the broker's next start, beside this process's own
        self._port, self._controller, self._secure, self._tokens = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"
        self.secure_address = f"127.0.0.1:{self._secure}"
        self.token_address = f"127.0.0.1:{self._tokens}"
        folder.mkdir(parents=True)
        self._certificate()
        (folder / "server.properties").write_text(self._properties())
        cluster = self.tool("kafka.tools.StorageTool", "random-uuid").strip()
        self.tool("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(folder / "server.properties"))

    @property
    def pid(self) -> int:
        """Return the broker's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def certificate(self) -> Path:
        """Return the file of the broker's certificate, which signs itself."""
        return self.folder / "broker.pem"

    def _certificate(self) -> None:
        store = ["-keystore", str(self.folder / "broker.p12"), "-storepass", "changeit", "-alias", "broker"]
        make = ["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-validity", "3650"]
        name = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1"]
        subprocess.run(["keytool", *make, *name, *store], check=True, capture_output=True)
        export = ["keytool", "-exportcert", "-rfc", "-file", str(self.certificate), *store]
        subprocess.run(export, check=True, capture_output=True)

    def _properties(self) -> str:
        security = "org.apache.kafka.common.security"
        login = f"{security}.plain.PlainLoginModule required"
        token = f"{security}.oauthbearer.OAuthBearerLoginModule required"
        secure, tokens = "listener.name.sasl_ssl", "listener.name.sasl_plaintext"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{self._controller},"
            f"SASL_SSL://{self.secure_address},SASL_PLAINTEXT://{self.token_address}",
            "advertised.listeners": f"PLAINTEXT://{self.address},SASL_SSL://{self.secure_address},"
            f"SASL_PLAINTEXT://{self.token_address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            f"{secure}.sasl.enabled.mechanisms": "PLAIN",
            f"{tokens}.sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{tokens}.oauthbearer.sasl.jaas.config": f'{token} unsecuredLoginStringClaim_sub="broker";',
            f"{secure}.plain.sasl.jaas.config": f'{login} user_{USER}="{PASSWORD}";',
            "ssl.keystore.location": str(self.folder / "broker.p12"),
            "ssl.keystore.password": "changeit",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "file.delete.delay.ms": "1000",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def tool(self, main: str, *arguments: str) -> str:
        """Run one of Kafka's own tools; return what it prints. Raises with its error output where it fails."""
        words = ["java", "-Xmx256m", "-cp", f"{self._libs}/*", main, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{main}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Start it."""
        assert self._process is None
        words = ["java", f"-Xmx{self.heap}", "-cp", f"{self._libs}/*", "kafka.Kafka"]
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*words, str(self.folder / "server.properties")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **self.environment},
            )  # fmt: skip

    def ready(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        admin, deadline = self.admin(), time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if admin.list_topics(timeout=2).brokers:
                    return
            except KafkaException:
                continue
        raise AssertionError(f"the broker did not start: {(self.folder / 'broker.log').read_text()[-2000:]}")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the broker's process, which was started."""
        assert self._process is not None
        return self._process

    def restart(self) -> None:
        """Start it again after its end, which is waited for."""
        self.process.wait(START_SECONDS)
        self._process = None
        self.start()

    def stop(self) -> None:
        """End it, if it runs, as SIGTERM does; by force where that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Kill it by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def admin(self) -> AdminClient:
        """Return a new admin client (keep it while its futures are open), silent about lost connections."""
        refresh = {"topic.metadata.refresh.interval.ms": 1000}  # soon known: another controller
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0, **refresh})

    def create(self, topic: str, partitions: int = 1, **config: str | int) -> None:
        """Create a topic; `config` with `_` for `.`; nothing expires unless it says so."""
        wanted = {"retention.ms": "-1", **{name.replace("_", "."): str(v) for name, v in config.items()}}
        new = NewTopic(topic, num_partitions=partitions, replication_factor=self.replicas, config=wanted)
        admin = self.admin()
        admin.create_topics([new])[topic].result(30)
        self._wait(topic, partitions)

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        admin = self.admin()
        admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)
        self._wait(topic, partitions)

    def _wait(self, topic: str, partitions: int) -> None:
        admin, deadline = self.admin(), time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(KafkaException):
                found = admin.describe_topics(TopicCollection([topic]))[topic].result(10)
                if len(found.partitions) == partitions and all(p.leader for p in found.partitions):
                    return
        raise AssertionError(f"topic {topic} has not its {partitions} partitions")

    def delete(self, topic: str) -> None:
        """Delete a topic and wait until it is gone."""
        admin, deadline = self.admin(), time.monotonic() + START_SECONDS
        admin.delete_topics([topic])[topic].result(30)
        while topic in admin.list_topics(timeout=10).topics:
            assert time.monotonic() < deadline, f"topic {topic} is still there"

    def produce(
        self,
        topic: str,
        partitions: Mapping[int, Iterable[Sent]],
        config: Mapping[str, str | int] | None = None,
    ) -> None:
        """Append messages to partitions, in order, and wait until all are there."""
        producer = Producer(
            {"bootstrap.servers": self.address, "linger.ms": 5, "acks": "all", **(config or {})}
        )
        failed: list[object] = []
        for partition, messages in partitions.items():
            for one in messages:
                put(producer, topic, partition, one, failed)
        assert producer.flush(60) == 0 and not failed, failed[:3]


def put(producer: Producer, topic: str, partition: int, one: Sent, failed: list[object]) -> None:
    """Hand one message to a producer, waiting while its queue is full; what can't be sent goes to `failed`."""
    while True:
        try:
            producer.produce(
                topic,
                one.value,
                key=one.key,
                partition=partition,
                timestamp=one.time_ms or 0,
                headers=list(one.headers),
                on_delivery=lambda error, _: failed.append(error) if error is not None else None,
            )
            return
        except BufferError:
            producer.poll(0.5)


def jars_or_skip() -> Path:
    """Return the folder of Kafka's jars; skips where tests can't have a broker."""
    reason = skip_reason()
    if reason is not None:
        pytest.skip(reason)
    libs = jars()
    assert libs is not None
    return libs


def skip_reason() -> str | None:
    """Return why tests can't have a broker; None where they can."""
    if shutil.which("java") is None or shutil.which("keytool") is None:
        return f"no JDK: install a JDK 17 and Maven, then run {COMMAND}"
    return (
        None
        if jars()
        else f"no Kafka in {os.environ.get('XDG_CACHE_HOME', '~/.cache')}/lookback: run {COMMAND}"
    )
