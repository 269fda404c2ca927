"""Feature values as the plain text that a Redis hash holds, and back.

Owns: the text of each type (see docs/online-record-redis.md). Refuses: where it lies (`redis_record`).

    int64, times   digits                         decimal   digits with exactly `scale` of them after the point
    float64        the shortest that reads back   bool      true | false
    string         as it is                       list      a JSON array; decimals and strings as JSON strings
    null           empty
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookback.stores import redis_pack as kernel
from lookback.stores.base import I64, U8, ViewWrite
from lookback.stores.texts import encode
from lookback.windows.plan import Feature, Result, Status, ViewPlan
from lookback.windows.results import empty_word

Strings = tuple[npt.NDArray[np.uint8], I64]  # bytes, and n + 1 ends: string i lies between ends i and i + 1


def strings_of(raw: Sequence[bytes]) -> Strings:
    """Return byte strings as one array and their ends."""
    ends = np.zeros(len(raw) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, raw), np.int64, len(raw)), out=ends[1:])
    return np.frombuffer(bytearray().join([*raw, b"\0"]), np.uint8), ends


def text_strings(texts: Sequence[str]) -> Strings:
    """Return texts as UTF-8."""
    joined = "".join(texts)
    if joined.isascii():
        ends = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=ends[1:])
        return np.frombuffer(bytearray(joined.encode() + b"\0"), np.uint8), ends
    return strings_of([encode(text) for text in texts])


class ValueTexts:
    """How one view's values become text and are read back."""

    def __init__(self, plan: ViewPlan) -> None:
        self.plan = plan
        self.spec = np.zeros((len(plan.features), 3), np.int64)
        self._pooled: list[tuple[Feature, int]] = []
        for row, feature, start in zip(self.spec, plan.features, plan.out_starts, strict=False):
            row[:] = self._kind(feature), start, feature.scale if feature.result is Result.DECIMAL else 0
            if row[0] == kernel.POOL:
                row[2] = len(self._pooled)
                self._pooled.append((feature, start))
        self.empties = strings_of([encode(_empty_text(feature)) for feature in plan.features])

    @staticmethod
    def _kind(feature: Feature) -> int:
        if feature.is_list or feature.result is Result.FLOAT:
            return kernel.POOL
        return {
            Result.DECIMAL: kernel.DECIMAL, Result.BOOL: kernel.TRUTH, Result.TEXT: kernel.TEXT,
        }.get(feature.result, kernel.WORD)  # fmt: skip

    def pool(self, write: ViewWrite) -> Strings:
        """Return the texts of the floats and the lists, one feature's n after the other's."""
        columns = [
            _list_texts(feature, write.words[start:], write.status[start], write.texts)
            if feature.is_list
            else pa.array(write.words[start].view(np.float64)).cast(pa.string()).cast(pa.binary())
            for feature, start in self._pooled
        ]
        if not columns or not len(columns[0]):
            return strings_of([])
        whole = pa.concat_arrays(columns)
        _, offsets, data = whole.buffers()
        ends = np.frombuffer(offsets, np.int32)[: len(whole) + 1].astype(np.int64)
        return np.frombuffer(bytearray(data or b"\0"), np.uint8), ends  # writable, as all that kernels take

    def words(self, found: Sequence[bytes | None], states: str, texts: list[str]) -> tuple[I64, U8]:
        """Return the words and status of stored texts, one a feature; text words index `texts`, which grows."""
        size = self.plan.out_starts[-1]
        words, status = np.zeros(size, np.int64), np.zeros(size, np.uint8)
        plan = zip(self.plan.features, self.plan.out_starts, self.plan.out_starts[1:], strict=False)
        for (feature, start, end), raw, state in zip(plan, found, states, strict=True):
            status[start:end] = int(state)
            if int(state) != Status.OK:
                continue
            if raw is None:
                raise ValueError(f"field {feature.name} is missing")
            if not feature.is_list:
                words[start] = _word(feature, raw.decode("utf-8", "surrogatepass"), texts)
                continue
            elements = json.loads(raw.decode("utf-8", "surrogatepass"), parse_float=str, parse_int=str)
            words[start] = len(elements)
            for at, element in enumerate(elements, start + 1):
                words[at] = _word(feature, _plain(element), texts)
        return words, status


def _empty_text(feature: Feature) -> str:
    """Return what stands where a window holds nothing."""
    empty: Any = empty_word(feature)
    if empty is None:
        return ""
    if feature.result is Result.DECIMAL:
        return _decimal_text(int(empty), feature.scale)
    if feature.result is Result.FLOAT:
        return str(pa.scalar(float(empty)).cast(pa.string()))
    if feature.result is Result.BOOL:
        return "true" if empty else "false"
    return str(empty)


def _decimal_text(unscaled: int, scale: int) -> str:
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    cut = len(digits) - scale
    return ("-" if unscaled < 0 else "") + digits[:cut] + ("." + digits[cut:] if scale else "")


def _list_texts(feature: Feature, words: I64, status: U8, texts: Sequence[str]) -> pa.Array:
    """Return n JSON arrays as binary; made of each distinct element once."""
    n = words.shape[1]
    lengths = np.where(status == Status.OK, words[0], 0)
    place = np.arange(feature.k)[:, None] < lengths[None, :]
    used, codes = np.unique(words[1 : 1 + feature.k].T[place.T], return_inverse=True)
    if feature.result is Result.FLOAT:
        elements = pa.array(used.view(np.float64)).cast(pa.string()).cast(pa.binary())
    else:
        elements = pa.array([_element(feature, word, texts) for word in used.tolist()], pa.binary())
    ends = np.zeros(n + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    lists = pa.ListArray.from_arrays(pa.array(ends), elements.take(pa.array(codes.reshape(-1))))
    return pc.binary_join_element_wise(b"[", pc.binary_join(lists, b","), b"]", b"")


def _element(feature: Feature, word: int, texts: Sequence[str]) -> bytes:
    if feature.result is Result.TEXT:
        return encode(json.dumps(texts[word], ensure_ascii=False))
    if feature.result is Result.DECIMAL:
        return b'"%b"' % _decimal_text(word, feature.scale).encode()
    if feature.result is Result.BOOL:
        return b"true" if word else b"false"
    return b"%d" % word


def _plain(element: Any) -> str:
    """Return the element of a JSON array as the text it would have alone."""
    if isinstance(element, bool):
        return "true" if element else "false"
    return str(element)


def _word(feature: Feature, text: str, texts: list[str]) -> int:
    if feature.result is Result.TEXT:
        texts.append(text)
        return len(texts) - 1
    if feature.result is Result.FLOAT:
        return int(np.float64(text).view(np.int64))
    if feature.result is Result.BOOL:
        return int(text == "true")
    return int(text.replace(".", "")) if feature.result is Result.DECIMAL else int(text)
