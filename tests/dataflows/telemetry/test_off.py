"""A job that tells nobody loads nothing for it, and has no thread for it; one that tells, does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookback.starter.write import write_starter

LIBRARIES = {"opentelemetry", "prometheus_client", "google.protobuf", "wsgiref"}
# Runs a job as `lookback` does, and says which libraries and threads its parent process had when its workers ended.
PROGRAM = """
import json, sys, threading
from dataflows import cli, live_round
from dataflows.processes import run_workers

def watched(*arguments, **hooks):
    try:
        return run_workers(*arguments, **hooks)
    finally:
        print(json.dumps({"modules": sorted(sys.modules), "threads": [one.name for one in threading.enumerate()]}))

live_round.run_workers = watched
cli.main()
"""


def _run(folder: Path, *more: str) -> tuple[set[str], list[str]]:
    """Run the starter's job; return the libraries of LIBRARIES that were loaded, and the parent's threads."""
    features, _ = write_starter(folder)
    words = [
        "run", str(features), "--source", f"archive:{folder / 'events'}", "--store", f"lmdb:{folder / 'store'}",
        "--state", str(folder / "state"), "--until-end", "--quiet", *more,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    loaded = {library for library in LIBRARIES if library in found["modules"]}
    return loaded, found["threads"]


def test_nothing_is_loaded_where_nothing_is_told(tmp_path: Path) -> None:
    assert _run(tmp_path) == (set(), ["MainThread"])


def test_it_would_be_seen(tmp_path: Path) -> None:
    loaded, threads = _run(tmp_path, "--metrics", "127.0.0.1:0")
    assert {"opentelemetry", "prometheus_client", "wsgiref"} <= loaded
    assert "metrics" in threads


@pytest.mark.parametrize("module", ["dataflows.worker", "dataflows.graph", "dataflows.telemetry.meters"])
def test_workers_load_nothing_whatever_is_told(module: str) -> None:
    """They write words; spans and samples are made of them by the parent."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not LIBRARIES & set(json.loads(done.stdout))
