"""Every error that Lookback raises on purpose.

LookbackError                    exit 1: the work failed
├── UsageError                   exit 2: wrong use
│   └── DefinitionError          exit 2: a bad definition; one line a problem
├── RefusedError                 exit 3: refused to protect data
└── SourceError, StoreError      exit 1: an outside system failed
    ├── StoreBusy                it will take the same call later: a job waits, and says so
    └── StoreLost                it lost what it had acknowledged: a job writes everything again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LookbackError(Exception):
    """The work failed; the message is one sentence that says what to do."""

    exit_code = 1


class UsageError(LookbackError):
    """The call was wrong; nothing was done."""

    exit_code = 2


class RefusedError(LookbackError):
    """Going on could lose or double data; nothing was changed."""

    exit_code = 3


class SourceError(LookbackError):
    """A source could not be read."""


class StoreError(LookbackError):
    """An online store could not be read or written."""


class StoreBusy(StoreError):
    """An online store can't take this call just now; the same call may be made again."""


class StoreLost(StoreError):
    """An online store came back with less than it had acknowledged."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong in a definition file: 1-based line and column, and what to write instead."""

    line: int
    column: int
    message: str


class DefinitionError(UsageError):
    """A definition file is wrong; holds all problems found, in file order."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(f"{path}:{p.line}:{p.column}: {p.message}" for p in self.problems))
