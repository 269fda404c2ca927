"""The one handle that a process has on an LMDB store's files, shared by its readers and writers.

Owns: opening, growing, adopting another process's growth, reopening after a failure, and turning LMDB's
errors into sentences. Refuses: to know what is stored.

LMDB allows a file to be open only once in a process, and its map to be resized only while no transaction of
the process is open: so there is one `Environment` a path, counted, and a gate that transactions pass.

The data file is written through a shared map (a commit then costs a fifth of what it costs by `pwrite`).
Such a map kills the process with SIGBUS where the disk has no room for a page, so the file's blocks are
allocated before the map grows over them, and a full disk is an ordinary error there. LMDB cuts the file to
the map it is about to make, so a writer only ever maps the file's whole length, and looks at that length,
extends it and maps it under one lock (`flock` of the folder).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

import lmdb

from lookback.errors import LookbackError, RefusedError, StoreError, UsageError

T = TypeVar("T")

FORMAT_KEY = b"lookback"
FORMAT = b"online store 1"
META = b"meta"
FIRST_MAP_BYTES = 16 << 20
MAX_GROWTH_BYTES = 1 << 30
MAX_DATABASES = 1024
MAX_READERS = 1022
LOOK_EVERY_S = 1.0  # a reader looks this often whether the folder was replaced by another one
ROOM = getattr(os, "posix_fallocate", None)  # without it (macOS) the file is written by pwrite


class Environment:
    """An open LMDB folder; get one with `acquire`, give it back with `release`."""

    _open: ClassVar[dict[tuple[int, str], Environment]] = {}
    _registry: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, key: tuple[int, str], first_map_bytes: int) -> None:
        self.path = path
        self.writable = False
        self._key = key
        self._users = 0
        self._first_map_bytes = first_map_bytes
        self._lock = threading.RLock()
        self._gate = threading.Condition(self._lock)
        self._active = 0  # transactions open,
        self._changes = 0  # changes of the map under way or waiting for them to end
        self._dbs: dict[bytes, lmdb._Database] = {}
        self._env: lmdb.Environment | None = None
        self._look_again = time.monotonic() + LOOK_EVERY_S
        self._opened_inode: int | None = None
        self.opened = 0  # counts openings: handles of databases are good for one of them

    @classmethod
    def acquire(cls, path: Path, *, write: bool, first_map_bytes: int = FIRST_MAP_BYTES) -> Environment:
        """Open the store at `path`, or share the handle that this process has.

        Raises: UsageError when `path` can't be a store, StoreError when there is none to read or it is
        damaged, RefusedError when something else lives there.
        """
        key = (os.getpid(), os.path.realpath(path))
        with cls._registry:
            found = cls._open.get(key) or cls(path, key, first_map_bytes)
            with found._exclusive():
                if found._env is None or (write and not found.writable):
                    found._reopen(write)
            found._users += 1
            cls._open[key] = found
            return found

    def release(self) -> None:
        """Close the files when this was the last user."""
        with self._registry:
            self._users -= 1
            if self._users == 0:
                self._open.pop(self._key, None)
                with self._exclusive():
                    self._close()

    # ---- transactions

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[memoryview]]:
        """Yield a read transaction; its buffers are valid until it ends."""
        txn = self.begin_read()
        try:
            yield txn
        except lmdb.Error as error:
            raise self.failed(error) from None
        finally:
            self.end_read(txn)

    def writing(self, work: Callable[[lmdb.Transaction[bytes]], T]) -> T:
        """Run `work` in one write transaction, again from its start when the map had to grow.

        Raises: StoreError when the disk is full or the file damaged; nothing is written then and the call
        may be repeated. What `work` raises itself ends the transaction without effect.
        """
        while True:
            mend: Callable[[], None]
            self._enter()
            try:
                with self.env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapFullError:
                mend = self._grow
            except lmdb.MapResizedError:
                mend = self._adopt
            except lmdb.PanicError:
                mend = self._recover
            except lmdb.Error as error:
                raise self.failed(error) from None
            finally:
                self._leave()
            mend()

    @property
    def used_bytes(self) -> int:
        """Return how far into the file pages are used."""
        return (int(self.env.info()["last_pgno"]) + 1) * int(self.env.stat()["psize"])

    def make_room(self, more_bytes: int) -> None:
        """Grow the map where a write that is likely to take `more_bytes` would end full and begin again."""
        with suppress(StoreError):  # no room on the disk: the write may fit all the same, or says so itself
            while self.used_bytes + more_bytes > int(self.env.info()["map_size"]):
                self._grow()

    def database(self, name: bytes, *, create: bool, rows: bool = False) -> lmdb._Database | None:
        """Return a named database's handle, None where it does not exist and `create` is not set.

        Not to be called within a transaction of this process's same thread.
        """
        known = self._dbs.get(name)
        if known is not None:
            return known
        while True:
            try:
                with self._exclusive():
                    db = self.env.open_db(name, create=create, dupsort=rows, dupfixed=rows)
                    self._dbs[name] = db
                    return db
            except lmdb.NotFoundError:
                return None
            except lmdb.MapFullError:
                self._grow()
            except lmdb.MapResizedError:
                self._adopt()
            except lmdb.DbsFullError:
                raise StoreError(
                    f"the online store {self.path} holds too many views ({MAX_DATABASES // 3}): "
                    "write new ones to another store."
                ) from None
            except lmdb.Error as error:
                raise self.failed(error) from None

    def sync(self) -> None:
        """Return once all committed transactions are on the disk."""
        while True:
            if self._length() > int(self.env.info()["map_size"]):  # LMDB syncs through the map, all of it
                self._adopt()
            self._enter()
            try:
                return self.env.sync(True)
            except lmdb.Error as error:
                if getattr(error, "code", 0) != errno.ENOMEM or self._length() <= self.env.info()["map_size"]:
                    raise self.failed(error) from None
            finally:
                self._leave()

    def check_readers(self) -> None:
        """Forget readers that died, so that the pages they looked at are used again."""
        self.env.reader_check()

    @property
    def env(self) -> lmdb.Environment:
        """Return LMDB's handle."""
        if self._env is None:
            raise StoreError(f"the online store {self.path} was closed: open it again.")
        return self._env

    # ---- the gate: any number of transactions, or one change of the map

    def _enter(self) -> None:
        with self._lock:
            while self._changes:  # else readers that take turns would keep a change waiting for ever
                self._gate.wait()
            self._active += 1

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            if self._changes and not self._active:
                self._gate.notify_all()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._gate:
            self._changes += 1
            try:
                while self._active:
                    self._gate.wait()
                yield
            finally:
                self._changes -= 1
                self._gate.notify_all()

    def begin_read(self) -> lmdb.Transaction[memoryview]:
        """Begin what `end_read` must end; `reading` is both, for all that is not called for every entity."""
        if time.monotonic() > self._look_again:
            self._follow()
        while True:
            self._enter()
            try:
                return self.env.begin(buffers=True)
            except lmdb.MapResizedError:
                self._leave()
                self._adopt()
            except lmdb.Error as error:
                self._leave()
                raise self.failed(error) from None
            except BaseException:
                self._leave()
                raise

    def end_read(self, txn: lmdb.Transaction[memoryview]) -> None:
        """End a read transaction."""
        txn.abort()
        self._leave()

    def _follow(self) -> None:
        """Open the files that are at the path now, where somebody replaced those that are open."""
        self._look_again = time.monotonic() + LOOK_EVERY_S
        if not self.writable and self._inode() != self._opened_inode:
            with self._exclusive():
                self._reopen(False)

    def _inode(self) -> int | None:
        try:
            return (self.path / "data.mdb").stat().st_ino
        except OSError:
            return None

    # ---- opening and growing, all within the gate

    def _reopen(self, write: bool) -> None:
        self._close()
        data = self.path / "data.mdb"
        if write:
            _prepare_folder(self.path)
        elif not data.is_file():
            raise StoreError(
                f"there is no online store at {self.path}: start `lookback run` with --store "
                f"lmdb:{self.path}, or name the folder it writes to."
            )
        try:
            if write:
                with self._sizing():  # and so nobody grows the file while its format is looked at
                    self._open_files(True)
                    self._check_format(True)
            else:
                self._open_files(False)
                self._check_format(False)
        except (lmdb.Error, OSError) as error:
            self._close()
            raise self.failed(error) from None
        except LookbackError:
            self._close()
            raise

    def _open_files(self, write: bool) -> None:
        length = self._length()
        size = length or self._first_map_bytes
        self.writable = write
        self._env = lmdb.open(
            str(self.path), map_size=size, max_dbs=MAX_DATABASES, max_readers=MAX_READERS,
            max_spare_txns=8, readonly=not write, create=write, sync=not write, metasync=not write,
            writemap=write and ROOM is not None, map_async=write, readahead=False, lib_version=0,
        )  # fmt: skip
        self.opened += 1
        self._opened_inode = self._inode()
        if write:
            self._env.reader_check()
            if not length:
                self._allocate(0, size)

    def _close(self) -> None:
        self._dbs.clear()
        if self._env is not None:
            self._env.close()
            self._env = None

    def _check_format(self, write: bool) -> None:
        try:
            begun = self.env.begin(write=write)
        except lmdb.MapResizedError:  # a writer grew the file since it was opened
            self.env.set_mapsize(0)
            begun = self.env.begin(write=write)
        with begun as txn:
            found = txn.get(FORMAT_KEY)
            if found == FORMAT:
                return
            if found is not None:
                layout = found.decode("utf-8", "replace")
                raise RefusedError(
                    f"the online store {self.path} has the layout {layout!r}, this release knows "
                    f"{FORMAT.decode()!r}: use the release that wrote it, or name another folder."
                )
            if txn.stat()["entries"]:
                raise RefusedError(f"{self.path} is another program's LMDB folder: name another one.")
            if not write:
                raise StoreError(f"the online store {self.path} is empty: start `lookback run` first.")
            txn.put(FORMAT_KEY, FORMAT)

    @contextmanager
    def _sizing(self) -> Iterator[None]:
        """Keep other processes from changing the file's length."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _length(self) -> int:
        try:
            return (self.path / "data.mdb").stat().st_size
        except FileNotFoundError:
            return 0

    def _allocate(self, length: int, size: int) -> None:
        """Reserve the disk's blocks from `length` to `size`; raises OSError where there is no room."""
        if ROOM is None or size <= length:
            return
        fd = os.open(self.path / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
        try:
            ROOM(fd, length, size - length)
        except OSError:
            if length:  # what was reserved before the disk was full is given back
                os.ftruncate(fd, length)
            raise
        finally:
            os.close(fd)

    def _grow(self) -> None:
        """Double the map, by MAX_GROWTH_BYTES at most, or catch up with a process that did."""
        try:
            with self._exclusive(), self._sizing():
                mapped, length = int(self.env.info()["map_size"]), self._length()
                if length <= mapped:
                    length = mapped + min(mapped, MAX_GROWTH_BYTES)
                    self._allocate(mapped, length)
                self.env.set_mapsize(length)
        except (lmdb.Error, OSError) as error:
            raise self.failed(error) from None

    def _adopt(self) -> None:
        """Map what another process has added to the file."""
        try:
            if not self.writable:
                with self._exclusive():
                    self.env.set_mapsize(0)
                return
            with self._exclusive(), self._sizing():
                self.env.set_mapsize(max(self._length(), int(self.env.info()["map_size"])))
        except (lmdb.Error, OSError) as error:
            raise self.failed(error) from None

    def _recover(self) -> None:
        """Open again after LMDB gave its handle up (a failed write of its head page)."""
        with self._exclusive():
            self._reopen(self.writable)

    # ---- errors

    def failed(self, error: lmdb.Error | OSError) -> LookbackError:
        """Return what to tell the user about an error of LMDB or of the file system.

        A damaged file is refused by a writer, which would build on it, and can't be read by others.
        """
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreError(
                f"the disk of the online store {self.path} is full: make room there, writing then goes on."
            )
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreError(
                f"the online store {self.path} can't be opened: give this user the right to write in the "
                "folder (readers too, for the lock file)."
            )
        if isinstance(error, lmdb.ReadersFullError):
            return StoreError(f"the online store {self.path} has {MAX_READERS} readers: close some.")
        damaged = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
        if isinstance(error, damaged):
            kind = RefusedError if self.writable else StoreError
            return kind(
                f"{self.path}/data.mdb is damaged or no LMDB file ({error}): move the folder away and start "
                "the job with an empty store, it writes the values again."
            )
        return StoreError(f"the online store {self.path} failed: {error}.")


def _prepare_folder(path: Path) -> None:
    """Make the folder, or refuse one that holds anything but a store."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: name a folder for the online store.")
    if path.exists() and not (path / "data.mdb").exists():
        others = sorted(p.name for p in path.iterdir() if p.name not in ("lock.mdb", "lost+found"))
        if others:
            raise RefusedError(
                f"{path} holds other files ({others[0]}) and no online store: name an empty folder."
            )
    with suppress(FileExistsError):
        path.mkdir(parents=True)
