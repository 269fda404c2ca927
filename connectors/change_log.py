"""The change log: a Kafka topic that takes updates in transactions, each of them once.

Owns: who may send, what the topic's tail says was sent, and sending. Refuses: what is still to be sent (`state.outbox`)
and what a message says (`updates`), but for its id, which begins every message:

    {"id":"OUTBOX-NUMBER-N",…      the N-th update of an outbox's entry

Entries of one outbox are sent in the order of their numbers, whole, each in one transaction: so the newest number of it
among the committed messages tells which the topic has. That is sure only once whoever sent last can send no more:
`fence` ends a transaction that it left open, or finishes one that it had asked to be committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka_reader import consumer_properties
from connectors.kafka_settings import KafkaSettings, producer_properties
from connectors.online import Waiting, patiently
from lookback.errors import StoreBusy, StoreError

ASK_SECONDS = 15.0  # for one answer; then the person is told, and it is asked again
TRANSACTION_MS = 300_000  # a broker away for longer ends a transaction, and the job with it
PIECE = 10_000  # messages handed over together
QUEUE = 200_000  # messages that may wait in the client
HEAD = b'{"id":"'

Ends = Mapping[int, int]  # by partition: an offset


class Aborted(Exception):
    """A transaction can't be committed; nothing of it is read by anyone, and it may be sent again."""


