"""What a definition means, in words and as JSON: the answer of `lookback check`.

Owns: the tables, and the estimate of what an entity costs to keep. Refuses: printing, colours, measuring.

    bytes an entity := ENTITY_BYTES + 8 * (row words * rows + lifetime words)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lookback.definition.view import SHORT_FINGERPRINT, Definition, View
from lookback.windows.layout import REACH_INFINITE, build_layout
from lookback.windows.plan import ROW_HEAD, Agg, Feature, Result
from lookback.windows.results import empty_word

ESTIMATE_ROWS = 100
ENTITY_BYTES = 160  # slot, key text, and what the tables that find them take
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def duration_text(duration_ms: int) -> str:
    """Return a duration in the largest unit that holds it whole.

    >>> duration_text(5_400_000)
    '90m'
    """
    for unit, unit_ms in _UNITS:
        if duration_ms % unit_ms == 0 and duration_ms >= unit_ms:
            return f"{duration_ms // unit_ms}{unit}"
    return "0s"


def type_text(one: Feature) -> str:
    """Return the type of a materialized feature's value, as docs name it."""
    text = one.result.value
    if one.result is Result.DECIMAL:
        text = f"decimal({one.precision},{one.scale})"
    elif one.agg in (Agg.TIME_SINCE_FIRST, Agg.TIME_SINCE_LAST, Agg.MEAN_GAP):
        text = "int64 ms"
    return f"list of {text}, {one.k} at most" if one.is_list else text


def empty_value(one: Feature) -> Any:
    """Return what a feature gives for an empty window, as JSON data (decimals as text)."""
    word = empty_word(one)
    if word is not None and one.result is Result.DECIMAL:
        sign, digits = ("-" if word < 0 else ""), str(abs(word)).rjust(one.scale + 1, "0")
        return f"{sign}{digits[: len(digits) - one.scale]}.{digits[len(digits) - one.scale :]}".rstrip(".")
    return word


def describe_json(definition: Definition) -> dict[str, Any]:
    """Return what a definition means as JSON data."""
    return {
        "path": definition.path,
        "fingerprint": definition.fingerprint,
        "description": definition.notes.description,
        "owner": definition.notes.owner,
        "streams": {
            stream.name: {
                "topic": stream.topic,
                "format": stream.format,
                "event_time": {"field": stream.event_time.field, "unit": stream.event_time.unit},
                "event_id": stream.event_id,
                "lateness_ms": stream.lateness_ms,
                "max_ahead_ms": stream.max_ahead_ms,
                "drop_repeats_ms": stream.drop_repeats_ms,
                "fields": {name: str(one.type) for name, one in stream.fields.items()},
            }
            for stream in definition.streams.values()
        },
        "views": {view.name: _view_json(view) for view in definition.views.values()},
        "on_demand": {
            one.name: {
                "type": one.type.kind,
                "expression": one.expression,
                "reads": [*one.requires, *one.on_demand],
                "streams": list(one.streams),
            }
            for one in definition.on_demand.values()
        },
        "services": {name: list(features) for name, features in definition.services.items()},
    }


def _view_json(view: View) -> dict[str, Any]:
    layout = build_layout(view.plan)
    row_bytes = 8 * (ROW_HEAD + view.plan.width)
    fixed_bytes = ENTITY_BYTES + 8 * layout.life_words
    return {
        "entity": view.entity.name,
        "key": dict(zip(view.key_names, view.key_fields, strict=True)),
        "stream": view.stream.name,
        "fingerprint": view.fingerprint,
        "short_fingerprint": view.short_fingerprint,
        "description": view.notes.description,
        "resolution_ms": view.plan.resolution_ms,
        "reach_ms": None if layout.reach_ms == REACH_INFINITE else layout.reach_ms,
        "row_bytes": row_bytes,
        "entity_bytes": fixed_bytes,
        "entity_bytes_with_100_rows": fixed_bytes + ESTIMATE_ROWS * row_bytes,
        "features": {one.name: _feature_json(view, one) for one in view.features},
    }


