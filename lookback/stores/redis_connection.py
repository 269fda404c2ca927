"""Connections to a Redis or Valkey server: opened by URI, used for scripts, their errors turned into sentences.

Owns: what each failure means to a caller. Refuses: what scripts do.

    StoreBusy      goes away by itself or with an operator's help: no answer, restarting, read-only, out of memory
    RefusedError   a newer job owns a shard; a key of ours holds something else; records may be evicted
    StoreLost      the store lost what it had acknowledged
    StoreError     everything else: a wrong password, an unknown host, a server too old
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any
from urllib.parse import urlsplit

from lookback.errors import RefusedError, StoreBusy, StoreError, StoreLost, UsageError
from lookback.stores.redis_scripts import LOST, OWNER, TYPE

PASSWORD_VARIABLE = "LOOKBACK_REDIS_PASSWORD"
TIMEOUT_SECONDS = 5.0  # without an answer; then the call may be made again
CONNECT_SECONDS = 2.0
RETRIES = 3  # of a connection, with jitter, before a call says that the store is busy
OLDEST = (7, 0)
# How errors of a server begin that time or an operator mends, beside those that redis-py has a class for.
PASSING = ("READONLY", "BUSY", "NOREPLICAS", "MISCONF")


class Script:
    """A Lua script and the name that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = sha1(self.text).hexdigest().encode()  # the name that EVALSHA takes


class Server:
    """One server; safe to use from several threads."""

    def __init__(self, uri: str) -> None:
        """Prepare connections; none is made yet. Raises UsageError for a URI that names no server."""
        self.name = _without_secrets(uri)
        try:
            import redis
        except ImportError:
            raise StoreError(
                "the online store needs the package redis: pip install 'lookback[redis]'."
            ) from None
        from redis.backoff import ExponentialWithJitterBackoff
        from redis.retry import Retry

        self._redis = redis
        options: dict[str, Any] = {
            "socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True, "protocol": 2, "client_name": "lookback",
            "retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), RETRIES),
        }  # fmt: skip
        if urlsplit(uri).password is None and (password := os.environ.get(PASSWORD_VARIABLE)):
            options["password"] = password
        if uri.startswith("unix:"):
            for name in ("socket_keepalive", "socket_connect_timeout"):
                del options[name]
        try:
            self._pool = redis.ConnectionPool.from_url(uri, **options)
            self._pool.make_connection()  # not connected yet: it looks at the options
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.name} is no store URI: {error}.") from None

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Give a connection of the pool; what fails meanwhile becomes an error of ours, and it is closed."""
        with self.errors():
            raw: Any = self._pool.get_connection()  # redis-py's own types stop here
            try:
                yield Connection(raw, self._redis)
            except BaseException:
                raw.disconnect()  # replies that nobody read must not be taken for the next call's
                raise
            finally:
                self._pool.release(raw)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what redis-py raises into an error of ours."""
        error = self._redis.exceptions
        try:
            yield
        except error.AuthenticationError:
            raise StoreError(f"{self.name} refuses the user or the password: {_HOW_TO_LOG_IN}.") from None
        except (error.ConnectionError, error.TimeoutError, OSError) as failed:
            raise StoreBusy(f"the online store {self.name} doesn't answer ({_short(failed)})") from None
        except (error.ReadOnlyError, error.TryAgainError, error.MasterDownError) as failed:
            raise StoreBusy(
                f"the online store {self.name} takes no writes just now ({_short(failed)})"
            ) from None
        except error.ResponseError as failed:
            raise self._said(str(failed)) from None
        except error.RedisError as failed:
            raise StoreError(f"the online store {self.name} failed: {_short(failed)}.") from None

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
        if word == TYPE:
            return RefusedError(
                f"the key {rest.split(' ')[0]} in {self.name} holds something that is not Lookback's: rename or "
                "delete it, or name another database (redis://HOST/DB)."
            )
        if word in ("NOAUTH", "WRONGPASS", "NOPERM"):
            return StoreError(f"{self.name} refuses the user or the password: {_HOW_TO_LOG_IN}.")
        if word == "OOM" or "maxmemory" in text:
            return StoreBusy(f"the online store {self.name} is out of memory: raise its maxmemory")
        if word in PASSING:
            return StoreBusy(f"the online store {self.name} takes no writes just now ({word})")
        return StoreError(f"the online store {self.name} failed: {text}.")

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()


class Connection:
    """One connection: scripts sent, their answers read in order."""

    def __init__(self, raw: Any, module: Any) -> None:
        self._raw = raw
        self._errors = module.exceptions

    def call(self, *words: bytes | str | int) -> Any:
        """Run a command; return its answer."""
        self._raw.send_command(*words)
        return self._raw.read_response()

    def run(self, script: Script, *arguments: bytes | str | int) -> Any:
        """Run a script, loading it where the server doesn't know it; return its answer."""
        self._raw.send_command(b"EVALSHA", script.sha, 0, *arguments)
        try:
            return self._raw.read_response()
        except self._errors.NoScriptError:
            self.load(script)
            return self.call(b"EVALSHA", script.sha, 0, *arguments)

    def load(self, script: Script) -> None:
        """Make the server know a script."""
        self.call(b"SCRIPT", b"LOAD", script.text)

    def send(self, packed: Sequence[bytes | memoryview]) -> None:
        """Send bytes that are commands already."""
        self._raw.send_packed_command(packed)

    def answer(self) -> Any:
        """Return the answer to the oldest command that has none yet."""
        return self._raw.read_response()


_HOW_TO_LOG_IN = f"write redis://USER:PASSWORD@HOST, or set {PASSWORD_VARIABLE}"


def _without_secrets(uri: str) -> str:
    """Return a URI as it may be shown.

    >>> _without_secrets("redis://me:secret@host:7000/3?ssl_keyfile=x")
    'redis://host:7000/3'
    """
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _short(error: BaseException) -> str:
    """Return an error's words without the address that redis-py puts before them."""
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.split(". ")[-1] if "connecting to" in text else text
