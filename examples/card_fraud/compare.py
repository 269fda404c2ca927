"""Compare what a job wrote live with what a replay gives, value by value, bit by bit.

Owns: the comparison of two tables of feature values and what it counts. Refuses: where the tables come from
(see `live` for the store's side; the training output is the other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
KEY = "entity_key"
EXAMPLES = 5


@dataclass(frozen=True)
class Difference:
    """One value that differs: of which entity and feature, and what either side holds."""

    entity_key: str
    feature: str
    live: Any
    replayed: Any

    def __str__(self) -> str:
        """Return it as a line for people."""
        return f"{self.feature} of {self.entity_key}: live {self.live!r}, replayed {self.replayed!r}"


@dataclass
class Comparison:
    """How many values were compared, how many differ, and the first few of those."""

    entities: int = 0
    compared: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)

    def __add__(self, other: Comparison) -> Comparison:
        """Return both taken together."""
        return Comparison(
            self.entities + other.entities,
            self.compared + other.compared,
            self.differing + other.differing,
            (self.examples + other.examples)[:EXAMPLES],
        )


def compare(live: pa.Table, replayed: pa.Table, features: Sequence[str]) -> Comparison:
    """Compare the columns `features` of both tables, entity by entity.

    live, replayed: a column KEY with each entity's key once, any order, and a column a feature. An entity
    that only one side has counts as differing in every feature. Two values are equal if both are null, or if
    their bits are the same: 0.0 and -0.0 differ, as do two sums one rounding apart. Raises ValueError when
    the columns are of different types or an entity comes twice.
    """
    live, replayed = live.sort_by(KEY), replayed.sort_by(KEY)
    for table in (live, replayed):
        if pc.count_distinct(table[KEY]).as_py() != table.num_rows:
            raise ValueError("an entity comes twice")
    in_both_live = pc.is_in(live[KEY], replayed[KEY])
    in_both_replayed = pc.is_in(replayed[KEY], live[KEY])
    result = Comparison()
    for table, keep in ((live, in_both_live), (replayed, in_both_replayed)):
        lonely = table.filter(pc.invert(keep))
        result += _lonely(lonely, features, is_live=table is live)
    live, replayed = live.filter(in_both_live), replayed.filter(in_both_replayed)
    keys = live[KEY]
    result.entities += live.num_rows
    for feature in features:
        a, b = live[feature], replayed[feature]
        if a.type != b.type:
            raise ValueError(f"{feature}: {a.type} on one side, {b.type} on the other")
        places = np.flatnonzero(differs(a, b))
        result.compared += live.num_rows
        result.differing += len(places)
        for i in places[: EXAMPLES - len(result.examples)].tolist():
            result.examples.append(Difference(keys[i].as_py(), feature, a[i].as_py(), b[i].as_py()))
    return result


def _lonely(table: pa.Table, features: Sequence[str], *, is_live: bool) -> Comparison:
    n = table.num_rows
    examples = []
    for i in range(min(n, 1)):
        value = table[features[0]][i].as_py()
        pair = (value, "no such entity") if is_live else ("no such entity", value)
        examples.append(Difference(table[KEY][i].as_py(), features[0], *pair))
    return Comparison(n, n * len(features), n * len(features), examples)


def differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Bools:
    """Return bool[n]: where two columns of the same type and length differ."""
    if pa.types.is_nested(a.type):
        return np.array([x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)], np.bool_)
    null_a, null_b = (np.asarray(pc.is_null(column)) for column in (a, b))
    if pa.types.is_float64(a.type):
        bits_a, bits_b = (np.asarray(pc.fill_null(column, 0.0)).view(np.int64) for column in (a, b))
        unequal = bits_a != bits_b
    else:
        unequal = np.asarray(pc.fill_null(pc.not_equal(a, b), False))
    either: Bools = (null_a != null_b) | (~null_a & ~null_b & unequal)
    return either
