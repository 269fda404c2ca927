"""Compile all that is compiled on first use (window kernels, JSON decoder, packing for Redis), and keep it on disk."""

from __future__ import annotations

import time

from connectors import decode_json
from lookback.stores import redis_record
from lookback.windows import warm
from lookback.windows.cache import cache_dir
from state import key_table


def main() -> None:
    """Use each once."""
    started = time.perf_counter()
    warm.warm()
    decode_json.warm()
    redis_record.warm()
    key_table.warm()
    print(f"setup: compiled in {time.perf_counter() - started:.0f} s, kept in {cache_dir()}")


if __name__ == "__main__":
    main()
