"""The manifests as kubectl builds them, and the tools that judge them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMMAND = "tests/deploy/tools.sh"
Object = dict[str, Any]

# Nothing here may ask the network, and nothing waits for an answer from it.
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}


def tools() -> Path:
    """Return the folder of the tools' programs; skips where they are not installed."""
    found = subprocess.run([ROOT / COMMAND, "--there"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"no kubectl, kubernetes-validate and checkov: run {COMMAND}, once")
    return Path(found.stdout.strip())


def run(program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the tools, offline."""
    environment = {**os.environ, **OFFLINE}
    done = subprocess.run(
        [tools() / program, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def built(overlay: str, kubernetes: Path = KUBERNETES) -> str:
    """Return what `kubectl apply -k` of an overlay would apply."""
    return run("kubectl", "kustomize", kubernetes / "overlays" / overlay).stdout


def objects(text: str) -> list[Object]:
    """Return the objects of a built overlay."""
    return list(yaml.safe_load_all(text))


def of_kind(found: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (one,) = (each for each in found if each["kind"] == kind)
    return one


def copied(folder: Path) -> Path:
    """Return a copy of the manifests, to be edited as the docs say."""
    return Path(shutil.copytree(KUBERNETES, folder / "kubernetes"))
