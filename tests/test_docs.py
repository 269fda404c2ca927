"""The docs name what exists: commands, options, make targets, files; and the README's first minute runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dataflows.cli import app

ROOT = Path(__file__).resolve().parent.parent
LOOKBACK = Path(sys.executable).with_name("lookback")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OURS = "lookback|state|connectors|dataflows|tests|docs|examples|features|benchmarks|scripts"


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


def options(command: Any) -> set[str]:
    found = {"--help", "-h"}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


def code(page: Path) -> Iterator[str]:
    """Yield each line of a fenced block, its continuations joined, and each code span of a page."""
    text = page.read_text()
    fenced = r"^```.*?\n(.*?)^```"
    for block in re.findall(fenced, text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(fenced, "", text, flags=re.DOTALL | re.MULTILINE))


def problems(page: Path, known: dict[str, Any], targets: set[str]) -> Iterator[str]:
    for line in code(page):
        for call in re.findall(r"(?:^|[\s/$(])lookback ([a-z][a-z-]+)([^#|;]*)", line):
            name, rest = call
            if name not in known:
                yield f"{page.name}: there is no `lookback {name}`"
                continue
            for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
                if option not in options(known[name]):
                    yield f"{page.name}: `lookback {name}` has no {option}"
        for target in re.findall(r"^make ([a-z-]+)", line):
            if target not in targets:
                yield f"{page.name}: there is no `make {target}`"
        if re.match(r"(\.venv/bin/)?lookback ", line):
            continue  # its folders are the user's
        for path in re.findall(rf"(?<![\w./-])(?:{OURS})/[\w./-]*[\w/]", line):
            if not (ROOT / path).exists():
                yield f"{page.name}: there is no {path}"
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        if not (page.parent / link).exists():
            yield f"{page.name}: the link to {link} leads nowhere"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_what_exists(page: Path) -> None:
    assert list(problems(page, commands(), make_targets())) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("`lookback fly`", "no `lookback fly`"),
        ("```bash\nlookback run a.yaml \\\n  --sauce archive:x\n```", "`lookback run` has no --sauce"),
        ("`make coffee`", "no `make coffee`"),
        ("in `lookback/windows/none.py`", "no lookback/windows/none.py"),
        ("[here](none.md)", "none.md leads nowhere"),
    ],
)
def test_a_planted_untruth_is_found(tmp_path: Path, text: str, told: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    found = list(problems(page, commands(), make_targets()))
    assert len(found) == 1 and told in found[0]


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    sections = dict(re.findall(r"^## lookback ([a-z-]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert sorted(sections) == sorted(commands())
    for name, command in commands().items():
        documented = set(re.findall(r"`(--[a-z-]+)`", sections[name]))
        negations = {o for p in command.params for o in p.secondary_opts}
        assert documented == options(command) - {"--help", "-h"} - negations, name


def test_every_command_has_an_example_that_parses() -> None:
    for name, command in commands().items():
        example = (command.epilog or "").removeprefix("Example:").strip()
        assert example.startswith(f"lookback {name}"), name
        words = shlex.split(example.split(">")[0])[2:]
        command.make_context(name, list(words), resilient_parsing=False)


def test_every_make_target_is_documented() -> None:
    text = "".join((ROOT / page).read_text() for page in ("README.md", "CONTRIBUTING.md"))
    assert {target for target in make_targets() if f"make {target}" not in text} == set()


def test_the_first_minute_of_the_readme_runs(tmp_path: Path) -> None:
    """Run its commands as they stand, in an empty folder; the last one leaves a training set."""
    block = re.search(r"```bash\nmake setup\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    assert len(lines) == 5
    for line in lines:
        program, *words = shlex.split(line)
        assert program == ".venv/bin/lookback"
        done = subprocess.run([LOOKBACK, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert (tmp_path / "my-features" / "training" / "manifest.json").exists()
