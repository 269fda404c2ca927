"""The hash of what decides values: it names state and KV keys, so a changed view never meets old state.

Owns: what counts as deciding a value. In: the stream's topic, format, event time, lateness, max_ahead and
drop_repeats (with the field of the id), the fields that the view reads (source name and type), its key, resolution and
materialized features, its name. Out: order in the file, comments, descriptions, owners, tags, other views, fields it
does not read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from lookback.definition.compile import FeatureSpec, feature_facts, used_fields
from lookback.definition.expression_tree import Node
from lookback.definition.types import Entity, Stream

SEMANTICS = 1  # raised when a release computes other values from the same definition


def digest(facts: Any) -> str:
    """Return the SHA-256 of JSON data, in hex; equal data gives equal digests on any machine."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def view_fingerprint(
    name: str,
    entity: Entity,
    stream: Stream,
    key_fields: tuple[str, ...],
    specs: Iterable[FeatureSpec],
    resolution_ms: int,
) -> str:
    """Return a view's fingerprint, 64 hex digits."""
    specs = list(specs)
    features = sorted(
        (facts for spec in specs for facts in feature_facts(spec)), key=lambda f: str(f["name"])
    )
    read = sorted((used_fields(specs) | set(key_fields)) & set(stream.fields))
    return digest(
        {
            "semantics": SEMANTICS,
            "view": name,
            "entity": [entity.name, entity.type, list(entity.fields)],
            "key": list(key_fields),
            "topic": stream.topic,
            "format": stream.format,
            "event_time": [stream.event_time_source, stream.event_time.unit],
            "lateness_ms": stream.lateness_ms,
            "max_ahead_ms": stream.max_ahead_ms,
            **_repeats(stream),
            "fields": [[f, stream.fields[f].from_name, str(stream.fields[f].type)] for f in read],
            "resolution_ms": resolution_ms,
            "features": features,
        }
    )


def _repeats(stream: Stream) -> dict[str, Any]:
    if stream.drop_repeats_ms is None or stream.event_id is None or stream.event_id not in stream.fields:
        return {}  # as before there was the option: what does not use it keeps its fingerprint
    by = stream.fields[stream.event_id]
    return {"drop_repeats": [by.from_name, str(by.type), stream.drop_repeats_ms]}


def definition_fingerprint(views: Mapping[str, str], on_demand: Mapping[str, Node]) -> str:
    """Return the fingerprint of a whole file: its views' and its on-demand expressions, by name."""
    return digest(
        {
            "views": dict(views),
            "on_demand": {name: tree.canonical() for name, tree in on_demand.items()},
        }
    )
