"""Compile all that is compiled on first use, the window kernels and the JSON decoder, and keep it on disk."""

from __future__ import annotations

import time

from connectors import decode_json
from lookback.windows import warm
from lookback.windows.cache import cache_dir


def main() -> None:
    """Use each once."""
    started = time.perf_counter()
    warm.warm()
    decode_json.warm()
    print(f"setup: compiled in {time.perf_counter() - started:.0f} s, kept in {cache_dir()}")


if __name__ == "__main__":
    main()
