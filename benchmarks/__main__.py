"""Run benchmarks and write their sections of RESULTS.md: `python -m benchmarks [NAME…]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.options import Options
from benchmarks.results import RESULTS, replace_section

NAMES = (
    "replay_parquet",
    "replay_json",
    "live_lmdb",
    "live_redis",
    "kafka_catch_up",
    "kafka_freshness",
    "change_log",
    "kafka_peers",
    "kafka_restart",
    "growth",
    "memory",
    "refresh",
    "repeats",
    "backpressure",
    "telemetry",
    "skew",
    "kernel_speed",
    "get_speed",
)


def main() -> int:
    """Run the benchmarks asked for, one after the other; a section is written as soon as it is there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure, and write benchmarks/RESULTS.md."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all if none is given"
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full sizes (default 1.0)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "lookback-bench",
        help="folder for events and outputs, some GB; events are kept for the next time",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]}: choose of {', '.join(NAMES)}")
    options = Options(asked.work.resolve(), asked.scale, asked.repeat)
    options.work.mkdir(parents=True, exist_ok=True)
    console = Console()
    for name in asked.names or NAMES:
        with console.status(f"measuring {name} …"):
            section = import_module(f"benchmarks.{name}").run(options)
        replace_section(section, NAMES, asked.results)
        console.print(Markdown(section.text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
