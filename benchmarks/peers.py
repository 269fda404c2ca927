"""The same values by other tools, each a process of its own: `python -m benchmarks.peers TOOL FILE OUT`.

Owns: how DuckDB and polars are asked. Both get one thread, read the same file, and write Parquet with our
column names. FILE is Parquet (whole cents) or JSON lines (decimals). Rows come in any order.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

WINDOWS_MS = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000, "30d": 2_592_000_000}
TOOLS = ("duckdb", "polars")


def duckdb(file: Path, out: Path) -> None:
    """Five RANGE frames of one SQL query; DuckDB computes the aggregates of one frame together."""
    import duckdb as db

    if file.suffix == ".jsonl":
        amount, kind = "amount", "DECIMAL(38,2)"
        fields = "{tx_id: 'BIGINT', ts: 'BIGINT', card: 'VARCHAR', amount: 'DECIMAL(12,2)'}"
        source = f"read_json('{file}', format = 'newline_delimited', columns = {fields})"
    else:
        amount, kind = "cents", "BIGINT"
        source = f"read_parquet('{file}')"
    columns, frames = [], []
    for name, window_ms in WINDOWS_MS.items():
        columns += [
            f'count(*) OVER w{name} AS "card_activity.tx_count_{name}"',
            f'(sum({amount}) OVER w{name})::{kind} AS "card_activity.amount_sum_{name}"',
            f'max({amount}) OVER w{name} AS "card_activity.amount_max_{name}"',
        ]
        frames.append(
            f"w{name} AS (PARTITION BY card ORDER BY ts "
            f"RANGE BETWEEN {window_ms - 1} PRECEDING AND CURRENT ROW)"
        )
    connection = db.connect(config={"threads": 1})
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(
        f"COPY (SELECT tx_id, card, ts, {', '.join(columns)} FROM {source} WINDOW {', '.join(frames)}) "
        f"TO '{out}' (FORMAT parquet, COMPRESSION snappy)"
    )


def polars(file: Path, out: Path) -> None:
    """One `rolling` a window, joined side by side: all give the rows by card, then by time."""
    import polars as pl

    assert pl.thread_pool_size() == 1, "set POLARS_MAX_THREADS=1"
    if file.suffix == ".jsonl":
        fields = {"tx_id": pl.Int64, "ts": pl.Int64, "card": pl.String, "amount": pl.Float64}
        events = pl.read_ndjson(file, schema=fields)
        events = events.with_columns(cents=(pl.col("amount") * 100).round().cast(pl.Int64)).drop("amount")
    else:
        events = pl.read_parquet(file, columns=["tx_id", "ts", "card", "cents"])
    events = events.sort("card", "ts", maintain_order=True)
    parts = [events.select("tx_id", "card", "ts")]
    for name, window_ms in WINDOWS_MS.items():
        rolling = events.rolling("ts", period=f"{window_ms}i", closed="right", group_by="card")
        found = rolling.agg(
            pl.len().cast(pl.Int64).alias(f"card_activity.tx_count_{name}"),
            pl.col("cents").sum().alias(f"card_activity.amount_sum_{name}"),
            pl.col("cents").max().alias(f"card_activity.amount_max_{name}"),
        )
        parts.append(found.drop("card", "ts"))
    pl.concat(parts, how="horizontal").write_parquet(out, compression="snappy")


def main() -> None:
    """Run one tool over one file."""
    tool, file, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    {"duckdb": duckdb, "polars": polars}[tool](file, out)
    sys.stdout.flush()
    os._exit(0)  # as our workers end: no time for tearing down


if __name__ == "__main__":
    main()
