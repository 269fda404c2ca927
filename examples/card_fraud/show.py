"""How the demo speaks: colours and a moving bar on a terminal, plain lines elsewhere.

Owns: steps, notes, tables, progress. Refuses: deciding anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


class Bar(Protocol):
    """Something that is told how far the work got."""

    def at(self, share: float, text: str = "") -> None:
        """Show that `share` (0 to 1) of the work is done."""


class Show:
    """The demo's output."""

    def __init__(self, steps: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._steps = steps
        self._step = 0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._step += 1
        self.console.print(f"\n[bold cyan]{self._step}/{self._steps}  {escape(title)}[/]")

    def note(self, text: str, style: str = "") -> None:
        """Say one thing."""
        self.console.print(f"     {escape(text)}", style=style or None)

    def good(self, text: str) -> None:
        """Say that something held."""
        self.note(text, "green")

    def command(self, words: Sequence[str]) -> None:
        """Show a command that is about to run."""
        self.console.print(f"     [dim]$ {escape(' '.join(words))}[/]")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show rows under a header; the first column is names, the others are numbers."""
        table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        with self.console.capture() as captured:
            self.console.print(table)
        for line in captured.get().rstrip().splitlines():
            self.console.print(f"     {line}", markup=False)

    @contextmanager
    def bar(self, what: str) -> Iterator[Bar]:
        """Show progress of one piece of work: a bar on a terminal, a line each tenth elsewhere."""
        if not self.console.is_terminal:
            yield _Lines(self, what)
            return
        columns = (
            TextColumn("     {task.description}"),
            BarColumn(bar_width=36),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=1.0, text="")

            class Moving:
                def at(self, share: float, text: str = "") -> None:
                    progress.update(task, completed=min(1.0, share), text=text)

            yield Moving()


class _Lines:
    def __init__(self, show: Show, what: str) -> None:
        self._show, self._what, self._next = show, what, 0.1

    def at(self, share: float, text: str = "") -> None:
        if share >= self._next:
            self._next = int(share * 10 + 1e-9) / 10 + 0.1
            self._show.note(f"{self._what}: {min(1.0, share):.0%} {text}".rstrip())
