"""The shape of a definition file as pydantic models: which keys there are and what each may hold.

Owns: key names, help texts, short forms, and the JSON Schema that editors use. Refuses: meaning, that is
whether a field, view or window that is named exists or fits (see `resolve`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
DURATION_PATTERN = r"^(0|[1-9][0-9]*)(ms|s|m|h|d|w)$"
WINDOW_PATTERN = r"^([1-9][0-9]*(ms|s|m|h|d|w)|lifetime)$"
TYPE_PATTERN = r"^\s*(int64|float64|bool|string|timestamp|decimal\(\s*[0-9]+\s*,\s*[0-9]+\s*\))\s*\??\s*$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
AggName = Literal[
    "count", "sum", "mean", "min", "max", "variance", "stddev", "first", "last", "distinct", "top_k", "mode",
    "entropy", "ratio", "time_since_first", "time_since_last", "mean_gap", "decayed_count", "decayed_sum",
    "last_k", "seen_before",
]  # fmt: skip


def _duration(help_text: str, **more: Any) -> Any:
    return Field(description=help_text, json_schema_extra={"pattern": DURATION_PATTERN}, **more)


class Noted(BaseModel):
    """What anything in a definition may carry; none of it changes a value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    description: str = Field("", description="What this is, for people.")
    owner: str = Field("", description="Who answers for it.")
    tags: list[str] = Field(default_factory=list, description="Free labels.")


def _or_short(schema: JsonSchemaValue, *short: JsonSchemaValue) -> JsonSchemaValue:
    """Return a schema that also takes short forms, its description kept on top."""
    whole: JsonSchemaValue = {"anyOf": [*short, schema]}
    if "description" in schema:
        whole["description"] = schema["description"]
    return whole


class FieldModel(Noted):
    """A field of a stream; short form: its type."""

    type: str = Field(
        description="int64, float64, decimal(P,S), bool, string or timestamp; a ? after it allows null.",
        json_schema_extra={"pattern": TYPE_PATTERN},
    )
    from_: FieldName | None = Field(None, alias="from", description="The source's name, where it is another.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        return _or_short(schema, {"type": "string", "pattern": TYPE_PATTERN})


class EventTimeModel(BaseModel):
    """Where an event says when it happened."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    field: FieldName = Field(description="The source's field; need not be listed in fields.")
    unit: Literal["ms", "s", "us", "iso"] = Field(description="Since 1970 in ms, s or us; or ISO 8601 text.")


class StreamModel(Noted):
    """A source of events."""

    topic: str = Field(min_length=1, description="The Kafka topic, or the archive's folder of that name.")
    format: Literal["json", "avro", "arrow"] = Field("json", description="How messages are encoded.")
    event_time: EventTimeModel
    event_id: FieldName | None = Field(None, description="The field that names an event.")
    drop_repeats: str | None = _duration(
        "Refuse an event whose id its partition had within this event time; needs event_id.", default=None
    )
    lateness: str = _duration("How far behind its partition's watermark an event may be.", default="10m")
    max_ahead: str = _duration("How far ahead of its broker time an event may be.", default="1h")
    fields: dict[FieldName, FieldModel] = Field(min_length=1, description="What is read of an event.")


class EntityModel(Noted):
    """What views are keyed by; short forms: `string`, `int64`, or a list for a composite key."""

    type: Literal["string", "int64"] | None = Field(None, description="Type of a simple key.")
    fields: list[FieldName] | None = Field(
        None, min_length=2, description="Parts of a composite key: entities or fields of the stream."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value}
        return {"fields": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_of(self) -> EntityModel:
        if (self.type is None) == (self.fields is None):
            raise ValueError("an entity has a type (string or int64) or a list of fields, one of the two")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        parts = {"type": "array", "items": {"type": "string"}, "minItems": 2, "uniqueItems": True}
        return _or_short(schema, {"enum": ["string", "int64"]}, parts)


class RatioPartModel(BaseModel):
    """One side of a ratio."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    agg: Literal["count", "sum"]
    of: FieldName | None = Field(None, description="The field; a sum needs one.")
    where: str | None = Field(
        None, description="Which events count on this side, beside the feature's `where`."
    )


class FeatureModel(Noted):
    """One aggregate over one or more windows; each gives a feature `<feature>_<window>`."""

    agg: AggName = Field(description="The aggregate.")
    windows: list[str] = Field(
        min_length=1,
        description="Window lengths such as 1m, 7d, or lifetime; a suffix of the feature's name as written.",
        json_schema_extra={"items": {"type": "string", "pattern": WINDOW_PATTERN}, "uniqueItems": True},
    )
    of: FieldName | None = Field(None, description="The field that is aggregated.")
    where: str | None = Field(None, description="A condition over the event's fields; others don't count.")
    delay: str = _duration("Shifts the window into the past: it ends at t - delay.", default="0s")
    k: int | None = Field(None, ge=1, le=100, description="How many values top_k and last_k keep.")
    half_life: str | None = _duration("Age at which decayed_count and decayed_sum count half.", default=None)
    default: int | float | str | bool | None = Field(None, description="The value where the window is empty.")
    numerator: RatioPartModel | None = Field(None, description="Of a ratio.")
    denominator: RatioPartModel | None = Field(None, description="Of a ratio; over 0 the ratio is null.")


class ViewModel(Noted):
    """Features of one entity over one stream."""

    entity: Name = Field(description="Whose features these are.")
    stream: Name = Field(description="Which events they are computed from.")
    key: FieldName | list[FieldName] | dict[FieldName, FieldName] | None = Field(
        None, description="The field with the key; for a composite a list, or parts mapped to fields."
    )
    resolution: str | None = _duration(
        "Coarser event times for very hot entities; exact if left out.", default=None
    )
    features: dict[Name, FeatureModel] = Field(min_length=1, description="By name.")


class OnDemandModel(Noted):
    """An expression over request fields and stored features; short form: the expression."""

    expression: str = Field(description="Over fields of the request and `view.feature_window`.")
    stream: Name | None = Field(None, description="Whose fields are meant, where several streams have them.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"expression": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _or_short(handler.resolve_ref_schema(handler(core)), {"type": "string", "minLength": 1})


class ServiceModel(Noted):
    """The features one model reads; short form: their list."""

    features: list[str] = Field(min_length=1, description="`view.feature_window`, or on-demand names.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"features": value} if isinstance(value, list) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
        return _or_short(handler.resolve_ref_schema(handler(core)), names)


class FileModel(Noted):
    """A Lookback definition: streams of events, and the features computed from them."""

    streams: dict[Name, StreamModel] = Field(min_length=1, description="Sources of events.")
    entities: dict[Name, EntityModel] = Field(min_length=1, description="What features are about.")
    views: dict[Name, ViewModel] = Field(min_length=1, description="Features, by entity and stream.")
    on_demand: dict[Name, OnDemandModel] = Field(default_factory=dict, description="Computed when asked for.")
    services: dict[Name, ServiceModel] = Field(default_factory=dict, description="What each model reads.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a definition file, with a help text on every key."""
    schema = FileModel.model_json_schema(by_alias=True)
    _close(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _close(schema: Any) -> None:
    """Refuse names that do not fit their pattern, which pydantic's schema leaves open."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        schema = list(schema.values())
    if isinstance(schema, list):
        for inside in schema:
            _close(inside)
