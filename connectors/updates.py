"""Feature updates as columns: what the change log's outbox keeps, and the messages made of it.

    entry   := size:u32be header array*           of a commit: one view after the other
    header  := JSON [{fingerprint, keys, texts, outputs}]
    array   := event_time_ms as_of_ms sequence words status, of each view, little-endian

Owns: these bytes and the messages' JSON (docs/change-log.md). Refuses: sending; how a value is computed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lookback.definition import View
from lookback.stores.base import I64, U8, ViewWrite
from lookback.windows.log import Values
from lookback.windows.plan import Status
from lookback.windows.results import to_arrow
from lookback.windows.text_words import text_words

_SIZE = struct.Struct(">I")


@dataclass(frozen=True)
class Updates:
    """n updates of one view. words, status: as in `ViewWrite`; text words index `texts`."""

    fingerprint: str
    keys: list[str]
    event_time_ms: I64
    as_of_ms: I64
    sequence: I64
    words: I64
    status: U8
    texts: list[str]

    @staticmethod
    def of(write: ViewWrite, which: npt.NDArray[np.bool_] | None = None) -> Updates:
        """Return what a write says of its entities, or of some of them."""
        sequence = np.full(len(write.keys), write.sequence, np.int64)
        if which is None:
            return Updates(
                write.fingerprint, list(write.keys), write.event_time_ms, write.as_of_ms, sequence,
                write.words, write.status, list(write.texts),
            )  # fmt: skip
        keys = [write.keys[i] for i in np.flatnonzero(which).tolist()]
        return Updates(
            write.fingerprint, keys, write.event_time_ms[which], write.as_of_ms[which], sequence[which],
            write.words[:, which], write.status[:, which], list(write.texts),
        )  # fmt: skip


def join(updates: Sequence[Updates], text_outputs: Sequence[int]) -> Updates:
    """Return the updates of one view, one after the other. text_outputs: which words are text ids."""
    if len(updates) == 1:
        return updates[0]
    words = np.concatenate([one.words for one in updates], axis=1)
    texts = [text for one in updates for text in one.texts]
    if text_outputs:
        shift = np.repeat(
            np.cumsum([0, *(len(one.texts) for one in updates[:-1])]), [len(one.keys) for one in updates]
        )
        words[list(text_outputs)] += shift
    return Updates(
        updates[0].fingerprint,
        [key for one in updates for key in one.keys],
        np.concatenate([one.event_time_ms for one in updates]),
        np.concatenate([one.as_of_ms for one in updates]),
        np.concatenate([one.sequence for one in updates]),
        words,
        np.concatenate([one.status for one in updates], axis=1),
        texts,
    )


def to_entry(updates: Sequence[Updates]) -> bytes:
    """Return a commit's updates as an outbox keeps them."""
    header = [
        {"fingerprint": one.fingerprint, "keys": one.keys, "texts": one.texts, "outputs": len(one.words)}
        for one in updates
    ]
    head = json.dumps(header, separators=(",", ":")).encode()  # as ASCII: texts may hold lone surrogates
    arrays = [
        array.tobytes()
        for one in updates
        for array in (one.event_time_ms, one.as_of_ms, one.sequence, one.words, one.status)
    ]
    return b"".join([_SIZE.pack(len(head)), head, *arrays])


def from_entry(entry: bytes) -> list[Updates]:
    """Return what `to_entry` was given."""
    (size,) = _SIZE.unpack_from(entry)
    at = _SIZE.size + size
    found: list[Updates] = []
    for part in json.loads(entry[_SIZE.size : at]):
        n, outputs = len(part["keys"]), part["outputs"]
        longs = np.frombuffer(entry, "<i8", (3 + outputs) * n, at)
        at += longs.nbytes
        status = np.frombuffer(entry, np.uint8, outputs * n, at).reshape(outputs, n)
        at += status.nbytes
        event_time_ms, as_of_ms, sequence = longs[: 3 * n].reshape(3, n)
        words = longs[3 * n :].reshape(outputs, n)
        times = event_time_ms, as_of_ms, sequence
        found.append(Updates(part["fingerprint"], part["keys"], *times, words, status, part["texts"]))
    return found


