"""The online store in a Redis or Valkey server, read by any number of processes, and by any client.

Owns: claims, versions and reading. Refuses: the bytes (`redis_record`), what the server does (`redis_scripts`),
the order of a write (`redis_writer`), connections (`redis_connection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lookback.errors import RefusedError, StoreError, UsageError
from lookback.stores.base import Lookup, Record
from lookback.stores.redis_connection import OLDEST, Script, open_server
from lookback.stores.redis_record import (
    CLUSTER_HOME,
    FORMAT,
    SHARDING,
    VERSION,
    VIEWS,
    Layout,
    key_prefix,
    shard_key,
)
from lookback.stores.redis_scripts import CLAIM, READ, at_home
from lookback.stores.redis_writer import RedisWriter, marks_in
from lookback.windows.plan import ViewPlan

_READ = Script(READ)


class RedisStore:
    """An online store in a server, or in the nodes of a cluster; see `OnlineStore`."""

    def __init__(self, uri: str, *, write: bool = False) -> None:
        self._server = open_server(uri, write=write)
        self._home = self._server.home
        self._writable = write
        self._views: dict[str, tuple[bytes, Layout]] = {}
        try:
            self._look()
        except BaseException:
            self._server.close()
            raise

    def _call(self, command: str, name: str, *words: bytes | str | int) -> Any:
        """Run a command on one of the store's own keys."""
        return self._server.call(self._home + name, command, self._home + name, *words)

    def _look(self) -> None:
        """Refuse a server or a content that this release can't do with."""
        if self._writable:
            for info in self._server.infos():
                self._check_server(info)
        found = self._call("GET", FORMAT)
        if found is not None and (not found.isdigit() or int(found) > int(VERSION)):
            raise RefusedError(
                f"{self._server.name} holds an online store of layout {found.decode()}, this release knows up to "
                f"{VERSION}: use the release that wrote it, or name another database."
            )
        if found is None and self._writable:
            self._call("SET", FORMAT, VERSION)

    def _check_server(self, info: dict[str, str]) -> None:
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        if version < OLDEST:
            raise StoreError(
                f"{self._server.name} runs Redis {info['redis_version']}: 7.0 or Valkey is needed."
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and int(info.get("maxmemory", "0")):
            raise RefusedError(
                f"{self._server.name} would evict records that still count (maxmemory-policy {policy}): set it to "
                "noeviction; records expire by themselves."
            )

    # ---- who writes

    def claim(self, job: str) -> int:
        """Return a new generation for this run of `job`."""
        self._check_writable()
        return int(self._server.run(Script(at_home(CLAIM, self._home)), job))

    def writer(self, plans: Mapping[str, ViewPlan], generation: int, names: Mapping[str, str]) -> RedisWriter:
        """Open for writing the views of `plans`."""
        self._check_writable()
        pairs = [word for fingerprint in plans for word in (fingerprint, names.get(fingerprint, ""))]
        self._call("HSET", VIEWS, *pairs)
        return RedisWriter(self._server, plans, generation)

    def _check_writable(self) -> None:
        if not self._writable:
            raise UsageError(
                f"the online store {self._server.name} was opened for reading: open it with write=True."
            )

    # ---- what is there

    def marks(self, fingerprint: str, shard: int) -> dict[str, int] | None:
        """Return the shard's served mark, None where the store knows nothing of it."""
        raw = self._call("HGET", shard_key("", fingerprint, shard), "mark")
        return None if raw is None else marks_in(raw)

    def note(self, fingerprint: str) -> str | None:
        """Return what the last job noted of how it shards the view; None where none did."""
        raw = self._call("HGET", SHARDING, fingerprint)
        return None if raw is None else str(raw, "utf-8")

    def put_note(self, fingerprint: str, text: str) -> None:
        """Note how a view is sharded."""
        self._check_writable()
        self._call("HSET", SHARDING, fingerprint, text)

    def versions(self) -> dict[str, str]:
        """Return fingerprint -> view name of all views that were ever written here."""
        flat = self._call("HGETALL", VIEWS)
        return {key.decode(): name.decode() for key, name in zip(flat[::2], flat[1::2], strict=True)}

    # ---- reading

    def read(self, lookups: Sequence[Lookup]) -> list[Record | None]:
        """Return each record as of one moment (on a cluster one a node), None where the entity is unknown."""
        if not lookups:
            return []
        views = [self._view(lookup) for lookup in lookups]
        keys, words = [], []
        for lookup, (prefix, layout) in zip(lookups, views, strict=True):
            keys.append(prefix + layout.tag(lookup.key) + b"}")
            words.append((b"v" if lookup.values else b"") + (b"" if layout.texts.rows else b"j"))
        replies = self._server.ask(_READ, keys, words)
        return [
            None if reply is None else self._one(layout, reply, lookup)
            for lookup, (_, layout), reply in zip(lookups, views, replies, strict=True)
        ]

    def _one(self, layout: Layout, reply: list[Any], lookup: Lookup) -> Record:
        try:
            return layout.read(reply, lookup)
        except (StoreError, RefusedError) as error:
            kind, why = type(error), str(error)
        except (ValueError, TypeError, IndexError) as error:
            kind, why = StoreError, f"the record is damaged: {error}."
        raise kind(
            f"the online store {self._server.name} can't give entity {lookup.key!r} of view "
            f"{lookup.fingerprint[:12]}: {why}"
        )

    def _view(self, lookup: Lookup) -> tuple[bytes, Layout]:
        """Return a view's key prefix and layout; raises StoreError for one never written."""
        known = self._views.get(lookup.fingerprint)
        if known is None:
            name = self._call("HGET", VIEWS, lookup.fingerprint)
            if name is None:
                raise StoreError(
                    f"the online store {self._server.name} has never seen a view with fingerprint "
                    f"{lookup.fingerprint[:12]}: run the job with this definition."
                )
            layout = Layout(lookup.plan, cluster=self._home == CLUSTER_HOME)
            known = key_prefix(name.decode(), lookup.fingerprint), layout
            self._views[lookup.fingerprint] = known
        return known

    def close(self) -> None:
        """Close the connections."""
        self._server.close()
