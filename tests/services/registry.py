"""A schema registry over HTTP for tests: confluent-kafka's own mock behind the part of the REST API that readers use.

The mock alone is of one client object: a job's processes could not reach it. `stop` and `start` keep schemas and port.
"""

from __future__ import annotations

import base64
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from confluent_kafka.schema_registry import (
    Schema,
    SchemaReference,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from tests.services.kafka import free_ports


class Registry:
    """One registry. asked: the paths of all requests; status: answer with this code instead, if not 0."""

    def __init__(self, user_info: str = "") -> None:
        self._mock: Any = SchemaRegistryClient.new_client({"url": "mock://tests"})
        self._user_info = user_info
        (self._port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self._port}"
        self.asked: list[str] = []
        self.status = 0
        self._server: ThreadingHTTPServer | None = None

    def add(self, schema: object, subject: str = "s", kind: str = "AVRO", **references: str) -> int:
        """Register a schema; references are subjects by the names they are used under. Return its id."""
        named = [SchemaReference(name, of, 1) for name, of in references.items()]
        text = schema if isinstance(schema, str) else json.dumps(schema)
        number: int = self._mock.register_schema(subject, Schema(text, kind, named))
        return number

    def start(self) -> Registry:
        """Answer requests from here on."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                status, body = registry._answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        if self.status:
            return self.status, b"<html>not the registry</html>"
        if (
            self._user_info
            and authorization != f"Basic {base64.b64encode(self._user_info.encode()).decode()}"
        ):
            return HTTPStatus.UNAUTHORIZED, b'{"error_code": 401, "message": "Unauthorized"}'
        parts = path.partition("?")[0].strip("/").split("/")
        try:
            if parts[:2] == ["schemas", "ids"]:
                return HTTPStatus.OK, _body(self._mock.get_schema(int(parts[2])))
            if parts[0] == "subjects" and parts[2] == "versions":
                found = self._mock.get_version(parts[1], int(parts[3]))
                more = {"subject": found.subject, "version": found.version, "id": found.schema_id}
                return HTTPStatus.OK, _body(found.schema, **more)
        except SchemaRegistryError as error:
            told = {"error_code": 40403, "message": error.error_message}
            return error.http_status_code, json.dumps(told).encode()
        return HTTPStatus.NOT_FOUND, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'


def _body(schema: Schema, **more: object) -> bytes:
    references = [
        {"name": r.name, "subject": r.subject, "version": r.version} for r in schema.references or []
    ]
    return json.dumps(
        {"schema": schema.schema_str, "schemaType": schema.schema_type, "references": references, **more}
    ).encode()
