"""On-demand features and services: what their names stand for, and in which order to compute them.

Owns: the scope of on-demand expressions, cycles, services. Refuses: evaluating (see `on_demand`).
"""

from __future__ import annotations

from lookback.definition.check_model import Parts
from lookback.definition.expression_parse import parse_expression
from lookback.definition.expression_read import ExpressionError, names_in, suggestion
from lookback.definition.expression_tree import EVENT_TIME, TIMESTAMP, ValueType, value_type
from lookback.definition.model import OnDemandModel
from lookback.definition.resolve import POSITION_COLUMNS, RESERVED, notes
from lookback.definition.source import Path
from lookback.definition.types import Stream
from lookback.definition.view import OnDemand, View
from lookback.windows.plan import Feature


def feature_type(one: Feature) -> ValueType:
    """Return the type that a stored feature has inside expressions (of one element, for a list)."""
    return ValueType(one.result.value, one.scale)


def resolve_on_demand(
    parts: Parts, streams: dict[str, Stream], views: dict[str, View]
) -> dict[str, OnDemand]:
    """Return the on-demand features that are right, each after those it reads; report the others."""
    models: dict[str, OnDemandModel] = parts.models["on_demand"]
    for name in models:
        _check_name(parts, name, streams, views)
    scope = _Scope(parts, streams, views)
    found: dict[str, OnDemand] = {}
    for name in _in_order(parts, models):
        one = scope.resolve(name, models[name], found)
        if one is None:
            parts.broken.add(("on_demand", name))
        else:
            found[name] = one
    return found


def _check_name(parts: Parts, name: str, streams: dict[str, Stream], views: dict[str, View]) -> None:
    path: Path = ("on_demand", name)
    if name in RESERVED:
        parts.report(path, f"`{name}` is a word of the expression language; rename it", at_key=True)
    elif name in parts.declared("views"):
        parts.report(path, f"`{name}` is the name of a view too; rename one", at_key=True)
    elif name in POSITION_COLUMNS or name in parts.declared("entities"):
        parts.report(path, f"`{name}` is a column of training output already; rename it", at_key=True)
    else:
        for stream in streams.values():
            if name in stream.fields:
                message = f"`{name}` is a field of stream {stream.name} too; rename the on-demand feature"
                parts.report(path, message, at_key=True)
                break


def _in_order(parts: Parts, models: dict[str, OnDemandModel]) -> list[str]:
    """Return the names so that each comes after those it reads; cycles are reported and left out."""
    reads = {name: [n for n in models if n in names_in(model.expression)] for name, model in models.items()}
    done: list[str] = []
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> bool:
        if state.get(name) == 2:
            return name in done
        if name in trail:
            cycle = [*trail[trail.index(name) :], name]
            path: Path = ("on_demand", cycle[0], "expression")
            parts.report(path, f"{' reads '.join(cycle)}: an on-demand feature cannot read itself")
            return False
        right = True
        for other in reads[name]:
            if state.get(other) == 1 or not visit(other, [*trail, name]):
                right = False
                break
        state[name] = 2
        if right:
            done.append(name)
        else:
            parts.broken.add(("on_demand", name))
        return right

    for name in models:
        visit(name, [])
    return done


