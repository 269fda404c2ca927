"""What the crash tests share: an archive, and what an undisturbed run of it leaves in the store."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SEED
from tests.contract.adapters import ADAPTERS
from tests.recovery.events import Archive, make_archive, write_definition
from tests.recovery.job import Job
from tests.recovery.served import Checker, Seen, picture

ROUNDS = int(os.environ.get("LOOKBACK_CRASH_ROUNDS", "1"))


@dataclass(frozen=True)
class Undisturbed:
    """An archive and the outcome of a run that nothing disturbed."""

    folder: Path
    definition: Path
    archive: Archive
    picture: dict[tuple[str, str], Seen]
    letters: dict[str, bytes]  # the files of dead letters


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return an archive and what a run without any crash, and without jitter, makes of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    definition = write_definition(folder)
    archive = make_archive(folder / "archive", seed=SEED)
    job = Job(folder, definition, archive, jitter_rows=None, epoch="1s")
    job.finish()
    seen = picture(definition, job.uri, archive)
    letters = dead_letters(job)
    lines = [line for text in letters.values() for line in text.splitlines()]
    refused = Counter(json.loads(line)["reason"] for line in lines)
    refused["bad"] = refused.pop("parse") + refused.pop("schema", 0)
    assert refused == archive.refused and refused["repeat"] > 50
    return Undisturbed(folder, definition, archive, seen, letters)


@pytest.fixture(params=["lmdb", "redis"])
def store_uri(request: pytest.FixtureRequest) -> str:
    """Return the URI of each kind of store in turn, new and empty; "" where each job has its own in its folder."""
    return "" if request.param == "lmdb" else ADAPTERS[request.param](request)


@pytest.fixture
def new_job(tmp_path: Path, undisturbed: Undisturbed) -> Callable[..., Job]:
    """Return a maker of jobs over the shared archive, each in a folder of its own."""
    made = 0

    def make(**settings: Any) -> Job:
        nonlocal made
        made += 1
        folder = tmp_path / f"job-{made}"
        folder.mkdir()
        settings.setdefault("seed", SEED)
        return Job(folder, undisturbed.definition, undisturbed.archive, **settings)

    return make


@pytest.fixture
def dice() -> random.Random:
    """Return a generator seeded with this run's seed."""
    return random.Random(SEED)


def dead_letters(job: Job) -> dict[str, bytes]:
    """Return the bytes of a job's files of dead letters."""
    return {path.name: path.read_bytes() for path in (job.state / "dead-letters").glob("*.jsonl")}


def assert_right(checker: Checker) -> None:
    """Fail with the first of what a reader should never have seen."""
    assert checker.sightings, "the poller saw nothing: nothing is proved"
    assert not checker.problems, f"{len(checker.problems)} of {checker.sightings}: {checker.problems[:5]}"
    assert not checker.complete(), checker.complete()[:5]
