"""Whether this process was asked to stop: the last epoch is committed, then it ends.

A signal sets it; sources stop at their next batch, and whatever waits for something outside gives up.
"""

from __future__ import annotations

import signal

_draining = False


def drain(*_: object) -> None:
    """Make every partition of this process stop at its next batch (a signal handler)."""
    global _draining
    _draining = True


def draining() -> bool:
    """Return whether this process was asked to stop."""
    return _draining


def drain_on_signals() -> None:
    """Stop cleanly on SIGTERM and SIGINT: the last epoch is committed, then the process ends."""
    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, drain)
