"""Where compiled kernels live: one folder per (sources, Numba version, CPU).

Owns: the decorator `jit` that every kernel function uses, and the folder its machine code is kept in.
Refuses: any setting of Numba outside that decorator (a host process may use Numba for its own ends).

Numba's own cache looks only at the file of the function it loads, so a changed callee in another file
would go unnoticed and give wrong results. Hence the folder's name is a hash of *all* sources here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config as numba_config

F = TypeVar("F", bound=Callable[..., Any])


def cpu_name() -> str:
    """Return what the machine code is made for: NUMBA_CPU_NAME where it is set, else the host's CPU."""
    if numba_config.CPU_NAME:
        return f"{numba_config.CPU_NAME} {numba_config.CPU_FEATURES or ''}"
    import llvmlite.binding as llvm

    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def source_hash(folder: Path | None = None) -> str:
    """Return the hash that names the cache folder (20 hex digits)."""
    digest = hashlib.sha256(f"numba {numba.__version__}\n{cpu_name()}\n".encode())
    for path in sorted((folder or Path(__file__).parent).glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def cache_root() -> Path:
    """Return ``$LOOKBACK_CACHE``, else ``lookback`` in the user's cache folder."""
    if chosen := os.environ.get("LOOKBACK_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "lookback"


OPTIONS: dict[str, Any] = {
    "cache": True, "fastmath": False, "error_model": "numpy", "boundscheck": False, "_nrt": False,
}  # fmt: skip
CACHE_DIR = cache_root() / "kernels" / source_hash()


def jit(function: F, **more: Any) -> F:
    """Compile a kernel function when it is first called, and keep the machine code in `CACHE_DIR`.

    No fastmath, no contraction: a kernel's bits are those of IEEE arithmetic in the order written.
    No Numba runtime: kernels allocate nothing, and counting references to their arrays costs a third.
    """
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(CACHE_DIR)
    try:
        return cast(F, numba.njit(**OPTIONS, **more)(function))
    finally:
        numba_config.CACHE_DIR = before


def jit_inline(function: F) -> F:
    """Do as `jit`, for a function with one or two callers that each row goes through.

    It becomes a part of them: passing a dozen arrays costs more than what such a function does.
    """
    return jit(function, forceinline=True)
