"""A clock of a job's own, by libfaketime: the machine's is never touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

SITE = Path(__file__).resolve().parent / "clock_site"
LIBRARY = "libfaketimeMT.so.1"


def library() -> Path | None:
    """Return libfaketime, None where it is not installed."""
    found = sorted(Path("/usr/lib").glob(f"**/faketime/{LIBRARY}"))
    return found[0] if found else None


def skip_reason() -> str | None:
    """Return why no clock can be moved on this machine; None where one can."""
    return None if library() is not None else "no libfaketime: run `apt-get install libfaketime`"


class Clock:
    """The clock of the processes that are started in its `environment`."""

    def __init__(self, folder: Path) -> None:
        self._file, self._seen = folder / "clock", folder / "seen"
        self._seen.mkdir(parents=True)
        self.move(0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with whose clock this is."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
            "LOOKBACK_TEST_CLOCK_SEEN": str(self._seen),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH", "")])),
        }

    def move(self, seconds: int) -> None:
        """Set it so many seconds ahead of the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    def shows(self, seconds: int, pid: int) -> bool:
        """Return whether a process itself has it so many seconds ahead, give or take five."""
        path = self._seen / str(pid)
        return path.exists() and abs(float(path.read_text() or 0) - time.time() - seconds) < 5
