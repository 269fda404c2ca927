"""Compile all that is compiled on first use, the window kernels and the JSON decoder, and keep it on disk."""

from __future__ import annotations

import time
from importlib import resources

import pyarrow as pa

from connectors.decode import Decoder
from lookback.definition import loads
from lookback.starter.write import sample_events
from lookback.windows.cache import CACHE_DIR
from lookback.windows.warm import warm


def main() -> None:
    """Use each once."""
    started = time.perf_counter()
    warm()
    definition = loads((resources.files("lookback.starter") / "features.yaml").read_text("utf-8"))
    lines = [text.encode() for text in sample_events()]
    for stream in definition.streams.values():
        Decoder(stream).decode_json(pa.array(lines, pa.binary()))
    print(f"setup: compiled in {time.perf_counter() - started:.0f} s, kept in {CACHE_DIR}")


if __name__ == "__main__":
    main()
