"""Write RESULTS.md: a section a benchmark, each replaced alone, every number generated.

<!-- section NAME -->
## title
…
<!-- end NAME -->
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("numpy", "numba", "pyarrow", "bytewax", "rocksdict", "lmdb", "redis", "duckdb", "polars")

HEAD = """# Benchmark results

Written by `make bench` (`python -m benchmarks`), every figure by a run; how each is measured stands in the
module of its name. A figure is a median of the runs its section names, *least–most* beside it says how
quiet the machine was; contestants take turns, so that a slow spell falls on all alike. Rates count the
whole process, interpreter start and imports included, unless a column says otherwise. CPU seconds depend
less on what else the machine did than rates.
"""


@dataclass
class Section:
    """One benchmark's part of the results. aims: (what, met)."""

    name: str
    title: str
    command: str
    intro: str = ""
    tables: list[str] = field(default_factory=list)
    aims: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def aim(self, what: str, met: bool) -> None:
        """Note an aim and whether this run met it."""
        self.aims.append((what, met))

    def text(self) -> str:
        """Return the section as Markdown."""
        lines = [f"## {self.title}", "", machine(), "", f"`{self.command}`", ""]
        if self.intro:
            lines += [self.intro, ""]
        for one in self.tables:
            lines += [one, ""]
        lines += [f"- {'Met' if met else '**Not met**'}: {what}" for what, met in self.aims]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """Return one line on the machine, the versions and the day."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = found[1]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    day = datetime.now(UTC).date().isoformat()
    return (
        f"{day}, commit {_commit()}: {cpu}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release().partition('-')[0]}, "
        f"CPython {platform.python_version()}, {packages}."
    )


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def replace_section(section: Section, order: Sequence[str], path: Path = RESULTS) -> None:
    """Put a section into the file in place of its former self; sections stand in `order`."""
    old = path.read_text() if path.exists() else ""
    found = dict(re.findall(r"<!-- section (\S+) -->\n(.*?)<!-- end \1 -->", old, re.DOTALL))
    found[section.name] = section.text()
    names = [name for name in order if name in found]
    body = "\n".join(f"<!-- section {name} -->\n{found[name]}<!-- end {name} -->\n" for name in names)
    fresh = path.with_suffix(".new")
    fresh.write_text(HEAD + "\n" + body)
    fresh.replace(path)
