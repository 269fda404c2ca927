"""The Dockerfile, built step by step in clean folders, and what a container of it does.

There is no daemon: each step runs in a root folder of its own, as a container's process does (`container`), the last
stage's processes as its user, on a read-only root. The base is the tests' own Python. Two things are taken from this
machine, as a builder takes them from its cache: the wheels, which are downloaded once, and all kernels but two, which
were compiled for the CPU that this machine has; the two are compiled by the step. With LOOKBACK_IMAGE=whole nothing is
taken but the wheels, and the kernels are all compiled for the CPU that the Dockerfile names: some minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lookback.windows.cache import cache_dir, cpu
from tests.image.container import Mount, Root, skip_unless_possible
from tests.image.dockerfile import ROOT, Build, Stage, context, instructions
from tests.image.wheels import wheels

WHOLE = os.environ.get("LOOKBACK_IMAGE") == "whole"
WHEELS = "/root/.cache/pip"
HOME = "/var/lib/lookback"
USER = 65532
pytestmark = [pytest.mark.timeout(3600)] if WHOLE else []


@dataclass
class Image:
    """What was built."""

    build: Build
    stage: Stage
    left_out: list[str]  # functions whose kernels were not taken from this machine

    @property
    def root(self) -> Root:
        """Return the root of the last stage."""
        return self.stage.root


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    skip_unless_possible()
    # Not a test's own folder: that is closed to the image's user.
    folder = Path(tempfile.mkdtemp(prefix="lookback-image-", dir=roomy()))
    folder.chmod(0o755)
    try:
        yield build(folder)
    finally:
        shutil.rmtree(folder)


def roomy() -> Path | None:
    """Return a folder in memory, where a gigabyte is soon written and gone; None where there is none for it."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else None


def build(folder: Path) -> Image:
    """Build the Dockerfile in a folder."""
    left_out: list[str] = []

    def before(run: str, stage: Stage) -> None:
        if "scripts.warm" in run and not WHOLE and cache_dir().is_dir():
            kept = stage.root.at(f"/opt/lookback/cache/kernels/{cache_dir().name}")
            shutil.copytree(cache_dir(), kept)
            sizes = {
                function_of(path): path.stat().st_size for path in kept.glob("*.kernel") if is_ours(path)
            }
            left_out.extend(sorted(sizes, key=sizes.__getitem__)[:2])
            for kernel in kept.glob("*.kernel"):
                if function_of(kernel) in left_out:
                    kernel.unlink()

    arguments = {"TARGETARCH": "amd64"}
    if not WHOLE:
        name, features = cpu()
        arguments |= {"KERNEL_CPU": name, "KERNEL_CPU_FEATURES": features}
    made = Build(folder, context(folder / "context"), arguments, {WHEELS: wheels()}, before)
    # As on a builder without the network; pip keeps nothing there.
    made.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_NO_CACHE_DIR": "1"}
    return Image(made, made.run(ROOT / "Dockerfile"), left_out)


def function_of(kernel: Path) -> str:
    """Return module and name of a kernel's function; a machine may have it of several releases."""
    return kernel.name.rpartition("-")[0]


def is_ours(kernel: Path) -> bool:
    """Return whether this release has the function still."""
    module, _, name = function_of(kernel).rpartition(".")
    source = ROOT / (module.replace(".", "/") + ".py")
    return source.exists() and f"def {name}(" in source.read_text()


def listing(root: Root) -> dict[str, tuple[int, int, int, int, int]]:
    """Return mode, owner, size and times of all that is in a root."""
    found = {}
    for folder, folders, files in os.walk(root.folder):
        for name in [*folders, *files]:
            path = Path(folder, name)
            told = path.lstat()
            found[str(path)] = (told.st_mode, told.st_uid, told.st_gid, told.st_size, told.st_mtime_ns)
    return found


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Mount]:
    """Return an empty folder of the image's user, mounted where it writes."""
    folder = Path(tempfile.mkdtemp(prefix="lookback-volume-", dir=roomy()))
    os.chown(folder, USER, USER)
    yield Mount(folder, HOME)
    shutil.rmtree(folder)


