"""How a worker's failure reaches the person: a file that the parent reads, since Bytewax loses the message.

A user exception in a cluster of processes ends all of them but its message is in no log of theirs.
"""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from lookback.errors import LookbackError
from state.errors import StateError

FILE = "LOOKBACK_FAILURE_FILE"
NOTE_BYTES = 16 << 10  # the file is made at this length, so that a note fits on a disk that is full by then
TRACE_CHARS = 8 << 10

T = TypeVar("T")
C = TypeVar("C", bound=Any)


def note(error: BaseException, shard: int | None = None) -> None:
    """Write the failure down, of a shard where it is one's, unless this worker has noted one already."""
    path = os.environ.get(FILE)
    if path is None:
        return
    error = _cause(error)
    known = isinstance(error, (LookbackError, StateError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    record = {
        "message": text,
        "exit_code": error.exit_code if isinstance(error, (LookbackError, StateError)) else 1,
        "known": known,
        "kind": type(error).__name__,
        "shard": shard,
        "trace": "".join(traceback.format_exception(error))[-TRACE_CHARS:],
    }
    data = json.dumps(record).encode()
    with suppress(OSError), Path(path).open("r+b") as file:
        if file.read(1) == b" ":
            file.seek(0)
            file.write(data[:NOTE_BYTES])


def prepare(path: Path) -> None:
    """Make an empty note with room for one."""
    path.write_bytes(b" " * NOTE_BYTES)


def noted(path: Path) -> dict[str, Any] | None:
    """Return what a worker noted, None where none did."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def _cause(error: BaseException) -> BaseException:
    """Return our own error where Bytewax has wrapped it in one of its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, (LookbackError, StateError)):
            return inner
        inner = inner.__cause__
    return error


def guarded(method: Callable[..., T]) -> Callable[..., T]:
    """Note what a method that Bytewax calls raises, before Bytewax sees it."""

    @functools.wraps(method)
    def run(*args: object, **kwargs: object) -> T:
        try:
            return method(*args, **kwargs)
        except StopIteration:
            raise
        except BaseException as error:
            note(error, getattr(args[0] if args else None, "shard_number", None))  # none: bound already
            raise

    return run


def noting(connector: C) -> C:
    """Return a source or sink whose partitions note what they raise, before Bytewax sees it."""
    build = connector.build_part

    @guarded
    def build_part(*args: Any) -> Any:
        part = build(*args)
        for name in ("next_batch", "write_batch", "snapshot"):
            if hasattr(part, name):
                setattr(part, name, guarded(getattr(part, name)))
        return part

    connector.build_part = build_part
    return connector