def _feature_json(view: View, one: Feature) -> dict[str, Any]:
    return {
        "agg": one.agg.name.lower(),
        "type": type_text(one),
        "empty": empty_value(one),
        "window_ms": one.window_ms,
        "delay_ms": one.delay_ms,
        "keeps_every_row": keeps_every_row(view, one),
    }


def keeps_every_row(view: View, one: Feature) -> bool:
    """Whether a feature alone makes the view keep all rows of an entity for ever."""
    if one.window_ms is not None:
        return False
    alone = type(view.plan)(view.plan.columns, view.plan.bits, (one,), view.plan.resolution_ms)
    return build_layout(alone).reach_ms == REACH_INFINITE


def describe(definition: Definition) -> str:
    """Return what a definition means as lines of text, for a terminal."""
    facts = describe_json(definition)
    lines = [
        f"{definition.path}: {_counts(definition)}, fingerprint {definition.fingerprint[:SHORT_FINGERPRINT]}"
    ]
    for stream in definition.streams.values():
        lines += [
            "",
            f"stream {stream.name}: topic {stream.topic} ({stream.format}), "
            f"{len(stream.fields)} fields, event time {stream.event_time.field} ({stream.event_time.unit}), "
            f"lateness {duration_text(stream.lateness_ms)}, max ahead {duration_text(stream.max_ahead_ms)}"
            + (
                ""
                if stream.drop_repeats_ms is None
                else f", repeats of {stream.event_id} dropped within {duration_text(stream.drop_repeats_ms)}"
            ),
        ]
    for view in definition.views.values():
        lines += ["", *_view_lines(view, facts["views"][view.name])]
    if definition.on_demand:
        rows = [(one.name, one.type.kind, one.expression) for one in definition.on_demand.values()]
        lines += ["", "on demand", *_table(("feature", "type", "expression"), rows)]
    for name, features in definition.services.items():
        lines += ["", f"service {name}: {len(features)} features", *(f"  {feature}" for feature in features)]
    return "\n".join(lines)


def _counts(definition: Definition) -> str:
    counted = [
        (len(definition.streams), "stream"),
        (len(definition.views), "view"),
        (len(definition.all_features()) - len(definition.on_demand), "feature"),
        (len(definition.on_demand), "on-demand feature"),
        (len(definition.services), "service"),
    ]
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted if count)


def _view_lines(view: View, facts: dict[str, Any]) -> Iterable[str]:
    keyed = ", ".join(
        outside if outside == inside else f"{outside} ({inside})" for outside, inside in facts["key"].items()
    )
    over = f"of {view.entity.name} over {view.stream.name}"
    yield f"view {view.name} {over}, fingerprint {view.short_fingerprint}"
    reach = "for ever" if facts["reach_ms"] is None else f"for {duration_text(facts['reach_ms'])}"
    yield f"  key {keyed}; rows of {facts['row_bytes']} bytes, kept {reach}"
    yield (
        f"  an entity with {ESTIMATE_ROWS} rows takes about {facts['entity_bytes_with_100_rows']:,} bytes "
        f"({facts['entity_bytes']:,} + {facts['row_bytes']} a row, texts apart)"
    )
    if view.plan.resolution_ms > 1:
        step = duration_text(view.plan.resolution_ms)
        yield f"  event times are floored to {step}: a window is off by at most {step}"
    rows = []
    for one in view.features:
        fact = facts["features"][one.name]
        marks = [f"delay {duration_text(one.delay_ms)}"] if one.delay_ms else []
        marks += ["keeps every row"] if fact["keeps_every_row"] else []
        empty = "null" if fact["empty"] is None else str(fact["empty"]).lower()
        rows.append((one.name, fact["agg"], fact["type"], empty, ", ".join(marks)))
    yield from _table(("feature", "aggregate", "type", "empty", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