@pytest.fixture
def no_compiler(tmp_path: Path) -> Mount:
    """Return a folder that stands in the way of Numba: whoever imports it, which compiling begins with, fails."""
    folder = Path(tempfile.mkdtemp(prefix="numba-", dir=tmp_path)) / "site"
    (folder / "numba").mkdir(parents=True)
    (folder / "numba" / "__init__.py").write_text("raise SystemExit('a container compiles nothing')\n")
    return Mount(folder, "/opt/site", read_only=True)


def test_what_the_file_promises() -> None:
    steps = instructions(ROOT / "Dockerfile")
    text = (ROOT / "Dockerfile").read_text()
    [base] = [value.partition("=")[2] for name, value in steps if name == "ARG" and "IMAGE" in value]
    assert re.fullmatch(r"python:3\.12\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)  # and no host before it
    stages = [value.split() for name, value in steps if name == "FROM"]
    names = {words[2] for words in stages if len(words) == 3}
    assert {words[0] for words in stages} <= {"${PYTHON_IMAGE}", "${TARGETARCH}", *names}
    assert {"amd64", "arm64"} <= names and stages[-1] == ["base"]
    final = [one for one in steps[max(i for i, one in enumerate(steps) if one[0] == "FROM") :]]
    assert ("USER", f"{USER}:{USER}") in final
    assert [json.loads(value) for name, value in final if name == "ENTRYPOINT"] == [["lookback"]]
    assert not re.search(
        r"\b(apt|apt-get|curl|wget|ADD|sudo)\b", re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    )
    for lock in ("requirements-image.lock", "requirements-build.lock"):
        locked = (ROOT / lock).read_text()
        assert locked.count("==") > 5 and not re.search(r"https?:|^-", locked, re.MULTILINE)


def test_the_locks_of_the_image_are_part_of_the_whole() -> None:
    """What the tests run with is what the image runs with, to the version and the hash."""

    def pins(name: str) -> set[str]:
        return set(re.split(r"\n(?=\S)", (ROOT / name).read_text().strip()))

    names = {pin.split("==")[0] for pin in pins("requirements-image.lock")}
    assert {"bytewax", "confluent-kafka", "redis", "fastavro"} <= names and not {"pytest", "duckdb"} & names
    assert pins("requirements-image.lock") | pins("requirements-build.lock") <= pins("requirements.lock")


def test_kernels_are_compiled_by_the_build(image: Image) -> None:
    [folder] = image.root.at("/opt/lookback/cache/kernels").iterdir()
    kept = list(folder.iterdir())
    assert len(kept) > 20 and all(path.suffix == ".kernel" for path in kept)
    assert set(image.left_out) <= set(map(function_of, kept)) and (WHOLE or len(image.left_out) == 2)


def test_the_image_holds_no_tools_and_nothing_that_its_user_may_change(image: Image) -> None:
    packages = {path.name.split("-")[0] for path in image.root.at("/opt/lookback").rglob("*.dist-info")}
    assert {"lookback", "bytewax"} <= packages and not {"pip", "hatchling", "pytest"} & packages
    assert not image.root.at("/src").exists()
    owned = {path for path, told in listing(image.root).items() if told[1] == USER}
    assert owned == {str(image.root.at(HOME))}
    writable = [path for path, told in listing(image.root).items() if told[0] & 0o020002 == 0o000002]
    assert [path for path in writable if not os.path.islink(path)] == []


def test_a_container_answers(image: Image) -> None:
    told = image.root.run(*image.stage.entrypoint, *image.stage.command, read_only=True)
    assert told.returncode == 0 and "lookback" in told.stdout
    features = Mount(ROOT / "features", "/features", read_only=True)
    words = (*image.stage.entrypoint, "check", "/features/fraud.yaml", "--json")
    checked = image.root.run(*words, mounts=[features], read_only=True)
    assert checked.returncode == 0, checked.stderr
    here = [sys.executable, "-m", "dataflows.cli", "check", str(ROOT / "features" / "fraud.yaml"), "--json"]
    ours = json.loads(subprocess.check_output(here, cwd=ROOT))
    assert json.loads(checked.stdout) == {**ours, "path": "/features/fraud.yaml"}
    refused = image.root.run(*image.stage.entrypoint, "check", "/none.yaml", read_only=True)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


def job(image: Image, *more: str) -> tuple[str, ...]:
    """Return the words of a job over the starter's sample."""
    files = ("my/features.yaml", "--source", "archive:my/events", "--store", "lmdb:store", "--state", "state")
    return (*image.stage.entrypoint, "run", *files, "--workers", "2", "--epoch", "100ms", *more)


def value(image: Image, root: Root, mounts: list[Mount]) -> dict[str, Any]:
    """Return what the store says of a card, as a container reads it."""
    at = ("--at", "2024-01-14T23:59:00Z", "--json")
    words = ("get", "my/features.yaml", "--store", "lmdb:store", "card=c7", "merchant=m3", *at)
    told = root.run(*image.stage.entrypoint, *words, mounts=mounts, read_only=True)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)["values"]
    return found


