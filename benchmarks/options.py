"""What the benchmarks of one call share: sizes, repeats, folders, and the job's commands."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, Figures, Usage, machine_cpus, run

DEFINITIONS = Path(__file__).with_name("definitions")
FRAUD = ROOT / "features" / "fraud.yaml"


@dataclass(frozen=True)
class Options:
    """scale: share of the full sizes, 1.0 for figures worth quoting. repeat: runs of each contestant."""

    work: Path
    scale: float = 1.0
    repeat: int = 5

    def rows(self, full: int) -> int:
        """Return a count of rows at this scale."""
        return max(1_000, int(full * self.scale))

    def command(self, name: str) -> str:
        """Return the command that gives this section."""
        return f"python -m benchmarks {name} --repeat {self.repeat} --scale {self.scale:g}"

    def fresh(self, name: str) -> Path:
        """Return the path of a folder or file that isn't there."""
        path = self.work / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def replay(definition: Path, archive: Path, out: Path) -> list[str]:
    """Return the user's command for training rows of the whole archive."""
    return [
        sys.executable, "-m", "dataflows.cli", "replay", str(definition), "--source", f"archive:{archive}",
        "--from", "1970-01-01", "--out", str(out), "--quiet",
    ]  # fmt: skip


def live(definition: Path, archive: Path, folder: Path, *more: str) -> list[str]:
    """Return the user's command for a live run to the archive's end, with state and store in `folder`."""
    return [
        sys.executable, "-m", "dataflows.cli", "run", str(definition), "--source", f"archive:{archive}",
        "--store", f"lmdb:{folder / 'store'}", "--state", str(folder / "state"), "--until-end", "--quiet",
        *more,
    ]  # fmt: skip


def peer(tool: str, file: Path, out: Path) -> list[str]:
    """Return the command by which another tool computes the same values."""
    return [sys.executable, "-m", "benchmarks.peers", tool, str(file), str(out)]


def measured(options: Options, command: list[str], *outputs: Path) -> Usage:
    """Run a command on one CPU, its outputs of earlier runs removed before."""
    for path in outputs:
        options.fresh(str(path.relative_to(options.work)))
    return run(command, machine_cpus())


def row(name: str, figures: Figures, start: Usage | None = None) -> list[str]:
    """Return a table's row: rate, least and most, CPU seconds a million, memory, rate beyond start-up."""
    low, high = figures.spread(lambda u: figures.events / u.wall_seconds)
    cells = [name, f"{figures.rate:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{figures.cpu_per_million:.2f}"]
    cells.append(f"{figures.peak_mib:,.0f}")
    if start is not None:
        beyond = figures.median(lambda u: u.cpu_seconds) - start.cpu_seconds
        cells += [f"{start.cpu_seconds:.2f}", f"{beyond / figures.events * 1e6:.2f}"]
    return cells


HEAD = ("", "events/s", "least–most", "CPU s/M", "peak MiB")
HEAD_START = (*HEAD, "start-up CPU s", "CPU s/M beyond it")
