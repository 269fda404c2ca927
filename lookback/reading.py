"""What a read gives back, and how it prints.

Owns: the shape of an answer (Python values and the JSON of `lookback get --json`). Refuses: finding it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

OK = "ok"  # a value as of `as_of_ms`
DEFAULT = "default"  # nothing in the window, or only nulls: the empty value, or the feature's `default:`
STALE = "stale"  # the stored value of the last update: the entity has more rows than the store keeps
UNKNOWN = "unknown"  # the store has no such entity: the empty window's value (of the request row alone)
TRIMMED = "trimmed"  # null: rows that the value needs have left the store
OVERFLOW = "overflow"  # null: the result does not fit its type
DISABLED = "disabled"  # null: the feature is switched off
# What makes an on-demand feature's inputs, and so its value, less than they seem; the worst first.
DOUBTS = (DISABLED, TRIMMED, OVERFLOW, STALE, UNKNOWN)

_PLAIN = {int, float, str, bool, type(None)}  # what JSON has as it is
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(slots=True)
class Reading:
    """Features of one entity, all as of one instant.

    values, status: by feature, `view.feature_window` or the on-demand name, in the order asked for.
    age_ms: by view, from the entity's newest event (of a stale record: from its last update) to
    `as_of_ms`; None where there is none. watermark_ms: by view, how far the job had got when it last wrote
    the entity. covers_from_ms: by view, rows are complete after this time; None: from the beginning.
    """

    entity: dict[str, Any]
    as_of_ms: int
    values: dict[str, Any]
    status: dict[str, str]
    age_ms: dict[str, int | None]
    watermark_ms: dict[str, int | None]
    covers_from_ms: dict[str, int | None]

    def __getitem__(self, feature: str) -> Any:
        """Return one feature's value."""
        return self.values[feature]

    def to_dict(self) -> dict[str, Any]:
        """Return what `to_json` prints, as plain objects: decimals as texts, times in ms."""
        return {
            "entity": self.entity,
            "as_of_ms": self.as_of_ms,
            "values": {
                name: value if type(value) in _PLAIN else plain(value) for name, value in self.values.items()
            },
            "status": self.status,
            "age_ms": self.age_ms,
            "watermark_ms": self.watermark_ms,
        }

    def to_json(self) -> str:
        """Return the reading as one line of JSON."""
        return _encode(self.to_dict())


def plain(value: Any) -> Any:
    """Return a value as JSON has it.

    >>> plain([Decimal("1.50"), None])
    ['1.50', None]
    """
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def worst(status: Mapping[str, str], inputs: tuple[str, ...], value: Any) -> str:
    """Return the status of an on-demand feature: its inputs' worst doubt, else whether it has a value."""
    found = {status[name] for name in inputs}
    for doubt in DOUBTS:
        if doubt in found:
            return doubt
    return OK if value is not None else DEFAULT