class ViewMessages:
    """How one view's updates become messages."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.text_outputs = text_words(view.plan).outputs
        self._key_head = f"{view.name}:{view.short_fingerprint}:"
        about = json.dumps({"view": view.name, "fingerprint": view.fingerprint}, separators=(",", ":"))
        self._about = f'",{about[1:-1]},"entity":{{'

    def messages(self, updates: Updates, ids: Sequence[str]) -> tuple[list[bytes], list[bytes]]:
        """Return the messages' keys and values. ids: of each update, never that of another."""
        plan = self._view.plan
        columns = to_arrow(plan, Values(updates.words, updates.status), updates.texts)
        pieces: list[pa.Array | str] = ['{"id":"', pa.array(ids, pa.string()), self._about]
        pieces += [_joined_entities(self._view, updates.keys), '},"event_time_ms":']
        for times, after in (
            (updates.event_time_ms, ',"as_of_ms":'),
            (updates.as_of_ms, ',"sequence":'),
            (updates.sequence, ',"values":{'),
        ):
            pieces += [pa.array(times).cast(pa.string()), after]
        for at, (feature, column) in enumerate(zip(plan.features, columns, strict=True)):
            pieces += [f"{',' if at else ''}{json.dumps(feature.name)}:", json_texts(column)]
        pieces += ["}", _overflows(self._view, updates), "}"]
        values = pc.binary_join_element_wise(*pieces, "").cast(pa.binary()).to_pylist()
        return [(self._key_head + key).encode("utf-8", "surrogatepass") for key in updates.keys], values


def json_texts(values: pa.Array) -> pa.StringArray:
    r"""Return each value as JSON: decimals as strings, null for null and for what JSON has no number for.

    >>> json_texts(pa.array(["a", None, 'b"'])).to_pylist()
    ['"a"', 'null', '"b\\""']
    """
    kind = values.type
    if pa.types.is_list(kind):
        lists = pa.ListArray.from_arrays(values.offsets, json_texts(values.values))
        texts = pc.binary_join_element_wise("[", pc.binary_join(lists, ","), "]", "")
        texts = pc.if_else(values.is_valid(), texts, None)
    elif pa.types.is_decimal(kind):
        texts = pc.binary_join_element_wise('"', values.cast(pa.string()), '"', "")
    elif pa.types.is_string(kind):
        coded = values.dictionary_encode()
        texts = pa.array([_quoted(text) for text in coded.dictionary.to_pylist()], pa.string()).take(
            coded.indices
        )
    elif pa.types.is_floating(kind):
        texts = pc.if_else(pc.is_finite(values), values, None).cast(pa.string())
    else:
        texts = values.cast(pa.string())
    return pc.fill_null(texts, "null")


def _quoted(text: str) -> str:
    try:
        return orjson.dumps(text).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, which only an escape can stand for
        return json.dumps(text)


def _joined_entities(view: View, keys: Sequence[str]) -> pa.Array:
    """Return the members of each entity's JSON object."""
    names = [f"{json.dumps(name)}:" for name in view.key_names]
    if len(names) == 1:
        columns = [list(keys)]
    else:
        split = [view.key_parts(key).values() for key in keys]
        columns = [[str(part) for part in column] for column in zip(*split, strict=True)]
    pieces: list[pa.Array | str] = []
    for at, (name, column, kind) in enumerate(zip(names, columns, view.key_types, strict=True)):
        texts = column if kind.kind == "int64" else [_quoted(text) for text in column]
        pieces += [f",{name}" if at else name, pa.array(texts, pa.string())]
    return pc.binary_join_element_wise(*pieces, "")


def _overflows(view: View, updates: Updates) -> pa.Array | str:
    """Return a member that names the features which overflowed, empty where none did."""
    heads = list(view.plan.out_starts[:-1])
    over = updates.status[heads] == Status.OVERFLOW
    if not over.any():
        return ""
    names = [feature.name for feature in view.plan.features]
    said: Mapping[int, str] = {
        i: ',"overflow":' + json.dumps([names[f] for f in np.flatnonzero(over[:, i]).tolist()])
        for i in np.flatnonzero(over.any(axis=0)).tolist()
    }
    return pa.array([said.get(i, "") for i in range(len(updates.keys))], pa.string())
