"""The Dockerfile's steps, done one by one: each stage's root is a folder, and its commands run in it.

Owns: the order of stages, ARG and ENV, what COPY copies. The instructions that this file's own Dockerfile has are
understood, any other one is an error. The base image is a bare root with the tests' own Python at /usr/local: its
version, then, and not that of the FROM line.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter

from tests.image.container import Mount, Root

ROOT = Path(__file__).resolve().parents[2]
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PREFIX = {"PATH": PATH, "LANG": "C.UTF-8"}


@dataclass
class Stage:
    """A stage that is being built, or was."""

    name: str
    root: Root
    arguments: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)  # what was done, as it stands in the file


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return each instruction of a Dockerfile and what it says, in order."""
    parsed: list[dict[str, Any]] = DockerfileParser(fileobj=BytesIO(path.read_bytes())).structure
    return [(one["instruction"], one["value"]) for one in parsed if one["instruction"] != "COMMENT"]


def filled(text: str, known: Mapping[str, str]) -> str:
    """Return a text with its `${NAME}` filled in.

    >>> filled("python:${TAG}", {"TAG": "3.12"})
    'python:3.12'
    """
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], ""), text)


def pairs(text: str) -> list[tuple[str, str]]:
    """Return the names and values of an ENV, ARG or LABEL."""
    parts = [word.partition("=") for word in WordSplitter(text).split()]
    return [(name, value) for name, _, value in parts]


def link(source: str | Path, target: str | Path) -> None:
    """Make a second name of a file."""
    os.link(source, target)


class Build:
    """A build of a Dockerfile in a folder.

    arguments: as --build-arg gives them, and the architecture. caches: of the machine, by the folder that a RUN mounts
    them at. before: called with each RUN and its stage, before it is run.
    """

    def __init__(
        self,
        folder: Path,
        context: Path,
        arguments: Mapping[str, str],
        caches: Mapping[str, Path],
        before: Callable[[str, Stage], None] = lambda _run, _stage: None,
    ) -> None:
        self.folder = folder
        self.stages: dict[str, Stage] = {}
        self._context = context
        self._given = dict(arguments)
        self.environment: dict[str, str] = {}  # of every RUN: where pip finds packages, say
        self._caches = caches
        self._before = before
        self._global: dict[str, str] = {}

    def run(self, path: Path) -> Stage:
        """Do every step; return the last stage."""
        stage: Stage | None = None
        for instruction, value in instructions(path):
            if instruction == "FROM":
                stage = self._from(value)
            elif stage is None:
                assert instruction == "ARG", instruction
                self._global |= {name: self._given.get(name, default) for name, default in pairs(value)}
            else:
                step: Callable[[Stage, str], None] = getattr(self, f"_{instruction.lower()}")
                step(stage, value)
                stage.steps.append(f"{instruction} {value}")
        assert stage is not None
        return stage

    def _from(self, value: str) -> Stage:
        words = filled(value, {**self._given, **self._global}).split()
        name = words[2] if len(words) == 3 else str(len(self.stages))
        folder = self.folder / name
        base = self.stages.get(words[0])
        if base is None:
            folder.mkdir()
            root = Root(folder, dict(PREFIX))
        else:
            shutil.copytree(base.root.folder, folder, symlinks=True)
            root = replace(base.root, folder=folder, environment=dict(base.root.environment))
        self.stages[name] = Stage(name, root)
        return self.stages[name]

    def _known(self, stage: Stage) -> dict[str, str]:
        return {**stage.arguments, **stage.root.environment}

    def _arg(self, stage: Stage, value: str) -> None:
        for name, default in pairs(value):
            stage.arguments[name] = self._given.get(name, filled(default, self._known(stage)))

    def _env(self, stage: Stage, value: str) -> None:
        known = self._known(stage)
        stage.root.environment |= {name: filled(text, known) for name, text in pairs(value)}

    def _workdir(self, stage: Stage, value: str) -> None:
        stage.root.workdir = value
        stage.root.at(value).mkdir(parents=True, exist_ok=True)

    def _run(self, stage: Stage, value: str) -> None:
        mounts = []
        while found := re.match(r"--mount=type=cache,target=(\S+)\s+", value):
            mounts.append(Mount(self._caches[found[1]], found[1]))
            value = value[found.end() :]
        self._before(value, stage)
        more = {"HOME": "/root", **stage.arguments, **self.environment}
        done = stage.root.run("/bin/sh", "-c", value, mounts=mounts, environment=more)
        assert done.returncode == 0, f"RUN {value}\n{done.stdout}\n{done.stderr}"

    def _copy(self, stage: Stage, value: str) -> None:
        words = value.split()
        source = self._context
        copy: Callable[[Any, Any], object] = shutil.copy2
        if words[0].startswith("--from="):
            # A stage that was built does not change any more: a link does for hundreds of megabytes.
            source, copy = self.stages[words.pop(0).removeprefix("--from=")].root.folder, link
        *names, target = words
        place = stage.root.at(os.path.join(stage.root.workdir, target))
        for name in names:
            found = source / name.lstrip("/")
            if found.is_dir():  # what is in it, not itself
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, copy_function=copy)
            else:
                into = place / found.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                copy(found, into)

    def _user(self, stage: Stage, value: str) -> None:
        stage.root.user = value

    def _entrypoint(self, stage: Stage, value: str) -> None:
        stage.entrypoint = json.loads(value)  # the exec form is JSON

    def _cmd(self, stage: Stage, value: str) -> None:
        stage.command = json.loads(value)

    def _label(self, stage: Stage, value: str) -> None:
        assert all(text for _, text in pairs(value))

    def _healthcheck(self, stage: Stage, value: str) -> None:
        assert value == "NONE"


def context(folder: Path) -> Path:
    """Copy what a builder is sent, by .dockerignore, to a folder; return it.

    Of its grammar: `*`, then `!PATH` for what is sent all the same, then `**/NAME` for what is left out below.
    """
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    sent = [line[1:] for line in lines[1:] if line.startswith("!")]
    left_out = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    for name in sent:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target,
                ignore=lambda _, names: [n for n in names if any(fnmatch.fnmatch(n, p) for p in left_out)],
            )  # fmt: skip
        else:
            shutil.copy2(source, target)
    return folder
