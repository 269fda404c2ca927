"""Connections to a Redis or Valkey server: opened by URI, used for scripts, their errors turned into sentences.

Owns: what each failure means to a caller, and which server sentinels say is the master. Refuses: what scripts do,
what a cluster's nodes have (`redis_cluster`).

    StoreBusy      goes away by itself or with an operator's help: no answer, restarting, read-only, out of memory
    RefusedError   a newer job owns a shard; a key of ours holds something else; records may be evicted
    StoreLost      the store lost what it had acknowledged
    StoreError     everything else: a wrong password, a right that lacks, an unknown host, a server too old
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from lookback.errors import RefusedError, StoreBusy, StoreError, StoreLost, UsageError
from lookback.stores.base import I64
from lookback.stores.redis_record import HOME, Layout
from lookback.stores.redis_rights import SENTINEL, rights
from lookback.stores.redis_scripts import LOST, NEWER, OWNER, TYPE
from lookback.stores.redis_uri import (
    CLUSTER_HOW,
    PASSWORD_VARIABLE,
    SENTINEL_PASSWORD_VARIABLE,
    Address,
    read_uri,
)

TIMEOUT_SECONDS = 5.0  # without an answer; then the call may be made again
CONNECT_SECONDS = 2.0
RETRIES = 3  # of a connection, with jitter, before a call says that the store is busy
OLDEST = (7, 0)
# Less is held back: each time something is sent this thread waits for the interpreter, which another one is using.
SEND_BYTES = 16 << 10
# How errors of a server begin that time or an operator mends, beside those that redis-py has a class for.
PASSING = ("READONLY", "BUSY", "NOREPLICAS", "MISCONF")
# What scripts say on a node of a cluster that time mends: slots on the move, masters that are gone.
PASSING_IN_SCRIPTS = ("non local key", "cluster is down", "keys that do not hash to the same slot")


class Script:
    """A Lua script and the name that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = sha1(self.text).hexdigest().encode()  # the name that EVALSHA takes


@dataclass(frozen=True)
class Route:
    """Where records of a write go: to one connection those from `start` to before `end`."""

    connection: Connection
    start: int
    end: int


class Session:
    """The connections that one write uses: to one server, which has it all."""

    def __init__(self, home: Connection) -> None:
        self.home = home  # has the shards' owners and marks

    def routes(self, layout: Layout, keys: Sequence[str]) -> tuple[I64 | None, list[Route]]:
        """Return the order that n records are to be sent in, None where they may stay as they are, and where to."""
        return None, [Route(self.home, 0, len(keys))]


def open_server(uri: str, *, write: bool = False) -> Server:
    """Return what a URI names, not connected yet. Raises UsageError for one that names nothing."""
    address = read_uri(uri)
    if address.kind == "cluster":
        from lookback.stores.redis_cluster import Cluster

        return Cluster(address, write=write)
    return Server(address, write=write)


