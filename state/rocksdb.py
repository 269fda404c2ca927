"""One shard's RocksDB: the only importer of rocksdict.

Owns: opening (never creating by accident), batched reads, one synced batch a commit (at once, or begun and
finished), disk-full recovery.
A handle that saw ENOSPC stays dead, so a failed write reopens the database and tries the same batch again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from state.errors import StateError, StateRefused

T = TypeVar("T")

Put = tuple[bytes, bytes | None]  # None deletes

_FULL = ("no space", "enospc", "disk quota", "space limit")


def _options(create: bool, block_cache: Cache | None, write_buffer_bytes: int) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_paranoid_checks(True)
    options.set_max_open_files(64)
    options.set_keep_log_file_num(2)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_total_wal_size(4 * write_buffer_bytes)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.lz4())
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_format_version(5)
    if block_cache is not None:
        table.set_block_cache(block_cache)
        table.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(table)
    return options


_opened = False


def opened_here() -> bool:
    """Return whether this process has ever opened a database: its threads would be missing from a fork."""
    return _opened


def is_full(error: BaseException) -> bool:
    """Return whether an error of the database says that the disk is full."""
    text = str(error).lower()
    return any(word in text for word in _FULL)


class Database:
    """One RocksDB; keys and values are bytes."""

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        block_cache: Cache | None = None,
        write_buffer_bytes: int = 4 << 20,
        durable: bool = True,
    ) -> None:
        """Open `path`. Raises StateRefused where it is missing, damaged or in use."""
        self.path = path
        self._read_only = read_only
        self._block_cache = block_cache
        self._write_buffer_bytes = write_buffer_bytes
        self._durable = durable
        self._begun: Sequence[Put] = ()
        self._write, self._write_unsynced = WriteOptions(), WriteOptions()
        if durable:
            self._write.sync = True
        else:
            self._write = self._write_unsynced
            self._write.disable_wal = True  # type: ignore[method-assign, assignment]  # a property; its stub is wrong
        if not create and not (path / "CURRENT").exists():
            raise StateRefused(
                f"the state shard {path} is missing or not a database: put the folder back from a backup, "
                "or name a fresh --state to begin anew (nothing was changed)"
            )
        self._db = self._open(create)

    def _open(self, create: bool) -> Rdict:
        global _opened
        _opened = True
        options = _options(create, self._block_cache, self._write_buffer_bytes)
        try:
            if self._read_only:
                return Rdict(str(self.path), options, access_type=AccessType.read_only(False))
            return Rdict(str(self.path), options)
        except Exception as error:
            if is_full(error):
                raise StateError(
                    f"no space left for the state shard {self.path}: make room and start again"
                ) from error
            if "lock file" in str(error).lower() or "lock hold" in str(error).lower():
                raise StateRefused(
                    f"the state shard {self.path} is in use: another job runs on this --state; stop it first"
                ) from error
            raise StateRefused(
                f"the state shard {self.path} can't be opened and was left as it is ({_short(error)}): "
                "restore it from a backup, or name a fresh --state"
            ) from error

    def get(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._checked(lambda: self._db.get(key))

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, in order, None where there is none."""
        return self._checked(lambda: self._db.get(list(keys))) or []

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records with start <= key < stop, in key order."""
        options = ReadOptions()
        options.set_iterate_upper_bound(stop)
        it = self._db.iter(options)
        it.seek(start)
        while it.valid():
            yield bytes(it.key()), bytes(it.value())
            it.next()
        # An iterator ends silently at a damaged block: its status tells.
        self._checked(it.status)

    def write(self, puts: Sequence[Put], wait: Callable[[str], None] | None = None) -> None:
        """Write all of `puts` as one batch, durable on return.

        While the disk is full, reopens the database and tries again each second, calling `wait` with a
        sentence each time; `wait` may raise to give up (the batch is then not written).
        """
        self._write_with(self._write, puts, wait)

    def begin(self, puts: Sequence[Put], wait: Callable[[str], None] | None = None) -> None:
        """Do as `write`, but leave it to `finish` to make the batch durable."""
        self._write_with(self._write_unsynced, puts, wait)
        self._begun = puts

    def finish(self, wait: Callable[[str], None] | None = None) -> None:
        """Make durable what was begun; other threads run meanwhile, and this may be called by one of them."""
        puts, self._begun = self._begun, ()
        if not self._durable:
            return
        try:
            self._db.flush_wal(sync=True)
        except Exception as error:
            self._refuse_unless_full(error)
            self._wait_for_room(
                wait
            )  # what the log has of the batch is there again: to write it twice changes nothing
            self.write(puts, wait)

    def _write_with(
        self, options: WriteOptions, puts: Sequence[Put], wait: Callable[[str], None] | None
    ) -> None:
        while True:
            batch = WriteBatch(raw_mode=True)
            for key, value in puts:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            try:
                self._db.write(batch, options)
                return
            except Exception as error:
                self._refuse_unless_full(error)
            self._wait_for_room(wait)

    def _refuse_unless_full(self, error: Exception) -> None:
        if not is_full(error):
            raise StateError(f"the state shard {self.path} can't be written ({_short(error)})") from error

    def _wait_for_room(self, wait: Callable[[str], None] | None) -> None:
        message = f"no space left for the state at {self.path}: make room; the job waits and then goes on"
        while True:
            if wait is None:
                raise StateError(message)
            wait(message)
            time.sleep(1.0)
            with contextlib.suppress(
                Exception
            ):  # a dead handle may refuse to close; the reopen below decides
                self._db.close()
            try:
                self._db = self._open(False)
                return
            except StateError as error:
                if not (is_full(error) or is_full(error.__cause__ or error)):
                    raise

    def flush(self) -> None:
        """Write the memtable out to a table file."""
        self._checked(self._db.flush)

    def close(self) -> None:
        """Close; later calls raise StateError."""
        with suppress(Exception):  # all that was written is synced; a handle that saw a full disk complains
            self._db.close()

    def _checked(self, call: Callable[[], T | None]) -> T | None:
        try:
            return call()
        except Exception as error:
            # Going on without the rows of a damaged block would count wrong: refused, not failed.
            kind = StateRefused if "corruption" in str(error).lower() else StateError
            raise kind(
                f"the state shard {self.path} can't be read ({_short(error)}): restore it from a backup, "
                "or name a fresh --state and replay"
            ) from error


def block_cache(capacity_bytes: int) -> Cache:
    """Return a cache of table blocks that several databases of a process share."""
    return Cache(capacity_bytes)


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