def test_a_job_compiles_nothing_and_writes_to_its_volume_alone(
    image: Image, volume: Mount, no_compiler: Mount
) -> None:
    mounts = [volume, no_compiler]
    environment = {**image.root.environment, "PYTHONPATH": no_compiler.target}
    root = replace(image.root, environment=environment)
    blocked = root.run("python", "-c", "import numba", mounts=mounts, read_only=True)
    assert blocked.returncode == 1 and "compiles nothing" in blocked.stderr
    assert root.run("lookback", "init", "my", mounts=mounts, read_only=True).returncode == 0
    before = listing(image.root)
    done = root.run(*job(image, "--until-end"), mounts=mounts, read_only=True)
    assert done.returncode == 0, done.stderr
    assert listing(image.root) == before
    assert {path.name for path in volume.source.iterdir()} == {"my", "store", "state"}
    owners = {path.stat().st_uid for path in volume.source.rglob("*")}
    assert owners == {USER}
    # The same commands without an image give the same.
    folder = volume.source / "here"
    folder.mkdir()
    lookback = [sys.executable, "-m", "dataflows.cli"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*lookback, "init", "my"], cwd=folder, env=environment, check=True)
    words = job(image, "--until-end")[1:]
    subprocess.run([*lookback, *words], cwd=folder, env=environment, check=True, capture_output=True)
    at = ("--at", "2024-01-14T23:59:00Z", "--json")
    get = ["get", "my/features.yaml", "--store", "lmdb:store", "card=c7", "merchant=m3", *at]
    ours = json.loads(subprocess.check_output([*lookback, *get], cwd=folder, env=environment))["values"]
    assert value(image, root, mounts) == ours and any(ours.values())


def test_sigterm_reaches_the_first_process_and_drains_the_job(
    image: Image, volume: Mount, tmp_path: Path
) -> None:
    """The job is number 1 of its namespace: a signal that it did not handle itself would be thrown away."""
    mounts = [volume]
    slow = replace(image.root, environment={**image.root.environment, "LOOKBACK_TEST_JITTER": "1:20"})
    assert slow.run("lookback", "init", "my", mounts=mounts, read_only=True).returncode == 0
    log = tmp_path / "said"
    with slow.running(*job(image), log=log, mounts=mounts, read_only=True) as running:
        counted = wait_for_events(image, volume)
        assert int(running.first().uids().real) == USER
        running.signal(signal.SIGTERM)
        assert running.wait(60) == 0, log.read_text()
    assert counted < events(image, volume) < 2_000  # stopped on the way, its last epoch committed
    done = image.root.run(*job(image, "--until-end"), mounts=mounts, read_only=True)
    assert done.returncode == 0, done.stderr
    assert events(image, volume) == 2_000
    assert any(value(image, image.root, mounts).values())


def events(image: Image, volume: Mount) -> int:
    """Return how many events the job has durably read."""
    words = ("lookback", "status", "--state", "state", "--json")
    told = image.root.run(*words, mounts=[volume], read_only=True)
    if told.returncode:
        return 0
    return sum(part["offset"] for part in json.loads(told.stdout)["partitions"].values())


def wait_for_events(image: Image, volume: Mount) -> int:
    """Return how many events are durable, once some are."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := events(image, volume):
            return found
        time.sleep(0.2)
    raise AssertionError("no event was ever counted")
