"""What a job tells the person on stderr: a sentence a line, or on request a JSON object a line.

Owns: the form of these lines. A JSON line has `time` (UTC), `level` (info, warning or error), `message`, and what is
known of the job by then: `job` (the state's id), `state`, `epoch` (durable epochs since the workers started), `shard`
where a shard's worker failed, and what the caller adds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime

Fact = str | int | None
_known: dict[str, Fact | Callable[[], Fact]] = {}
_as_json = False


def begin(*, as_json: bool) -> None:
    """Choose the form of all lines from here on; nothing is known of any job."""
    global _as_json
    _as_json = as_json
    _known.clear()


def is_json() -> bool:
    """Return whether lines are JSON: then nothing may renew itself on the screen."""
    return _as_json


def know(**facts: Fact | Callable[[], Fact]) -> None:
    """Add facts to all lines from here on; a callable is asked at each."""
    _known.update(facts)


def say(text: str, level: str = "info", **facts: Fact) -> None:
    """Tell the person a sentence."""
    if _as_json:
        known = {name: fact() if callable(fact) else fact for name, fact in _known.items()} | facts
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": text}
        text = json.dumps(line | {name: fact for name, fact in known.items() if fact is not None})
    print(text, file=sys.stderr, flush=True)
