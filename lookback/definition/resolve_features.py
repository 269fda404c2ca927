"""One feature of a view: which options its aggregate takes, and whether they fit.

Owns: the rules of `of`, `where`, `windows`, `delay`, `k`, `half_life`, `default` and ratios.
Refuses: other views, streams, the layout of rows (see `compile`).
"""

from __future__ import annotations

from lookback.definition.check_model import Parts
from lookback.definition.compile import (
    DECAYED_AGGS,
    K_AGGS,
    NUMERIC_AGGS,
    ORDERED_AGGS,
    ROW_AGGS,
    FeatureSpec,
    Side,
    both_conditions,
    result_type,
)
from lookback.definition.expression_parse import parse_condition
from lookback.definition.expression_read import ExpressionError, names_in, suggestion
from lookback.definition.expression_tree import EVENT_TIME, TIMESTAMP, Node, ValueType, value_type
from lookback.definition.model import FeatureModel, RatioPartModel
from lookback.definition.source import Path
from lookback.definition.types import LIFETIME_NAME, Field, FieldType, Notes, Stream, parse_duration
from lookback.definition.values import parse_value
from lookback.windows.plan import Agg, Result


def resolve_feature(
    parts: Parts, at: Path, name: str, model: FeatureModel, stream: Stream, resolution_ms: int
) -> FeatureSpec | None:
    """Return a feature as resolved, or None with its problems reported."""
    before = len(parts.problems)
    agg = Agg[model.agg.upper()]
    windows = _windows(parts, at, model, resolution_ms)
    where = condition(parts, (*at, "where"), model.where, stream)
    delay_ms = _duration(parts, (*at, "delay"), model.delay)
    half_life_ms = _half_life(parts, at, agg, model)
    _check_k(parts, at, agg, model)
    other: Side | None = None
    if agg is Agg.RATIO:
        side, other = _ratio(parts, at, model, stream, where)
    else:
        for key in ("numerator", "denominator"):
            if getattr(model, key) is not None:
                parts.report(
                    (*at, key), f"`{key}` belongs to ratio; remove it or write `agg: ratio`", at_key=True
                )
        of = _of(parts, at, agg, model.of, stream)
        side = Side(agg, of, where)
    has_default = "default" in model.model_fields_set
    if len(parts.problems) > before or _waits_for_broken(parts, model, stream):
        return None
    default = _default(parts, at, agg, side.of) if has_default else None
    if len(parts.problems) > before or windows is None or delay_ms is None:
        return None
    notes = Notes(model.description, model.owner, tuple(model.tags))
    k = model.k or 0
    return FeatureSpec(
        name, agg, side, windows, delay_ms, k, half_life_ms, default, has_default, other, notes
    )


def _waits_for_broken(parts: Parts, model: FeatureModel, stream: Stream) -> bool:
    """Whether the feature uses a field that is declared but broken, which is reported already."""
    broken = parts.declared("streams", stream.name, "fields") - set(stream.fields)
    used = {model.of} | names_in(model.where or "")
    for side in (model.numerator, model.denominator):
        if side is not None:
            used |= {side.of} | names_in(side.where or "")
    return bool(broken & used)


def _duration(parts: Parts, path: Path, text: str) -> int | None:
    try:
        return parse_duration(text)
    except ValueError as error:
        parts.report(path, str(error))
        return None


def _windows(
    parts: Parts, at: Path, model: FeatureModel, resolution_ms: int
) -> tuple[tuple[str, int | None], ...] | None:
    found: list[tuple[str, int | None]] = []
    right = True
    for index, text in enumerate(model.windows):
        path: Path = (*at, "windows", index)
        if text in model.windows[:index]:
            parts.report(path, f"the window {text} is listed twice; remove one")
            right = False
        elif text == LIFETIME_NAME:
            found.append((text, None))
        else:
            window_ms = _duration(parts, path, text)
            if window_ms is None:
                right = False
            elif window_ms == 0:
                parts.report(path, f"a window must be longer than 0; `{text}` holds no event")
                right = False
            elif window_ms < resolution_ms:
                parts.report(path, f"the window {text} is shorter than the view's resolution; lengthen it")
                right = False
            else:
                found.append((text, window_ms))
    return tuple(found) if right else None


def _half_life(parts: Parts, at: Path, agg: Agg, model: FeatureModel) -> int:
    if agg not in DECAYED_AGGS:
        if model.half_life is not None:
            parts.report((*at, "half_life"), _not_taken("half_life", agg, "decayed_count, decayed_sum"), True)
        return 0
    if model.half_life is None:
        parts.report(at, f"{agg.name.lower()} needs a `half_life`, such as `half_life: 1d`")
        return 0
    found = _duration(parts, (*at, "half_life"), model.half_life)
    if found == 0:
        parts.report((*at, "half_life"), "a half-life must be longer than 0")
    return found or 0


