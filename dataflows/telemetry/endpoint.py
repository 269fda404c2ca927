"""The HTTP endpoint of a job: metrics for a scraper, probes for a kubelet.

It is the threading WSGI server that prometheus_client's own `start_http_server` uses: three paths that are asked for
every few seconds need no framework in the job's process.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from dataflows.telemetry.health import Health, live, ready
from dataflows.telemetry.observed import Observed
from lookback.errors import UsageError

if TYPE_CHECKING:
    from dataflows.telemetry.export import Telemetry

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of a request: probes come every few seconds."""


@contextmanager
def serving(
    metrics: tuple[str, int], registry: CollectorRegistry, told: Telemetry, say: Callable[[str], None]
) -> Iterator[None]:
    """Answer at HOST:PORT while the block lasts. Raises UsageError where nothing can listen there."""
    host, port = metrics
    kind = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, application(registry, told), kind, _Quiet)
    except OSError as error:
        raise UsageError(
            f"--metrics {host}:{port}: nothing can listen there ({error.strerror or error})"
        ) from None
    say(f"metrics at http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics")
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def application(registry: CollectorRegistry, told: Telemetry) -> WSGI:
    """Return the endpoint: /metrics, /healthz and /readyz."""
    scrape = make_wsgi_app(registry)
    probes: dict[str, Callable[[Observed | None], Health]] = {"/healthz": live, "/readyz": ready}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = scrape(environ, start_response)
            return answer
        if path not in probes:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics, /healthz, /readyz\n"]
        found = probes[path](told.observed)
        status = "200 OK" if found.well else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"well": found.well, "why": found.why}).encode() + b"\n"]

    return app