class Server:
    """One server, or the one that is the master just now; safe to use from several threads."""

    home = HOME  # what its own keys begin with

    def __init__(self, address: Address, *, write: bool = False) -> None:
        """Prepare connections; none is made yet. Raises UsageError for options that redis-py doesn't know."""
        import redis

        self.name = address.name
        self._redis = redis
        self._write = write
        self._address = address
        try:
            self._open(address)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.name} is no store URI: {error}.") from None

    def _options(self) -> dict[str, Any]:
        """Return what holds for each connection."""
        return {
            "socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True, "protocol": 2, "client_name": "lookback", "driver_info": None,
        }  # fmt: skip

    def _open(self, address: Address) -> None:
        from redis.backoff import ExponentialWithJitterBackoff
        from redis.retry import Retry

        retry = Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), RETRIES)
        options = {**self._options(), "retry": retry}
        if address.kind == "unix":
            for name in ("socket_keepalive", "socket_connect_timeout"):
                del options[name]
        if address.kind == "sentinel":
            self._pool = _sentinel_pool(self._redis, address, options)
        else:
            self._pool = self._redis.ConnectionPool(**{**options, **address.options})
        self._pool.make_connection()  # not connected yet: it looks at the options

    def connection(self, key: bytes | str = b"") -> AbstractContextManager[Connection]:
        """Give a connection to the server that has a key; what fails meanwhile becomes an error of ours."""
        return self._from(self._pool)

    @contextmanager
    def _from(self, pool: Any) -> Iterator[Connection]:
        """Give a connection of a pool; where something fails meanwhile it is closed."""
        with self.errors():
            raw: Any = pool.get_connection()  # redis-py's own types stop here
            try:
                yield Connection(raw, self._redis)
            except BaseException:
                raw.disconnect()  # replies that nobody read must not be taken for the next call's
                raise
            finally:
                pool.release(raw)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Give what a write needs."""
        with self.connection() as connection:
            yield Session(connection)

    def call(self, key: bytes | str, *words: bytes | str | int) -> Any:
        """Run a command about one key; return its answer."""
        with self.connection(key) as connection:
            return connection.call(*words)

    def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Run a script about the store's own keys; return its answer."""
        with self.connection(self.home) as connection:
            return connection.run(script, *arguments)

    def ask(self, script: Script, keys: Sequence[bytes], words: Sequence[bytes]) -> list[Any]:
        """Run a script over records, each with its word; return the answers, one a record."""
        with self.connection() as connection:
            return list(
                connection.run(script, *[part for pair in zip(keys, words, strict=True) for part in pair])
            )

    def infos(self) -> list[dict[str, str]]:
        """Return what each server that takes writes tells of itself."""
        with self.connection() as connection:
            found = connection.info()
        if found.get("cluster_enabled") == "1":
            raise self._is_cluster()
        return [found]

    @property
    def identity(self) -> int | None:
        """Return what changes where a server may have lost something; None: what is `kept` of a shard tells."""
        return None

    def check(self) -> None:
        """Look whether every server is the one it was. Raises StoreLost."""

    def _is_cluster(self) -> StoreError:
        return StoreError(f"{self.name} is a node of a cluster: write {CLUSTER_HOW}.")

    # ---- errors

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what redis-py raises into an error of ours."""
        error = self._redis.exceptions
        try:
            yield
        except error.AuthenticationError:
            raise self._log_in() from None
        except (error.ConnectionError, error.TimeoutError, OSError) as failed:
            raise self._away(failed) from None
        except (error.ReadOnlyError, error.TryAgainError, error.ClusterDownError) as failed:
            raise StoreBusy(
                f"the online store {self.name} takes no writes just now ({_short(failed)})"
            ) from None
        except error.AskError as failed:
            raise self._elsewhere(failed) from None
        except error.NoPermissionError as failed:
            raise self._not_allowed(str(failed)) from None
        except error.ResponseError as failed:
            raise self._said(str(failed)) from None
        except error.RedisError as failed:
            raise StoreError(f"the online store {self.name} failed: {_short(failed)}.") from None

    def _away(self, failed: Exception) -> StoreError:
        asked = self._why_no_master(failed)
        if isinstance(asked, self._redis.exceptions.AuthenticationError):
            return StoreError(
                f"the sentinels of {self.name} refuse the user or the password: add ?sentinel_username=USER&"
                f"sentinel_password=PASSWORD, or set {SENTINEL_PASSWORD_VARIABLE}."
            )
        text = str(asked or failed)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("CERTIFICATE_VERIFY_FAILED] ")[2].partition(" (_ssl")[0]
            return StoreError(
                f"the certificate of {self.name} is not trusted ({why}): name the authority that signed it for this "
                "host, ?ssl_ca_certs=FILE."
            )
        if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
            return StoreError(
                f"{self.name} wants a certificate of its clients: add ?ssl_certfile=FILE&ssl_keyfile=FILE, signed by "
                "an authority that it trusts."
            )
        if "No such file" in text and self._address.tls:
            return StoreError(f"a certificate or key that the URI of {self.name} names is not there.")
        return StoreBusy(f"the online store {self.name} doesn't answer ({_short(failed)})")

    def _why_no_master(self, failed: Exception) -> Exception | None:
        """Return what a sentinel answers, where none told of a master: redis-py says only that something failed."""
        if self._address.kind != "sentinel" or type(failed).__name__ != "MasterNotFoundError":
            return None
        try:
            self._pool.sentinel_manager.sentinels[0].sentinel_masters()
        except self._redis.exceptions.RedisError as error:
            return error
        return None

    def _elsewhere(self, failed: Exception) -> StoreError:
        """Return what it means that a node says another one has a key."""
        return self._is_cluster()

    def _log_in(self) -> StoreError:
        how = f"redis://USER:PASSWORD@HOST, or set {PASSWORD_VARIABLE}"
        return StoreError(f"{self.name} refuses the user or the password: write {how}.")

    def _not_allowed(self, why: str) -> StoreError:
        at = self._address
        why = why.partition(" script: ")[0].rstrip(".")
        if "'sentinel|" in why:
            user = (at.watch or {}).get("username") or "USER"
            return StoreError(
                f"the sentinels of {self.name} do not allow their user what they are asked ({why}): "
                f"ACL SETUSER {user} {SENTINEL}"
            )
        what = "a job" if self._write else "a reader"
        user = at.options.get("username") or "USER"
        return StoreError(
            f"{self.name} does not allow its user what {what} needs ({why}): "
            f"ACL SETUSER {user} {rights(at.kind, write=self._write)}"
        )

    def _said(self, text: str) -> StoreError | RefusedError:
        word, _, rest = text.partition(" ")
        if word == OWNER:
            key, _, job = rest.partition(" ")
            _, _, fingerprint, shard = key.rsplit(":", 3)
            return RefusedError(
                f"the job {job!r} has taken over the online store {self.name} (shard {shard} of view "
                f"{fingerprint}): stop one of the two jobs."
            )
        if word == LOST:
            return StoreLost(f"the online store {self.name} lost what it had acknowledged ({rest})")
        if word == NEWER:
            return StoreLost(f"a newer job has written {rest.split(' ')[0]} in the online store {self.name}")
        if word == TYPE:
            return RefusedError(
                f"the key {rest.split(' ')[0]} in {self.name} holds something that is not Lookback's: rename or "
                "delete it, or name another database (redis://HOST/DB)."
            )
        if word in ("NOAUTH", "WRONGPASS"):
            return self._log_in()
        if word == "NOPERM" or "ACL failure in script" in text:
            return self._not_allowed(text.partition("ACL failure in script: ")[2] or rest)
        if word == "OOM" or "maxmemory" in text:
            return StoreBusy(f"the online store {self.name} is out of memory: raise its maxmemory")
        if word in PASSING or any(part in text for part in PASSING_IN_SCRIPTS):
            return StoreBusy(
                f"the online store {self.name} takes no writes just now ({text.partition(' script: ')[0]})"
            )
        return StoreError(f"the online store {self.name} failed: {text}.")

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()


def _sentinel_pool(module: Any, address: Address, options: dict[str, Any]) -> Any:
    """Return connections to the master that sentinels name, asked for anew whenever one is made."""
    from redis import sentinel as redis_sentinel

    by_sentinels: Any = redis_sentinel
    secure = {"ssl": True} if address.tls else {}
    watch = {**options, **(address.watch or {}), **secure}
    watch.pop("connection_class", None)
    own = {**options, **address.options, **secure}
    own.pop("connection_class", None)
    sentinels = by_sentinels.Sentinel(address.nodes, sentinel_kwargs=watch)
    return by_sentinels.SentinelConnectionPool(address.master, sentinels, **own)


class Connection:
    """One connection: scripts sent, their answers read in order."""

    def __init__(self, raw: Any, module: Any) -> None:
        self._raw = raw
        self._errors = module.exceptions
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0

    def call(self, *words: bytes | str | int) -> Any:
        """Run a command; return its answer."""
        self._raw.send_command(*words)
        return self._raw.read_response()

    def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Run a script, loading it where the server doesn't know it; return its answer."""
        self.ask(script, *arguments)
        return self.told(script, *arguments)

    def ask(self, script: Script, *arguments: bytes | str | int) -> None:
        """Send a script whose answer is read later."""
        self._raw.send_command(b"EVALSHA", script.sha, 0, *arguments)

    def told(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Return the answer to a script that was sent before."""
        try:
            return self._raw.read_response()
        except self._errors.NoScriptError:
            self.call(b"SCRIPT", b"LOAD", script.text)
            return self.call(b"EVALSHA", script.sha, 0, *arguments)

    def info(self, section: str = "default") -> dict[str, str]:
        """Return what INFO says, by name."""
        lines = (line.partition(":") for line in self.call("INFO", section).decode().splitlines())
        return {name: value for name, colon, value in lines if colon}

    def send(self, packed: Sequence[bytes | memoryview]) -> None:
        """Send bytes that are commands already: now if they are many, else at the latest when one is to be answered."""
        self._held += packed
        self._held_bytes += sum(map(len, packed))
        if self._held_bytes >= SEND_BYTES:
            self.flush()

    def answer(self) -> Any:
        """Return the answer to the oldest command that has none yet."""
        self.flush()
        return self._raw.read_response()

    def flush(self) -> None:
        """Send what is held back."""
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            self._raw.send_packed_command([b"".join(held)])


def _short(error: BaseException) -> str:
    """Return an error's words without the address that redis-py puts before them."""
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.split(". ")[-1] if "connecting to" in text else text.partition(" : ")[0]
