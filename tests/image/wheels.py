"""The wheels that the image installs, kept on this machine, so that a build's pip need not download them each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.image.dockerfile import ROOT

LOCKS = ("requirements-image.lock", "requirements-build.lock")


def wheels() -> Path:
    """Return the folder of them, by the hash of what they are named by; downloads them where it is not there."""
    locks = b"".join((ROOT / lock).read_bytes() for lock in LOCKS)
    digest = hashlib.sha256(locks + sys.version.encode()).hexdigest()[:16]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookback"
    folder = kept / f"wheels-{digest}"
    if folder.is_dir():
        return folder
    kept.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".wheels-", dir=kept))
    try:
        for lock in LOCKS:  # one after the other: some packages are in both
            subprocess.run(
                [
                    sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                    "--dest", scratch, "-r", ROOT / lock,
                ],
                check=True,
            )  # fmt: skip
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
