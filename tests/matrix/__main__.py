"""`python -m tests.matrix`: run the kill matrix, or go on with it; write its report.

Each finished cell is a line of the ledger, under the seed, the commit and the cell's name: a run that was broken off
goes on behind them, and a run of another commit begins anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.matrix import report, switches
from tests.matrix.cells import Cell, cover, possible
from tests.matrix.experiment import EVENTS, Experiment
from tests.matrix.world import World, a_world, skip_reason

ROOT = Path(__file__).resolve().parents[2]
Line = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Run all cells that the ledger lacks, then the switches; write the report."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and disks are to be let go of
    reason = skip_reason()
    if reason is not None:
        print(f"no kill matrix here: {reason}", file=sys.stderr)
        return 1
    commit = options.commit or _commit()
    cells = possible() if options.full else cover(options.seed)
    cells = cells[: options.cells or None]
    ledger = Ledger(options.work / "ledger.jsonl", options.seed, commit, options.events)
    if not options.report_only:
        with (
            tempfile.TemporaryDirectory(prefix="lookback-matrix-") as folder,
            a_world(Path(folder) / "world") as world,
        ):
            _run_cells(world, cells, ledger, options)
            _run_switches(world, ledger, options.seed)
    lines = {cell: ledger.lines[cell.name] for cell in cells if cell.name in ledger.lines}
    off = {name: ledger.lines[f"off {name}"] for name in switches.SWITCHES if f"off {name}" in ledger.lines}
    if options.report:
        options.report.write_text(
            report.text(
                lines, off, options.seed, commit, full=options.full, planned=len(cells), note=options.note
            )
        )
        print(f"wrote {options.report}")
    good = all(line["verdict"] == "pass" for line in lines.values())
    seen = all(line["words"] and not line["on"] for line in off.values())
    return 0 if good and seen and len(lines) == len(cells) and len(off) == len(switches.SWITCHES) else 1


def _run_cells(world: World, cells: list[Cell], ledger: Ledger, options: argparse.Namespace) -> None:
    todo = [cell for cell in cells if cell.name not in ledger.lines]
    print(
        f"kill matrix: seed {options.seed}, {len(cells)} cells, {len(todo)} to do on this commit", flush=True
    )
    begun = time.monotonic()
    for number, cell in enumerate(todo, 1):
        outcome = Experiment(world, cell, options.seed, options.events).run()
        ledger.add(cell.name, asdict(outcome))
        left = (time.monotonic() - begun) / number * (len(todo) - number)
        print(
            f"[{len(cells) - len(todo) + number}/{len(cells)}] {outcome.verdict} {outcome.seconds:.0f} s  "
            f"{cell.name}  at {outcome.at}; {left / 60:.0f} min left",
            flush=True,
        )
        for problem in outcome.problems[:3]:
            print(f"    {problem}", flush=True)


def _run_switches(world: World, ledger: Ledger, seed: int) -> None:
    for name in switches.SWITCHES:
        if f"off {name}" not in ledger.lines:
            caught = switches.caught(world, name, seed)
            ledger.add(f"off {name}", asdict(caught))
            print(f"{name} off: {caught.words or 'NOT CAUGHT'} ({caught.seconds:.0f} s)", flush=True)


class Ledger:
    """Finished cells, in a file of JSON lines; those of this seed, commit and size in `lines`."""

    def __init__(self, path: Path, seed: int, commit: str, events: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._run = {"seed": seed, "commit": commit, "events": events}
        self.lines: dict[str, Line] = {}
        if path.exists():
            for text in path.read_text().splitlines():
                line = json.loads(text)
                if line["run"] == self._run:
                    self.lines[line["name"]] = line["outcome"]

    def add(self, name: str, outcome: Line) -> None:
        """Write a finished cell."""
        self.lines[name] = outcome
        with self._path.open("a") as file:
            file.write(json.dumps({"name": name, "run": self._run, "outcome": outcome}) + "\n")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cells", type=int, default=0, help="only the first so many")
    parser.add_argument("--events", type=int, default=EVENTS, help="a cell")
    parser.add_argument("--full", action="store_true", help="every combination, not only all pairs")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".lookback" / "matrix", help="where the ledger lies"
    )
    parser.add_argument("--report", type=Path, help="the page to write")
    parser.add_argument("--report-only", action="store_true", help="run nothing: write what the ledger holds")
    parser.add_argument("--commit", help="of the ledger's lines, where it is not the one checked out")
    parser.add_argument(
        "--note", default="", help="a sentence for the report: what was special about this run"
    )
    parser.add_argument("--anew", action="store_true", help="forget what the ledger holds")
    options = parser.parse_args(arguments)
    if options.anew:
        shutil.rmtree(options.work, ignore_errors=True)
    return options


def _commit() -> str:
    """Return the commit that is tested, with `+` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    )
    others = [*git, "status", "--porcelain", "-uno", "--", ".", ":!docs/kill-matrix.md"]
    changed = subprocess.run(others, capture_output=True, text=True, check=True)
    return head.stdout.strip() + ("+" if changed.stdout else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
