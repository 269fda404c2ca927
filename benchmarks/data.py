"""Make the events that benchmarks read: seeded, the same on every machine.

Owns: card payments as typed Parquet and as JSON lines, in the layout of an archive. Kept in the work folder
and made once: the folder's name holds every parameter.

Event times are distinct milliseconds, in order: then SQL's RANGE frames, polars' rolling windows and ours
mean the same, and their values can be compared one by one.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

I64 = npt.NDArray[np.int64]

START_MS = 1_704_067_200_000  # 2024-01-01
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
COUNTRIES = ("DE", "FR", "NL", "PL", "IT", "ES", "GB", "US")
MERCHANTS = 5_000
SLICE_ROWS = 1 << 20


@dataclass(frozen=True)
class Payments:
    """What to make. `hot` cards take `hot_percent` of the events; the others share the rest evenly."""

    rows: int = 2_000_000
    cards: int = 50_000
    span_ms: int = 60 * DAY_MS
    hot: int = 50
    hot_percent: int = 5
    seed: int = 7

    @property
    def name(self) -> str:
        """Return the name that tells these events from others."""
        return "-".join(f"{key}{value}" for key, value in asdict(self).items())


def typed(work: Path, payments: Payments) -> Path:
    """Return an archive with one typed Parquet file, amounts in whole cents."""
    return _made(work / "data" / f"parquet-{payments.name}", payments, _write_parquet)


def lines(work: Path, payments: Payments) -> Path:
    """Return an archive with one file of JSON lines of 110 to 150 bytes, amounts with two decimals."""
    return _made(work / "data" / f"json-{payments.name}", payments, _write_lines)


def _made(archive: Path, payments: Payments, write: Any) -> Path:
    topic = archive / "transactions"
    if not topic.exists():
        fresh = archive / f"transactions.{os.getpid()}"
        fresh.mkdir(parents=True, exist_ok=True)
        write(fresh, payments)
        fresh.rename(topic)
    return archive


def _times(rng: np.random.Generator, rows: int, span_ms: int) -> I64:
    """Return distinct times in order: even on average, random within."""
    slot = span_ms / rows
    if slot < 2:
        raise ValueError(f"{rows} events do not fit {span_ms} ms at distinct times")
    edges = (np.arange(rows + 1) * slot).astype(np.int64)
    return START_MS + edges[:-1] + rng.integers(0, np.diff(edges))


def slices(payments: Payments) -> Any:
    """Yield the events as record batches of SLICE_ROWS, so that 20 million of them need no more memory."""
    rng = np.random.default_rng(payments.seed)
    times = _times(rng, payments.rows, payments.span_ms)
    names = pa.array([f"c{i:07d}" for i in range(payments.cards)])
    merchants = pa.array([f"m{i:05d}" for i in range(MERCHANTS)])
    for start in range(0, payments.rows, SLICE_ROWS):
        time_ms = times[start : start + SLICE_ROWS]
        rows = len(time_ms)
        card = rng.integers(min(payments.hot, payments.cards - 1), payments.cards, rows)
        if payments.hot:
            hot = rng.random(rows) * 100 < payments.hot_percent
            card = np.where(hot, rng.integers(0, payments.hot, rows), card)
        # A card goes to its own eight merchants four times in five, else to one that many go to.
        own = (card * 2_654_435_761 + rng.integers(0, 8, rows) * 40_503) % MERCHANTS
        anywhere = (rng.zipf(1.4, rows) - 1) % MERCHANTS
        merchant = np.where(rng.random(rows) < 0.8, own, anywhere)
        home = (card * 7 + card // 11) % len(COUNTRIES)
        country = np.where(rng.random(rows) < 0.95, home, rng.integers(0, len(COUNTRIES), rows))
        device = pa.array(card * 2 + rng.integers(0, 2, rows), mask=rng.random(rows) < 0.25)
        yield pa.record_batch(
            {
                "tx_id": pa.array(np.arange(start, start + rows)),
                "ts": pa.array(time_ms),
                "card": names.take(pa.array(card)),
                "merchant": merchants.take(pa.array(merchant)),
                "device": pc.binary_join_element_wise(pa.scalar("d"), pc.cast(device, pa.string()), ""),
                "country": pa.array(COUNTRIES).take(pa.array(country)),
                "cents": pa.array(np.round(rng.gamma(2, 3_000, rows)).astype(np.int64) + 1),
                "declined": pa.array(rng.random(rows) < 0.03),
            }
        )


def _write_parquet(folder: Path, payments: Payments) -> None:
    writer = None
    for batch in slices(payments):
        if writer is None:
            writer = pq.ParquetWriter(folder / "events.parquet", batch.schema, compression="snappy")
        writer.write_batch(batch, row_group_size=1 << 17)
    assert writer is not None
    writer.close()


def _write_lines(folder: Path, payments: Payments) -> None:
    with (folder / "events.jsonl").open("wb") as out:
        for batch in slices(payments):
            out.write(_json(batch))


def _json(batch: pa.RecordBatch) -> bytes:
    def text(name: str) -> pa.Array:
        return pc.cast(batch.column(name), pa.string())

    cents = batch.column("cents").to_numpy()
    fraction = pc.utf8_lpad(pc.cast(pa.array(cents % 100), pa.string()), 2, "0")
    device = pc.binary_join_element_wise('"', text("device"), '"', "")
    parts = [
        '{"tx_id":', text("tx_id"), ',"ts":', text("ts"), ',"card":"', text("card"),
        '","merchant":"', text("merchant"), '","device":', pc.coalesce(device, pa.scalar("null")),
        ',"country":"', text("country"), '","amount":', pc.cast(pa.array(cents // 100), pa.string()),
        ".", fraction, ',"declined":', text("declined"),"}\n","",
    ]  # fmt: skip
    joined = pc.binary_join_element_wise(*parts).cast(pa.large_string())
    return bytes(joined.buffers()[2])
