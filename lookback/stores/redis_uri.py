"""Where a Redis or Valkey store is: one server, the master that sentinels name, or a cluster.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]
    unix://[USER:PASSWORD@]PATH
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]…/MASTER[/DB]
    redis+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]…

`rediss…` is the same over TLS. User, password, master and path may be percent-encoded. Options after `?` are redis-py's
(`ssl_ca_certs=FILE`), beside those of sentinels, which have users of their own. Refuses: connections.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from lookback.errors import StoreError, UsageError

PASSWORD_VARIABLE = "LOOKBACK_REDIS_PASSWORD"
SENTINEL_PASSWORD_VARIABLE = "LOOKBACK_REDIS_SENTINEL_PASSWORD"
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
SENTINEL_PORT = 26_379
SERVER_HOW = "redis://HOST[:PORT][/DB]"
CLUSTER_HOW = "redis+cluster://HOST:PORT[,HOST:PORT]"
SENTINEL_HOW = "redis+sentinel://HOST:PORT[,HOST:PORT]/MASTER[/DB]"
Node = tuple[str, int]


@dataclass(frozen=True)
class Address:
    """A store's URI, taken apart.

    kind: `redis`, `unix`, `sentinel` or `cluster`. name: the URI as it may be shown. options: redis-py's of a
    connection to a server. nodes: sentinels, or nodes of a cluster. master: the name that sentinels know.
    watch: options of a connection to a sentinel.
    """

    kind: str
    name: str
    options: Mapping[str, Any]
    nodes: tuple[Node, ...] = ()
    master: str = ""
    watch: Mapping[str, Any] | None = None

    @property
    def tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.name.startswith("rediss")


def without_secrets(uri: str) -> str:
    """Return a URI as it may be shown.

    >>> without_secrets("redis://me:secret@host:7000/3?ssl_keyfile=x")
    'redis://host:7000/3'
    >>> without_secrets("redis+cluster://me:secret@a:1,b:2")
    'redis+cluster://a:1,b:2'
    """
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_uri(uri: str) -> Address:
    """Return what a store's URI says; raises UsageError naming the right form."""
    name = without_secrets(uri)
    scheme, _, kind = uri.partition("://")[0].partition("+")
    try:
        parts = urlsplit(uri)
        if kind == "cluster":
            return _cluster(parts, scheme, name)
        if kind == "sentinel":
            return _sentinel(parts, scheme, name)
        return Address(scheme.replace("rediss", "redis"), name, _with_password(_parse(uri)))
    except (ValueError, TypeError) as error:
        how = {"cluster": CLUSTER_HOW, "sentinel": SENTINEL_HOW}.get(kind, SERVER_HOW)
        raise UsageError(f"{name} is no store URI: {str(error).rstrip('.')}; write {how}.") from None


def _cluster(parts: SplitResult, scheme: str, name: str) -> Address:
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has no databases")
    nodes, options = _nodes(parts, scheme, parts.query)
    if options.pop("db", 0):
        raise ValueError("a cluster has no databases")
    return Address("cluster", name, _with_password(options), nodes)


def _sentinel(parts: SplitResult, scheme: str, name: str) -> Address:
    master, _, db = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("it names no master")
    if db and not db.isdigit():
        raise ValueError(f"{db!r} is no number of a database")
    query = parse_qsl(parts.query, keep_blank_values=True)
    own = {SENTINEL_OPTIONS[key]: value for key, value in query if key in SENTINEL_OPTIONS}
    rest = urlencode([(key, value) for key, value in query if key not in SENTINEL_OPTIONS])
    nodes, options = _nodes(parts, scheme, rest, SENTINEL_PORT)
    watch = {key: value for key, value in options.items() if key not in ("username", "password", "db")} | own
    if "password" not in own and (password := os.environ.get(SENTINEL_PASSWORD_VARIABLE)):
        watch["password"] = password
    if db:
        options["db"] = int(db)
    return Address("sentinel", name, _with_password(options), nodes, unquote(master), watch)


def _nodes(
    parts: SplitResult, scheme: str, query: str, port: int = 6379
) -> tuple[tuple[Node, ...], dict[str, Any]]:
    """Return the hosts of a URI that names several, and the options that hold for all."""
    user, at, hosts = parts.netloc.rpartition("@")
    nodes = []
    options: dict[str, Any] = {}
    for host in hosts.split(","):
        options = _parse(f"{scheme}://{user}{at}{host}/?{query}")
        if "host" not in options:
            raise ValueError("it names no host")
        nodes.append((options.pop("host"), options.pop("port", port)))
    return tuple(nodes), options


def _parse(uri: str) -> dict[str, Any]:
    """Return what redis-py makes of the URI of one server."""
    try:
        from redis import connection
    except ImportError:
        raise StoreError("the online store needs the package redis: pip install 'lookback[redis]'.") from None
    parse: Any = connection.parse_url
    found: dict[str, Any] = parse(uri)
    return found


def _with_password(options: dict[str, Any]) -> dict[str, Any]:
    if "password" not in options and (password := os.environ.get(PASSWORD_VARIABLE)):
        options["password"] = password
    return options
