"""Run a live job in this one process, with its meters or without: `python -m benchmarks.unmetered with|without run …`.

Without them every call that the job makes goes to an empty function: what is left is what the job costs alone.
"""

from __future__ import annotations

import sys
from typing import Any

from dataflows.settings import Settings
from dataflows.telemetry.meters import Meters

CALLS = ("since", "fetched", "committed", "written", "failed", "closing", "durable")


def nothing(*_: Any) -> int:
    """Do nothing, at no time, for no trace."""
    return 0


def main() -> None:
    """Run the job here."""
    from dataflows import cli, live_round, worker

    how, arguments = sys.argv[1], sys.argv[2:]
    if how == "without":
        for name in CALLS:
            assert callable(getattr(Meters, name))
            setattr(Meters, name, nothing)

    def in_process(settings: Settings, *ticks: object, **hooks: object) -> bool:
        path = settings.folder / "settings.json"
        path.write_text(settings.to_json())
        worker.main([str(path), "0"])
        return False

    live_round.run_workers = in_process  # type: ignore[attr-defined]
    sys.argv = ["lookback", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