def _check_k(parts: Parts, at: Path, agg: Agg, model: FeatureModel) -> None:
    if agg in K_AGGS and model.k is None:
        parts.report(at, f"{agg.name.lower()} needs `k`, how many values to keep, such as `k: 3`")
    elif agg not in K_AGGS and model.k is not None:
        parts.report((*at, "k"), _not_taken("k", agg, "top_k, last_k"), at_key=True)


def _not_taken(key: str, agg: Agg, takers: str) -> str:
    return f"{agg.name.lower()} takes no `{key}` (that is for {takers}); remove it"


def find_field(parts: Parts, path: Path, name: str, stream: Stream) -> Field | None:
    """Return a stream's field, or None: unknown (reported) or broken (reported elsewhere)."""
    if name in stream.fields:
        return stream.fields[name]
    if name not in parts.declared("streams", stream.name, "fields"):
        near = suggestion(name, stream.fields) or f"; it has {', '.join(stream.fields)}"
        parts.report(path, f"stream {stream.name} has no field `{name}`{near}")
    return None


def _of(parts: Parts, at: Path, agg: Agg, name: str | None, stream: Stream) -> Field | None:
    said = agg.name.lower()
    path: Path = (*at, "of")
    if name is None:
        if agg not in ROW_AGGS:
            parts.report(
                at, f"{said} needs `of`, the field to aggregate, such as `of: {_example(agg, stream)}`"
            )
        return None
    of = find_field(parts, path, name, stream)
    if of is None:
        return None
    if agg in NUMERIC_AGGS and of.type.kind not in ("int64", "float64", "decimal"):
        hint = (
            "; a share of rows is `agg: ratio`" if of.type.kind == "bool" else "; count or distinct takes any"
        )
        parts.report(path, f"{said} takes numbers, `{name}` is {of.type}{hint}")
        return None
    if agg in ORDERED_AGGS and of.type.kind == "string":
        parts.report(
            path, f"{said} takes numbers, bools and times, `{name}` is {of.type}; mode or last takes any"
        )
        return None
    return of


def _example(agg: Agg, stream: Stream) -> str:
    for name, one in stream.fields.items():
        if agg not in NUMERIC_AGGS | ORDERED_AGGS or one.type.kind in ("int64", "float64", "decimal"):
            return name
    return "amount"


def where_names(stream: Stream) -> dict[str, ValueType]:
    """Return what a `where` over a stream may name: its fields and `event_time`."""
    return {name: value_type(one.type) for name, one in stream.fields.items()} | {EVENT_TIME: TIMESTAMP}


def condition(parts: Parts, path: Path, text: str | None, stream: Stream) -> Node | None:
    """Return a `where` as a tree; None where there is none or it is wrong (reported)."""
    if text is None:
        return None
    broken = parts.declared("streams", stream.name, "fields") - set(stream.fields)
    if names_in(text) & broken:
        return None
    try:
        return parse_condition(text, where_names(stream))
    except ExpressionError as error:
        parts.report_inside(path, error.offset, error.message)
        return None


def _ratio(
    parts: Parts, at: Path, model: FeatureModel, stream: Stream, where: Node | None
) -> tuple[Side, Side | None]:
    if model.of is not None:
        parts.report((*at, "of"), "a ratio takes `of` inside numerator and denominator", at_key=True)
    sides: list[Side] = []
    for key in ("numerator", "denominator"):
        side: RatioPartModel | None = getattr(model, key)
        if side is None:
            parts.report(at, f"ratio needs a `{key}`, such as `{key}: {{agg: count}}`")
            continue
        path: Path = (*at, key)
        of = _of(parts, path, Agg[side.agg.upper()], side.of, stream)
        own = condition(parts, (*path, "where"), side.where, stream)
        sides.append(Side(Agg[side.agg.upper()], of, both_conditions(where, own)))
    if len(sides) < 2:
        return Side(Agg.COUNT), None
    return sides[0], sides[1]


def _default(parts: Parts, at: Path, agg: Agg, of: Field | None) -> int | float | str | bool | None:
    """Return `default:` as rows store a value of the feature's type."""
    path: Path = (*at, "default")
    if agg in K_AGGS:
        parts.report(path, f"{agg.name.lower()} gives a list and takes no default; remove it", at_key=True)
        return None
    node = parts.root.find(path)
    assert node is not None
    value = node.value
    result, precision, scale = result_type(agg, of.type if of else None)
    kind = {
        Result.INT: FieldType("int64"),
        Result.FLOAT: FieldType("float64"),
        Result.DECIMAL: FieldType("decimal", min(precision, 18), scale),
        Result.BOOL: FieldType("bool"),
        Result.TEXT: FieldType("string"),
        Result.TIMESTAMP: FieldType("timestamp"),
    }[result]
    if kind.kind == "decimal" and isinstance(value, float):
        value = node.text  # as written: every digit counts
    try:
        return parse_value(kind, value)
    except ValueError as error:
        parts.report(path, f"`default` {error}; {agg.name.lower()} gives {kind}")
        return None
