"""Compile all that is compiled on first use (kernels, decoders, packing of records), and keep it on disk."""

from __future__ import annotations

import time

from connectors import decode_avro, decode_json
from dataflows import repeats
from lookback.stores import lmdb_dictionary, redis_record
from lookback.windows import warm
from lookback.windows.cache import cache_dir
from state import codec, key_table


def main() -> None:
    """Use each once."""
    started = time.perf_counter()
    for part in (warm, decode_json, decode_avro, codec, key_table, repeats, lmdb_dictionary, redis_record):
        part.warm()
    print(f"setup: compiled in {time.perf_counter() - started:.0f} s, kept in {cache_dir()}")


if __name__ == "__main__":
    main()