class _Scope:
    """What an on-demand expression may name."""

    def __init__(self, parts: Parts, streams: dict[str, Stream], views: dict[str, View]) -> None:
        self.parts = parts
        self.streams = streams
        self.stored: dict[str, ValueType] = {}
        self.lists: set[str] = set()
        for view in views.values():
            for one in view.features:
                name = f"{view.name}.{one.name}"
                if one.is_list:
                    self.lists.add(name)
                else:
                    self.stored[name] = feature_type(one)

    def resolve(self, name: str, model: OnDemandModel, before: dict[str, OnDemand]) -> OnDemand | None:
        path: Path = ("on_demand", name, "expression")
        used = names_in(model.expression)
        if self._waits_for_broken(used):
            return None
        for bad in sorted(used & self.lists):
            self.parts.report(path, f"`{bad}` is a list; an expression takes single values: use mode or last")
            return None
        computed = {other: one.type for other, one in before.items()}
        streams = self._streams(name, model, used - set(self.stored) - set(computed) - {EVENT_TIME})
        if streams is None:
            return None
        fields = {n: value_type(f.type) for s in streams for n, f in self.streams[s].fields.items()}
        names = {**fields, **self.stored, **computed, EVENT_TIME: TIMESTAMP}
        try:
            tree = parse_expression(model.expression, names)
        except ExpressionError as error:
            self.parts.report_inside(path, error.offset, error.message)
            return None
        reads = sorted(tree.names())
        return OnDemand(
            name=name,
            expression=model.expression.strip(),
            tree=tree,
            requires=tuple(n for n in reads if n not in computed),
            stored=tuple(n for n in reads if n in self.stored),
            request_fields=tuple(n for n in reads if n in fields and n not in computed),
            on_demand=tuple(n for n in reads if n in computed),
            streams=tuple(streams),
            names={n: names[n] for n in reads},
            notes=notes(model),
        )

    def _waits_for_broken(self, used: set[str]) -> bool:
        """Whether the expression reads what is declared but broken, which is reported already."""
        broken_fields = {
            field
            for name in self.parts.declared("streams")
            for field in self.parts.declared("streams", name, "fields")
            if name not in self.streams or field not in self.streams[name].fields
        }
        broken_views = {str(p[1]) for p in self.parts.broken if len(p) >= 2 and p[0] == "views"}
        broken_others = {str(p[1]) for p in self.parts.broken if len(p) >= 2 and p[0] == "on_demand"}
        return any(
            name in broken_fields or name in broken_others or name.split(".")[0] in broken_views
            for name in used - set(self.stored)
        )

    def _streams(self, name: str, model: OnDemandModel, fields: set[str]) -> list[str] | None:
        """Return the streams that can give an expression's request fields."""
        path: Path = ("on_demand", name)
        if model.stream is not None:
            if model.stream not in self.streams:
                if model.stream not in self.parts.declared("streams"):
                    near = suggestion(model.stream, self.streams)
                    self.parts.report((*path, "stream"), f"there is no stream `{model.stream}`{near}")
                return None
            return [model.stream]
        plain = {field for field in fields if "." not in field}
        having = [s for s, stream in self.streams.items() if plain <= set(stream.fields)]
        if not having:  # let the parser say which name is unknown, with every field as a suggestion
            return list(self.streams)
        for field in sorted(plain):
            types = {value_type(self.streams[s].fields[field].type) for s in having}
            if len(types) > 1:
                self.parts.report(
                    (*path, "expression"),
                    f"`{field}` has another type in each of {', '.join(having)}; name one with `stream:`",
                )
                return None
        return having


def resolve_services(
    parts: Parts, views: dict[str, View], on_demand: dict[str, OnDemand]
) -> dict[str, list[str]]:
    """Return the services, each a list of feature names; names that stand for nothing are reported."""
    known = [f"{view.name}.{one.name}" for view in views.values() for one in view.features]
    known += list(on_demand)
    names = set(known)
    broken = {str(p[1]) for p in parts.broken if len(p) >= 2 and p[0] in ("views", "on_demand")}
    services: dict[str, list[str]] = {}
    for name, model in parts.models["services"].items():
        at: Path = ("services", name)
        if parts.root.find((*at, "features")) is not None:
            at = (*at, "features")
        for index, feature in enumerate(model.features):
            if feature in model.features[:index]:
                parts.report((*at, index), f"`{feature}` is listed twice; remove one")
            elif feature not in names and feature.split(".")[0] not in broken:
                parts.report((*at, index), _no_feature(feature, known, views))
        services[name] = list(model.features)
    return services


def _no_feature(feature: str, known: list[str], views: dict[str, View]) -> str:
    near = suggestion(feature, known)
    view, _, rest = feature.partition(".")
    if view in views:
        windows = [
            f"{view}.{one.name}" for one in views[view].features if one.name.rpartition("_")[0] == rest
        ]
        if windows:
            near = f"; add a window: {', '.join(windows)}"
    return f"there is no feature `{feature}`{near or '; write view.feature_window or an on-demand name'}"
