"""Avro messages for tests, encoded by fastavro."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import fastavro

from connectors.avro_schema import WriterSchema, writer_schema
from connectors.decode import Decoder
from lookback.definition.types import Stream

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}


def record(name: str = "r", /, **fields: Any) -> dict[str, Any]:
    """Return the schema of a record with fields of these types."""
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": field, "type": kind} for field, kind in fields.items()],
    }


def encoded(schema: Any, value: Any) -> bytes:
    """Return a value in Avro's binary encoding."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def framed(schema_id: int, schema: Any, value: Mapping[str, Any]) -> bytes:
    """Return a message as a schema registry's serialisers write it."""
    return b"\0" + schema_id.to_bytes(4, "big") + encoded(schema, value)


class Known(dict[int, WriterSchema | str]):
    """Schemas that are there already, in place of a registry's."""

    waiting = None

    @staticmethod
    def of(schemas: Mapping[int, Any]) -> Known:
        """Read schemas, by id."""
        return Known({number: writer_schema(json.dumps(schema)) for number, schema in schemas.items()})

    def __missing__(self, number: int) -> str:
        return f"the schema registry does not know the schema id {number}"

    def ready(self, ids: object) -> bool:
        """Return that they are."""
        return True


def avro_decoder(stream: Stream, schemas: Mapping[int, Any]) -> Decoder:
    """Return a decoder of a stream's messages in Avro."""
    return Decoder(replace(stream, format="avro"), Known.of(schemas))  # type: ignore[arg-type]
