"""Write arrived payments as an archive: raw Parquet, typed Parquet or JSON lines.

Owns: the JSON text of a payment, how a broken one looks, the files of a topic. Refuses: what a payment is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.card_fraud.arrival import BREAKAGES, Arrived
from examples.card_fraud.fraud import PATTERNS
from examples.card_fraud.payments import COUNTRIES, I64, NO_DEVICE

FORMATS = ("raw", "typed", "jsonl")
ROW_GROUP = 65_536


def names(prefix: str, codes: I64, width: int) -> pa.Array:
    """Return `<prefix><code, zero-padded>` for every code; one string is made per distinct code only."""
    distinct, place = np.unique(codes, return_inverse=True)
    texts = pa.array([f"{prefix}{code:0{width}d}" for code in distinct.tolist()], pa.string())
    return texts.take(pa.array(place))


def card_name(code: int) -> str:
    """Return the name of one card.

    >>> card_name(7)
    'c000007'
    """
    return f"c{code:06d}"


@dataclass
class Texts:
    """The columns of one partition as strings, nulls where the device is unknown."""

    card: pa.Array
    merchant: pa.Array
    device: pa.Array
    country: pa.Array

    @classmethod
    def of(cls, part: Arrived) -> Texts:
        """Name all codes of a partition's payments."""
        p = part.payments
        absent = pa.array(p.device == NO_DEVICE)
        return cls(
            card=names("c", p.card, 6),
            merchant=names("m", p.merchant, 5),
            device=pc.if_else(absent, pa.scalar(None, pa.string()), names("d", p.device, 6)),
            country=pa.array(list(COUNTRIES), pa.string()).take(pa.array(p.country)),
        )


def json_texts(part: Arrived, texts: Texts) -> pa.Array:
    """Return one JSON object a payment, the broken ones as they came."""
    p = part.payments
    cents = pa.array([f"{i:02d}" for i in range(100)], pa.string()).take(pa.array(p.cents % 100))
    # An absent device is sometimes null and sometimes not there at all: both mean the same.
    unknown = pc.if_else(pa.array(part.tx_id % 2 == 0), ',"device":null', "")
    device = pc.if_else(
        pc.is_null(texts.device),
        unknown,
        pc.binary_join_element_wise(',"device":"', pc.fill_null(texts.device, ""), '"', ""),
    )
    whole = pc.binary_join_element_wise(
        '{"ts":',
        pa.array(p.ts).cast(pa.string()),
        ',"tx_id":',
        pa.array(part.tx_id).cast(pa.string()),
        ',"card":"',
        texts.card,
        '","merchant":"',
        texts.merchant,
        '"',
        device,
        ',"country":"',
        texts.country,
        '","amount":',
        pa.array(p.cents // 100).cast(pa.string()),
        ".",
        cents,
        ',"declined":',
        pc.if_else(pa.array(p.declined), "true", "false"),
        "}",
        "",
    )
    places = np.flatnonzero(part.broken)
    if len(places) == 0:
        return whole
    ruined = [broken_text(whole[i].as_py(), BREAKAGES[part.broken[i] - 1]) for i in places.tolist()]
    return pc.replace_with_mask(whole, pa.array(part.broken != 0), pa.array(ruined, pa.string()))


def broken_text(text: str, breakage: str) -> str:
    """Return one whole JSON payment broken in one way (an entry of BREAKAGES).

    >>> broken_text('{"card":"c1","amount":1.25,"declined":false}', "three_decimals")
    '{"card":"c1","amount":1.255,"declined":false}'
    """
    if breakage == "truncated":
        return text[: len(text) // 2]
    if breakage == "not_an_object":
        return "null"
    if breakage == "no_card":
        event: dict[str, Any] = json.loads(text)
        del event["card"]
        return json.dumps(event)
    amount, rest = text.split('"amount":')[1].split(",", 1)
    if breakage == "text_for_bool":
        return text.replace('"declined":', '"declined":"no","was":')
    replaced = amount + "5" if breakage == "three_decimals" else "NaN"
    return text.split('"amount":')[0] + '"amount":' + replaced + "," + rest


def write_raw(folder: Path, parts: list[Arrived]) -> None:
    """Write what a Kafka topic is copied to: one file a partition, key and value as bytes."""
    for part in parts:
        texts = Texts.of(part)
        n = len(part.tx_id)
        table = pa.table(
            {
                "partition": pa.array(np.full(n, part.partition, np.int32)),
                "offset": pa.array(np.arange(n)),
                "timestamp_ms": pa.array(part.broker_ms),
                "key": texts.card.cast(pa.binary()),
                "value": json_texts(part, texts).cast(pa.binary()),
            }
        )
        _write(folder / f"part-{part.partition:02d}.parquet", table)


def write_typed(folder: Path, parts: list[Arrived]) -> None:
    """Write typed columns with their positions: one file a partition, without the broken payments."""
    for part in parts:
        whole = np.flatnonzero(part.broken == 0)
        texts, p = Texts.of(part), part.payments
        table = pa.table(
            {
                "_partition": pa.array(np.full(len(p), part.partition, np.int32)),
                "_offset": pa.array(np.arange(len(p))),
                "_timestamp_ms": pa.array(part.broker_ms),
                "ts": pa.array(p.ts),
                "tx_id": pa.array(part.tx_id),
                "card": texts.card,
                "merchant": texts.merchant,
                "device": texts.device,
                "country": texts.country,
                "amount": decimals(p.cents),
                "declined": pa.array(p.declined),
            }
        ).take(pa.array(whole))
        _write(folder / f"part-{part.partition:02d}.parquet", table)


def write_jsonl(folder: Path, parts: list[Arrived]) -> None:
    """Write JSON lines without positions: one partition, numbered by line."""
    for part in parts:
        lines = json_texts(part, Texts.of(part)).to_pylist()
        (folder / f"part-{part.partition:02d}.jsonl").write_text("\n".join(lines) + "\n")


def decimals(cents: I64) -> pa.Array:
    """Return decimal128(12, 2) of int64 cents, exactly: the words are the unscaled values."""
    words = np.zeros((len(cents), 2), np.int64)
    words[:, 0] = cents
    words[:, 1] = cents >> 63
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(words)])


def write_truth(path: Path, parts: list[Arrived]) -> None:
    """Write which payments were fraud: tx_id, is_fraud, pattern; in order of tx_id, broken ones left out."""
    tx_id = np.concatenate([part.tx_id[part.broken == 0] for part in parts])
    pattern = np.concatenate([part.payments.pattern[part.broken == 0] for part in parts])
    order = np.argsort(tx_id)
    table = pa.table(
        {
            "tx_id": pa.array(tx_id[order]),
            "is_fraud": pa.array(pattern[order] != 0),
            "pattern": pa.array(list(PATTERNS), pa.string()).take(pa.array(pattern[order])),
        }
    )
    _write(path, table)


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
