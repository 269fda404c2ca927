"""How a worker's failure reaches the person: a file that the parent reads, since Bytewax loses the message.

A user exception in a cluster of processes ends all of them but its message is in no log of theirs.
"""

from __future__ import annotations

import functools
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lookback.errors import LookbackError
from state.errors import StateError

FILE = "LOOKBACK_FAILURE_FILE"

T = TypeVar("T")


def note(error: BaseException) -> None:
    """Write the failure down, unless this worker has noted one already."""
    path = os.environ.get(FILE)
    if path is None or Path(path).exists():
        return
    known = isinstance(error, (LookbackError, StateError))
    text = str(error) if known else f"{type(error).__name__}: {error}"
    record = {
        "message": text,
        "exit_code": error.exit_code if isinstance(error, (LookbackError, StateError)) else 1,
        "known": known,
        "trace": "".join(traceback.format_exception(error)),
    }
    temporary = Path(f"{path}.{os.getpid()}")
    temporary.write_text(json.dumps(record))
    temporary.rename(path)


def guarded(method: Callable[..., T]) -> Callable[..., T]:
    """Note what a method that Bytewax calls raises, before Bytewax sees it."""

    @functools.wraps(method)
    def run(*args: object, **kwargs: object) -> T:
        try:
            return method(*args, **kwargs)
        except StopIteration:
            raise
        except BaseException as error:
            note(error)
            raise

    return run