class LogTopic:
    """The topic, for one sender at a time of its outboxes. `open` first; one thread at a time."""

    def __init__(self, settings: KafkaSettings, topic: str, sender: str, step: Callable[[str], None]) -> None:
        """Take what is needed. sender: the transactional id, that of no other living process."""
        self.where = f"kafka://{settings.properties['bootstrap.servers']}/{topic}"
        self.sender = sender
        self._settings = settings
        self._topic = topic
        self._step = step
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None

    def open(self) -> None:
        """Become the sender. Raises StoreBusy where the brokers don't answer: it may be called again."""
        if self._producer is None:
            with self._brokers():
                producer = self._producer_of(self.sender)
                producer.init_transactions(ASK_SECONDS)
                self._producer = producer

    def fence(self, sender: str) -> None:
        """Return once another sender can send nothing more, and what it sent is read, or never will be."""
        with self._brokers():
            producer = self._producer_of(sender)
            try:
                producer.init_transactions(ASK_SECONDS)
            finally:
                with suppress(KafkaException):
                    producer.close()

    def _producer_of(self, sender: str) -> Producer:
        return Producer(
            {
                **producer_properties(self._settings),
                "transactional.id": sender,
                "transaction.timeout.ms": TRANSACTION_MS,
                "message.timeout.ms": TRANSACTION_MS,
                "partitioner": "murmur2_random",  # as clients in other languages choose a key's partition
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.messages": QUEUE,
            }
        )

    # --- what is there -----------------------------------------------------------------------------------

    def ends(self) -> dict[int, int]:
        """Return where each partition ends, open transactions included."""
        with self._brokers():
            if self._admin is None:
                self._admin = AdminClient({"log_level": 0, **self._settings.no_consumer})
            found = self._admin.list_topics(self._topic, timeout=ASK_SECONDS).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
            asked = {TopicPartition(self._topic, number): OffsetSpec.latest() for number in found.partitions}
            answers = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ASK_SECONDS
            )
            return {place.partition: future.result(ASK_SECONDS).offset for place, future in answers.items()}

    def newest(self, starts: Ends) -> dict[str, int]:
        """Return the newest number of each outbox among the committed messages from `starts` on.

        A partition that isn't named, or that ends before its start (the topic was made again), is read whole. Waits for
        transactions of others that are open before the end.
        """
        ends = self.ends()
        begin = {number: starts.get(number, 0) for number in ends}
        begin = {number: at if at <= ends[number] else 0 for number, at in begin.items()}
        left = {number for number, at in begin.items() if at < ends[number]}
        found: dict[str, int] = {}
        if left:
            with self._brokers(), self._tail({number: begin[number] for number in left}) as messages:
                for message in messages:
                    error = message.error()
                    if error is None:
                        _note(found, message.value() or b"")
                    elif error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    elif (message.offset() or 0) >= ends[message.partition() or 0]:
                        left.discard(message.partition() or 0)
                        if not left:
                            break
        return found

    @contextmanager
    def _tail(self, begin: Ends) -> Iterator[Iterator[Message]]:
        properties: dict[str, Any] = {
            **consumer_properties(self._settings, "lookback.change-log", len(begin)),
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",  # what has been deleted was sent long ago
        }
        consumer = Consumer(properties)
        try:
            consumer.assign([TopicPartition(self._topic, number, at) for number, at in begin.items()])
            yield self._messages(consumer)
        finally:
            consumer.close()

    def _messages(self, consumer: Consumer) -> Iterator[Message]:
        deadline = time.monotonic() + ASK_SECONDS
        while True:
            messages = consumer.consume(PIECE, 0.1)
            if messages:
                deadline = time.monotonic() + ASK_SECONDS
            elif time.monotonic() > deadline:
                raise StoreBusy(
                    f"the change log {self.where} is not read to its end: a transaction on it is open"
                )
            yield from messages

    # --- sending -----------------------------------------------------------------------------------------

    def send(self, keys: Sequence[bytes], values: Sequence[bytes], waiting: Waiting) -> None:
        """Send messages in one transaction, and return once it is committed.

        waiting: told why brokers are waited for; raises to give up: the messages may be there then, or not.
        Raises StoreError where another sender has fenced this one, or the brokers gave the transaction up.
        """
        while True:
            try:
                patiently(self._begin, waiting)
                self._hand_over(keys, values, waiting)
                self._step("l-sent")
                patiently(self._commit, waiting)
                return
            except Aborted as aborted:
                waiting(str(aborted))
                patiently(self._abort, waiting)

    @property
    def _own(self) -> Producer:
        assert self._producer is not None
        return self._producer

    def _begin(self) -> None:
        with self._brokers():
            self._own.begin_transaction()

    def _hand_over(self, keys: Sequence[bytes], values: Sequence[bytes], waiting: Waiting) -> None:
        at = 0
        while at < len(keys):
            piece = [
                {"key": k, "value": v}
                for k, v in zip(keys[at : at + PIECE], values[at : at + PIECE], strict=True)
            ]
            with self._brokers():
                taken = self._own.produce_batch(self._topic, piece)
            at += taken
            if taken < len(piece):  # the client's queue is full
                self._refused(piece[taken])
                self._flushed(0.05)
        while not self._flushed(1.0):
            waiting(f"the change log {self.where} takes no updates: its brokers do not acknowledge them")
        waiting(None)

    def _flushed(self, seconds: float) -> bool:
        """Wait for so long; return whether the brokers have acknowledged everything."""
        with self._brokers():
            left: int = self._own.flush(seconds)
            return left == 0

    def _refused(self, message: Mapping[str, Any]) -> None:
        """Raise unless a message was only refused for want of room in the queue."""
        error = message.get("_error")
        if isinstance(error, KafkaError) and error.code() != KafkaError._QUEUE_FULL:
            with self._brokers():
                raise KafkaException(error)

    def _commit(self) -> None:
        with self._brokers():
            self._own.commit_transaction(ASK_SECONDS)

    def _abort(self) -> None:
        with self._brokers():
            self._own.abort_transaction(ASK_SECONDS)

    @contextmanager
    def _brokers(self) -> Iterator[None]:
        """Turn a failure into what is to be done about it: wait, send again, or end with words."""
        try:
            yield
        except (KafkaException, TimeoutError) as failure:
            error = failure.args[0] if isinstance(failure, KafkaException) else None
            said = self._settings.harmless(error.str()) if error is not None else "no answer"
            text = f"the change log {self.where} takes no updates: {said}"
            if error is not None and error.txn_requires_abort():
                raise Aborted(text) from None
            if error is None or error.retriable() or error.code() in _AWAY:
                raise StoreBusy(text) from None
            if error.code() in _FENCED:
                text = f"the change log {self.where} has fenced this job: another one has taken over, or the brokers"
                text += f" gave up its transaction after {TRANSACTION_MS // 60_000} min ({said}); start the job again,"
                raise StoreError(f"{text} nothing is lost") from None
            raise StoreError(f"{text}; see to it and start the job again, nothing is lost") from None


_AWAY = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.CONCURRENT_TRANSACTIONS,
}
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}


def _note(found: dict[str, int], value: bytes) -> None:
    """Take the number of a message's outbox into account, if it has one."""
    if not value.startswith(HEAD):
        return
    outbox, _, rest = value[len(HEAD) : value.find(b'"', len(HEAD))].decode("ascii", "replace").partition("-")
    number, _, _ = rest.partition("-")
    if number.isdigit():
        found[outbox] = max(found.get(outbox, 0), int(number))
