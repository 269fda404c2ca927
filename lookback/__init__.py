"""The same features, as of any moment, from one definition and one code path.

The names below are loaded when they are first used: a command that only checks a definition, or a process that is about
to fork, does without the kernel that a `Client` needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookback.client import Client as Client
    from lookback.errors import DefinitionError as DefinitionError
    from lookback.errors import LookbackError as LookbackError
    from lookback.errors import RefusedError as RefusedError
    from lookback.errors import StoreError as StoreError
    from lookback.errors import UsageError as UsageError
    from lookback.reading import Reading as Reading
    from lookback.training import TrainingSet as TrainingSet
    from lookback.training import load_training as load_training

_WHERE = {
    "Client": "client",
    "DefinitionError": "errors",
    "LookbackError": "errors",
    "Reading": "reading",
    "RefusedError": "errors",
    "StoreError": "errors",
    "TrainingSet": "training",
    "UsageError": "errors",
    "load_training": "training",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Return one of the package's names."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
