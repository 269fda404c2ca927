"""A set's page under docs/features, read as its reader reads it: its commands are run, its answers compared.

Owns: running the page's shell block in an empty folder, and finding what the page shows. Refuses: what a feature
is (each set's own test says that in plain Python).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from lookback import Client, load_training
from lookback.definition import Definition, load

ROOT = Path(__file__).resolve().parents[2]
Event = dict[str, Any]


@dataclass
class Page:
    """One set: its page, and the folder in which the page's commands were run."""

    name: str
    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)  # of each command, by its line

    @property
    def text(self) -> str:
        """Return the page."""
        return (ROOT / "docs" / "features" / f"{self.name}.md").read_text()

    @cached_property
    def definition(self) -> Definition:
        """Return the set's definition."""
        return load(ROOT / "features" / f"{self.name}.yaml")

    @property
    def archive(self) -> Path:
        """Return where the page's first command put the events."""
        return self.folder / ".lookback" / self.name / "events"

    def run(self) -> Page:
        """Run the page's commands one after the other, as they stand, in a folder that has only `features`."""
        (self.folder / "features").symlink_to(ROOT / "features")
        [block] = re.findall(r"^```bash\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for line in block.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line)
            command = Path(sys.executable).with_name(Path(program).name)
            assert program.startswith(".venv/bin/") and command.exists(), line
            done = subprocess.run(
                [command, *words],
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert "Traceback" not in done.stderr
            self.outputs[" ".join(words)] = done.stdout
        return self

    def answer(self) -> Event:
        """Return what the page's last `lookback get` printed."""
        [*_, printed] = [out for line, out in self.outputs.items() if line.startswith("get ")]
        found: Event = json.loads(printed)
        return found

    def shown(self) -> list[Event]:
        """Return the page's JSON blocks, in order."""
        blocks = re.findall(r"^```json\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)
        return [json.loads(block) for block in blocks]

    def check_shown(self, *topics: str) -> None:
        """Compare the page's JSON blocks: events of the sample, the last one the values that `get` answers."""
        *events, values = self.shown()
        sample = [request(event) for topic in topics for event in self.events(topic)]
        assert events and all(
            json.loads(json.dumps(event), parse_float=Decimal) in sample for event in events
        )
        assert values == self.answer()["values"]

    def shown_row(self) -> dict[str, Any]:
        """Return the training row that the page shows as a table of column and value, values as JSON."""
        rows = re.findall(r"^\| `([a-z_0-9.]+)` \| `([^`]*)` \|", self.text, re.MULTILINE)
        return {name: json.loads(value) for name, value in rows}

    def events(self, topic: str) -> list[Event]:
        """Return a topic's events as they came, decimals exact, each with its line as `_offset`; text for bad ones."""
        return [read_line(text, at) for at, text in enumerate(self.file(topic).read_text().splitlines())]

    def file(self, topic: str) -> Path:
        """Return a topic's one file."""
        [path] = (self.archive / topic).glob("*.jsonl")
        return path

    def rows(self) -> list[dict[str, Any]]:
        """Return the training rows that the page's replay wrote."""
        found: list[dict[str, Any]]
        found = load_training(self.folder / ".lookback" / self.name / "training").arrow().to_pylist()
        return found

    def client(self) -> Client:
        """Return a client of the store that the page's job wrote."""
        return Client(self.definition, f"lmdb:{self.folder / '.lookback' / self.name / 'store'}")

    def check_row_shown(self, row: dict[str, Any]) -> None:
        """Compare what the page's table shows with a training row, value by value."""
        shown = self.shown_row()
        assert len(shown) >= 5
        assert shown == {name: plain(row[name]) for name in shown}


def read_line(text: str, offset: int) -> Event:
    """Return one line as an event; one that is no JSON object holds its `_offset` alone."""
    try:
        event = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError:
        event = None
    return {**(event if isinstance(event, dict) else {}), "_offset": offset}


def plain(value: Any) -> Any:
    """Return a value as JSON has it: decimals as texts."""
    return str(value) if isinstance(value, Decimal) else value


def request(event: Event) -> Event:
    """Return an event as its producer or a client sends it."""
    return {name: value for name, value in event.items() if not name.startswith("_")}
