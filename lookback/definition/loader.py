"""From a definition file to a checked `Definition`, or every problem in it at once.

Owns: the order of the steps. Refuses: I/O beyond reading the one file.

    text -> tree with positions (`source`) -> models (`check_model`) -> meaning (`resolve*`) -> `Definition`
"""

from __future__ import annotations

from pathlib import Path

from lookback.definition.check_model import check_model
from lookback.definition.fingerprint import definition_fingerprint
from lookback.definition.model import FileModel
from lookback.definition.resolve import notes, resolve_entities, resolve_streams, resolve_views
from lookback.definition.resolve_on_demand import resolve_on_demand, resolve_services
from lookback.definition.source import MAX_BYTES, parse_source, read_bytes_as_text
from lookback.definition.view import Definition
from lookback.errors import DefinitionError, UsageError


def load(path: str | Path) -> Definition:
    """Return the definition in a file.

    Raises DefinitionError with every problem found (file, line, column, what to write instead), UsageError
    where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise UsageError(f"definition file {path}: {reason}; name a file that exists") from None
    return loads(read_bytes_as_text(raw, str(path)), str(path))


def loads(text: str, path: str = "<string>") -> Definition:
    """Return the definition in a text; raises as `load`. `path` names the text in errors."""
    root, problems = parse_source(text, path)
    parts = check_model(root, problems)
    streams = resolve_streams(parts)
    entities = resolve_entities(parts)
    views = resolve_views(parts, streams, entities)
    on_demand = resolve_on_demand(parts, streams, views)
    services = resolve_services(parts, views, on_demand)
    if parts.problems:
        raise DefinitionError(path, sorted(set(parts.problems)))
    header = FileModel.model_validate(root.plain())
    return Definition(
        path=path,
        text=text,
        streams=streams,
        entities=entities,
        views=views,
        on_demand=on_demand,
        services=services,
        fingerprint=definition_fingerprint(
            {name: view.fingerprint for name, view in views.items()},
            {name: one.tree for name, one in on_demand.items()},
        ),
        service_notes={name: notes(model) for name, model in header.services.items()},
        notes=notes(header),
    )
