"""A guide under docs/guides, walked as its reader walks it: files are written, commands run, outputs compared.

    `NAME`:            a fenced block after a line that ends so is the file NAME, written to the reader's folder
    ```bash            run by bash, stopping at the first command that fails
    ```text            what the bash block before it printed to stdout; `…` stands for anything within a line

Numbers with a point may differ by 0.02 (a model is trained on another CPU), all else must be as it stands.
The reader's folder has `.venv`, `features` and `examples` in it, as the project's own folder has.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:`([\w./-]+)`:\n\n?)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")
NEAR = 0.02
ANYTHING = "…"
LIMIT_SECONDS = 300.0  # of one block


@dataclass
class Walk:
    """A walk through one guide in a folder; `replaced`: what stands in the guide, and what it is here."""

    name: str
    folder: Path
    replaced: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    printed: str = ""  # by the last bash block
    commands: int = 0
    compared: int = 0

    def begin(self) -> Walk:
        """Make the reader's folder."""
        self.folder.mkdir(exist_ok=True)
        for name in ("features", "examples"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").symlink_to(sys.prefix)
        return self

    def go(self) -> Walk:
        """Walk the whole guide."""
        text = (ROOT / "docs" / "guides" / f"{self.name}.md").read_text()
        for name, language, block in BLOCK.findall(text):
            if name:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(self.here(block))
            elif language == "bash":
                self.run(self.here(block))
            elif language == "text":
                self.compare(block)
            else:
                assert language == "mermaid", f"a block of {language} that is no file"
        return self

    def here(self, text: str) -> str:
        """Return a text with what is here for what the guide names."""
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def run(self, script: str) -> None:
        """Run a block of commands."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        # Into files: what goes on in the background would hold pipes open.
        with (self.folder / ".out").open("w+") as out, (self.folder / ".err").open("w+") as err:
            code = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False, timeout=LIMIT_SECONDS,
            ).returncode  # fmt: skip
            out.seek(0)
            err.seek(0)
            self.printed, said = out.read(), err.read()
        assert code == 0, f"{script}\n{self.printed}\n{said}"
        assert "Traceback" not in said, said
        self.commands += 1

    def end(self) -> None:
        """Kill what a walk that broke off left running: each file NAME.pid holds a process."""
        for file in self.folder.glob("*.pid"):
            with contextlib.suppress(psutil.NoSuchProcess, ValueError):
                process = psutil.Process(int(file.read_text()))
                if process.cwd() == str(self.folder.resolve()):
                    for one in [*process.children(recursive=True), process]:
                        one.kill()

    def compare(self, shown: str) -> None:
        """Compare what the guide shows with what was printed."""
        wanted, found = shown.splitlines(), self.printed.splitlines()
        assert len(wanted) == len(found), f"shown:\n{shown}\nprinted:\n{self.printed}"
        for one, other in zip(wanted, found, strict=True):
            assert same(one, other), f"shown:\n{one}\nprinted:\n{other}\nall of it:\n{self.printed}"
        self.compared += 1


def same(shown: str, printed: str) -> bool:
    """Return whether a line is what was shown.

    >>> same("AUC 0.95 of … rows", "AUC 0.96 of 12 rows"), same("AUC 0.95", "AUC 0.91"), same("3 rows", "4 rows")
    (True, False, False)
    """
    pattern = re.escape(NUMBER.sub("\0", shown)).replace(ANYTHING, ".*").replace("\0", rf"({NUMBER.pattern})")
    found = re.fullmatch(pattern, printed)
    if found is None:
        return False
    return all(
        abs(float(a) - float(b)) <= NEAR for a, b in zip(NUMBER.findall(shown), found.groups(), strict=True)
    )
