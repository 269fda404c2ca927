"""Errors of the state.

StateError           exit 1: the work failed
└── StateRefused     exit 3: going on could lose or double events; nothing was changed
"""

from __future__ import annotations


class StateError(Exception):
    """The state could not be read or written; the message says what to do."""

    exit_code = 1


class StateRefused(StateError):
    """The state doesn't fit this job, or is damaged; it was left as it is."""

    exit_code = 3
