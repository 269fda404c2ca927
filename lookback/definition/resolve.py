"""From models to meaning: streams, entities and views that exist, fit and are named apart.

Owns: every check that needs to know what a name stands for. Refuses: YAML, shapes (see `check_model`),
features one by one (see `resolve_features`) and on-demand ones (see `resolve_on_demand`).
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from typing import Literal

from lookback.definition.check_model import Parts
from lookback.definition.compile import compile_view
from lookback.definition.encode import ViewEncoder
from lookback.definition.expression_parse import FUNCTIONS
from lookback.definition.expression_read import suggestion
from lookback.definition.expression_tree import EVENT_TIME
from lookback.definition.fingerprint import view_fingerprint
from lookback.definition.model import EntityModel, Noted, StreamModel, ViewModel
from lookback.definition.resolve_features import resolve_feature
from lookback.definition.source import Path
from lookback.definition.types import (
    Entity,
    EventTime,
    Field,
    Notes,
    Stream,
    parse_duration,
    parse_field_type,
)
from lookback.definition.view import View

RESERVED = frozenset(keyword.kwlist) | {*FUNCTIONS, EVENT_TIME, "null", "true", "false", "none"}
POSITION_COLUMNS = frozenset({"event_time_ms", "_topic", "_partition", "_offset"})


def notes(model: Noted) -> Notes:
    """Return what people say about a thing."""
    return Notes(model.description, model.owner, tuple(model.tags))


def duration(parts: Parts, path: Path, text: str, positive: bool = False) -> int | None:
    """Return a duration in ms, or None with the problem reported."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        parts.report(path, str(error))
        return None
    if positive and found == 0:
        parts.report(path, f"`{text}` is no time at all; write a duration above 0")
        return None
    return found


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that stands for nothing."""
    known = list(known)
    near = suggestion(name, known)
    return f"there is no {what} `{name}`{near or ('; there are ' + ', '.join(known) if known else '')}"


def resolve_streams(parts: Parts) -> dict[str, Stream]:
    """Return the streams that are right; the others are reported."""
    streams: dict[str, Stream] = {}
    topics: dict[str, str] = {}
    for name, model in parts.models["streams"].items():
        stream = _stream(parts, name, model)
        if model.topic in topics:
            parts.report(
                ("streams", name, "topic"),
                f"stream `{topics[model.topic]}` reads the topic {model.topic} already; use one for both",
            )
        topics.setdefault(model.topic, name)
        if stream is None:
            parts.broken.add(("streams", name))
        else:
            streams[name] = stream
    return streams


def _stream(parts: Parts, name: str, model: StreamModel) -> Stream | None:
    at: Path = ("streams", name)
    lateness = duration(parts, (*at, "lateness"), model.lateness)
    ahead = duration(parts, (*at, "max_ahead"), model.max_ahead)
    fields: dict[str, Field] = {}
    for field_name, field in model.fields.items():
        path = (*at, "fields", field_name)
        if field_name == EVENT_TIME:
            parts.report(
                path,
                f"`{EVENT_TIME}` stands for the event's time in expressions; call the field otherwise, "
                f"with `from: {EVENT_TIME}`",
                at_key=True,
            )
        try:
            kind = parse_field_type(field.type)
        except ValueError as error:
            parts.report((*path, "type"), str(error))
            parts.broken.add(path)
            continue
        fields[field_name] = Field(field_name, kind, field.from_ or field_name, notes(field))
    event_id = model.event_id
    if event_id is not None and event_id not in fields:
        if event_id not in parts.declared(*map(str, at), "fields"):
            parts.report((*at, "event_id"), unknown("field", event_id, fields) + " (list it in fields)")
    elif event_id is not None and fields[event_id].type.kind not in ("int64", "string"):
        parts.report((*at, "event_id"), f"`{event_id}` is {fields[event_id].type}; an id is int64 or string")
    elif event_id in POSITION_COLUMNS:
        parts.report(
            (*at, "event_id"), f"`{event_id}` is a column of training output; rename it with `from:`"
        )
    repeats = _drop_repeats(parts, at, model, lateness)
    if lateness is None or ahead is None:
        return None
    time = EventTime(model.event_time.field, model.event_time.unit)
    return Stream(
        name, model.topic, model.format, time, event_id, lateness, ahead, fields, notes(model), repeats
    )


def _drop_repeats(parts: Parts, at: Path, model: StreamModel, lateness: int | None) -> int | None:
    """Return for how long a stream's ids are remembered, None where they aren't; problems are reported."""
    if model.drop_repeats is None:
        return None
    path = (*at, "drop_repeats")
    found = duration(parts, path, model.drop_repeats)
    if model.event_id is None:
        parts.report(path, "repeats are told by their id: name the field that holds it with `event_id`")
    elif found is not None and lateness is not None and found < lateness:
        parts.report(
            path,
            f"`{model.drop_repeats}` is less than the lateness: repeats older than that would count again; "
            f"write {model.lateness} or more",
        )
    return found


def resolve_entities(parts: Parts) -> dict[str, Entity]:
    """Return the entities that are right; the others are reported."""
    models: dict[str, EntityModel] = parts.models["entities"]
    entities: dict[str, Entity] = {}
    for name, model in models.items():
        if name in POSITION_COLUMNS:
            parts.report(
                ("entities", name), f"`{name}` is a column of training output; rename it", at_key=True
            )
        if model.fields is None:
            assert model.type is not None
            entities[name] = Entity(name, (name,), model.type, notes(model))
            continue
        at: Path = ("entities", name)
        if parts.root.find((*at, "fields")) is not None:
            at = (*at, "fields")
        right = True
        for index, part in enumerate(model.fields):
            if part in model.fields[:index]:
                parts.report((*at, index), f"`{part}` is in the key twice; remove one")
                right = False
            elif part in models and models[part].fields is not None:
                parts.report((*at, index), f"`{part}` is composite itself; list its parts instead")
                right = False
            elif part in POSITION_COLUMNS:
                parts.report(
                    (*at, index), f"`{part}` is a column of training output; call the part otherwise"
                )
                right = False
        if right:
            entities[name] = Entity(name, tuple(model.fields), "composite", notes(model))
        else:
            parts.broken.add(("entities", name))
    return entities


def resolve_views(parts: Parts, streams: dict[str, Stream], entities: dict[str, Entity]) -> dict[str, View]:
    """Return the views that are right; the others are reported."""
    views: dict[str, View] = {}
    for name, model in parts.models["views"].items():
        if name in RESERVED:
            message = f"`{name}` is a word of the expression language; rename the view"
            parts.report(("views", name), message, at_key=True)
        view = _view(parts, name, model, streams, entities)
        if view is None:
            parts.broken.add(("views", name))
        else:
            views[name] = view
    return views


def _view(
    parts: Parts, name: str, model: ViewModel, streams: dict[str, Stream], entities: dict[str, Entity]
) -> View | None:
    at: Path = ("views", name)
    stream, entity = streams.get(model.stream), entities.get(model.entity)
    if parts.declared("streams") and model.stream not in parts.declared("streams"):
        parts.report((*at, "stream"), unknown("stream", model.stream, parts.declared("streams")))
    if parts.declared("entities") and model.entity not in parts.declared("entities"):
        parts.report((*at, "entity"), unknown("entity", model.entity, parts.declared("entities")))
    resolution: int | None = 1
    if model.resolution is not None:
        resolution = duration(parts, (*at, "resolution"), model.resolution, positive=True)
    if stream is None:
        return None
    keys = _key_fields(parts, at, model, stream, entity, entities) if entity is not None else None
    specs = [
        resolve_feature(parts, (*at, "features", feature), feature, one, stream, resolution or 1)
        for feature, one in model.features.items()
    ]
    right = [spec for spec in specs if spec is not None]
    if keys is None or entity is None or resolution is None or len(right) < len(specs):
        return None
    try:
        layout = compile_view(right, resolution)
    except ValueError as error:
        parts.report(at, str(error), at_key=True)
        return None
    return View(
        name=name,
        entity=entity,
        stream=stream,
        key_fields=keys,
        key_names=entity.fields,
        specs=tuple(sorted(right, key=lambda spec: spec.name)),
        fingerprint=view_fingerprint(name, entity, stream, keys, right, resolution),
        encoder=ViewEncoder(stream, keys, layout),
        notes=notes(model),
    )


def _key_fields(
    parts: Parts, at: Path, model: ViewModel, stream: Stream, entity: Entity, entities: dict[str, Entity]
) -> tuple[str, ...] | None:
    """Return the stream's fields for the parts of a view's key, None with the problem reported."""
    path: Path = (*at, "key") if model.key is not None else (*at, "entity")
    names = list(entity.fields)
    if isinstance(model.key, str):
        model_key: list[str] = [model.key]
    elif isinstance(model.key, dict):
        for part in model.key:
            if part not in names:
                parts.report((*path, part), unknown("key part", part, names), at_key=True)
                return None
        model_key = [model.key.get(name, name) for name in names]
    else:
        model_key = list(model.key) if model.key is not None else names
    if len(model_key) != len(names):
        wanted = ", ".join(names)
        parts.report(path, f"`key` has {len(model_key)} fields; {entity.name} has {len(names)}: {wanted}")
        return None
    right = True
    for name, field in zip(names, model_key, strict=True):
        wanted_type = entities[name].type if name in entities else None
        right = _key_field(parts, path, name, field, stream, wanted_type) and right
    return tuple(model_key) if right else None


def _key_field(
    parts: Parts,
    path: Path,
    name: str,
    field: str,
    stream: Stream,
    wanted: Literal["string", "int64", "composite"] | None,
) -> bool:
    if field not in stream.fields:
        if field not in parts.declared("streams", stream.name, "fields"):
            hint = f" (say which field holds it: `key: {{{name}: …}}`)" if field == name else ""
            parts.report(path, unknown(f"field of {stream.name}", field, stream.fields) + hint)
        return False
    kind = stream.fields[field].type.kind
    if kind not in ("string", "int64"):
        parts.report(path, f"`{field}` is {stream.fields[field].type}; a key is a string or int64 field")
        return False
    if wanted is not None and kind != wanted:
        parts.report(path, f"`{field}` is {kind}, the entity {name} is {wanted}; make them one type")
        return False
    return True
