"""Three small brokers as one Kafka cluster: each is broker and controller, so that one of them may be missing."""

from __future__ import annotations

import time
from pathlib import Path

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import NewTopic, TopicDescription

from tests.services.kafka import START_SECONDS, Broker, free_ports


class Node(Broker):
    """One of the brokers. A killed one is missed after 2 s."""

    heap = "256m"

    def __init__(self, folder: Path, libs: Path, number: int, ports: list[int], voters: list[int]) -> None:
        """Prepare broker `number`; ports and voters are those of all brokers and controllers, by number from 1 on."""
        self.folder = folder
        self.number = number
        self.address = f"127.0.0.1:{ports[number - 1]}"
        self._libs = libs
        self._process = None
        self.environment = {}
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p}" for n, p in enumerate(voters, 1)),
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{voters[number - 1]}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(folder / "data"),
            "default.replication.factor": "3",
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": "3",
            "offsets.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "auto.leader.rebalance.enable": "false",
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
        }
        folder.mkdir(parents=True)
        (folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))

    def format(self, cluster: str) -> None:
        """Prepare the folder of its data."""
        properties = str(self.folder / "server.properties")
        self.tool("kafka.tools.StorageTool", "format", "-t", cluster, "-c", properties)

    @property
    def running(self) -> bool:
        """Return whether it was started and not stopped."""
        return self._process is not None


class Cluster(Broker):
    """Three brokers; topics are kept by all of them, and take writes while two are in step."""

    replicas = 3

    def __init__(self, folder: Path, libs: Path) -> None:
        ports = free_ports(6)
        self.folder, self._libs = folder, libs
        self.nodes = [Node(folder / str(n), libs, n, ports[:3], ports[3:]) for n in (1, 2, 3)]
        self.address = ",".join(node.address for node in self.nodes)
        cluster = self.tool("kafka.tools.StorageTool", "random-uuid").strip()
        for node in self.nodes:
            node.format(cluster)

    def start(self) -> None:
        """Start all that do not run; return once they know one another."""
        for node in self.nodes:
            if not node.running:
                node.launch()
        for node in self.nodes:
            node.ready()
        admin, deadline = self.admin(), time.monotonic() + START_SECONDS
        while len(admin.list_topics(timeout=10).brokers) < len(self.nodes):
            assert time.monotonic() < deadline, "the brokers do not find one another"
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill all: nothing of them is wanted again."""
        for node in self.nodes:
            if node.running:
                node.kill()

    def leader(self, topic: str, partition: int = 0) -> Node:
        """Return the broker that leads a partition, once there is one that runs."""
        while True:
            leader = self._described(topic).partitions[partition].leader
            by_number = {node.number: node for node in self.nodes if node.running}
            if leader is not None and leader.id in by_number:
                return by_number[leader.id]
            time.sleep(0.1)

    def _described(self, topic: str) -> TopicDescription:
        admin, deadline = self.admin(), time.monotonic() + START_SECONDS
        while True:
            try:
                asked = admin.describe_topics(TopicCollection([topic]), request_timeout=5)
                found: TopicDescription = asked[topic].result(10)
                return found
            except (KafkaException, TimeoutError):
                assert time.monotonic() < deadline, f"nobody tells of {topic}"

    def create_on(self, topic: str, brokers: list[list[int]]) -> None:
        """Create a topic whose partitions lie on these brokers each."""
        config = {"retention.ms": "-1", "min.insync.replicas": "1"}
        admin = self.admin()
        new = NewTopic(topic, len(brokers), replica_assignment=brokers, config=config)
        admin.create_topics([new])[topic].result(30)
        self._wait(topic, len(brokers))

    def settle(self, topic: str) -> None:
        """Wait until all replicas of a topic are in step."""
        deadline = time.monotonic() + START_SECONDS
        while any(len(p.isr) < len(p.replicas) for p in self._described(topic).partitions):
            assert time.monotonic() < deadline, f"the replicas of {topic} never came in step"
            time.sleep(0.2)
