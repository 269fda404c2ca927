"""What compiled kernels are called through, and where they live: one folder per (sources, Numba version, CPU).

Owns: the decorators that every kernel function uses, and the folder its machine code is kept in.
Refuses: any setting of Numba outside those decorators (a host process may use Numba for its own ends).

Numba is imported only to compile: that takes 0.8 CPU seconds a process, and machine code that is there needs none
of it (`machine` loads it, `compiling` makes it). The folder's name is a hash of *all* sources here, so a change
anywhere, in a callee of another file too, gives new machine code.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

# No fastmath, no contraction: a kernel's bits are those of IEEE arithmetic in the order written.
# No Numba runtime: kernels allocate nothing, and counting references to their arrays costs a third.
OPTIONS: dict[str, Any] = {
    "fastmath": False, "error_model": "numpy", "boundscheck": False, "_nrt": False, "no_cfunc_wrapper": True,
}  # fmt: skip


def cpu() -> tuple[str, str]:
    """Return (name, features) that machine code is made for: NUMBA_CPU_NAME where it is set, else the host's."""
    if name := os.environ.get("NUMBA_CPU_NAME"):
        return name, os.environ.get("NUMBA_CPU_FEATURES", "")
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def source_hash(folder: Path | None = None) -> str:
    """Return the hash that names the cache folder (20 hex digits)."""
    digest = hashlib.sha256(f"numba {version('numba')}\n{' '.join(cpu())}\n".encode())
    for path in sorted((folder or Path(__file__).parent).glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def cache_root() -> Path:
    """Return ``$LOOKBACK_CACHE``, else ``lookback`` in the user's cache folder."""
    if chosen := os.environ.get("LOOKBACK_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "lookback"


@functools.cache
def cache_dir() -> Path:
    """Return the folder that holds the machine code of these sources."""
    return cache_root() / "kernels" / source_hash()


def compiled_before() -> bool:
    """Return whether the kernels of these sources are there."""
    return any(cache_dir().glob("*.kernel"))


class Kernel:
    """A function that Numba compiles when another kernel or Python first calls it; `plain` is as Python runs it."""

    def __init__(self, function: Callable[..., Any], **more: Any) -> None:
        self.plain = function
        self._options = {**OPTIONS, **more}
        functools.update_wrapper(self, function)

    @functools.cached_property
    def compiled(self) -> Any:
        """Numba's own form of the function."""
        from lookback.windows import compiling

        with kept_in(cache_dir()):
            return compiling.njit(self.plain, cache=True, **self._options)

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes this for, where compiled code calls it."""
        return self.compiled._numba_type_

    def __call__(self, *args: Any) -> Any:
        """Call it from Python: for tests and trials. What the job calls is an `entry`."""
        return self.compiled(*args)


class Entry(Kernel):
    """A kernel that Python calls: its machine code is loaded without Numba, and compiled where it isn't there.

    Arguments are C-contiguous numpy arrays and integers, by position; it returns an int, 0 where the function
    returns nothing.
    """

    _call: Callable[..., int] | None = None

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function, no_cpython_wrapper=True)

    def __call__(self, *args: Any) -> int:
        """Run it. Raises TypeError for an argument that is neither a C-contiguous array nor an integer."""
        if self._call is None:
            from lookback.windows import machine

            self._call = machine.Calls(self)
        return self._call(args)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Let Numba keep what it compiles in a folder; its settings are as before afterwards."""
    from numba.core import config

    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def jit(function: F) -> F:
    """Compile a function that other kernels call."""
    return cast(F, Kernel(function))


def jit_inline(function: F) -> F:
    """Do as `jit`, for a function with one or two callers that each row goes through.

    It becomes a part of them: passing a dozen arrays costs more than what such a function does.
    """
    return cast(F, Kernel(function, forceinline=True))


def entry(function: F) -> F:
    """Compile a function that Python calls, once for each combination of its arguments' types."""
    return cast(F, Entry(function))
