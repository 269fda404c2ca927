"""Machine code from its file into this process, and calls of it, without Numba.

Owns: the files of machine code, and how Python hands arrays over. Refuses: compiling (see `compiling`).

    file := sha256 of the rest (32 bytes), object code (ELF or Mach-O) that defines SYMBOL
    call := int32 SYMBOL(result *, error **, tuple of arguments, tuple of what the arrays must be, integers...)

The code reads each array's address and shape out of the numpy object itself, whose layout is part of numpy's C
interface: asking in Python costs more than a small kernel takes. It refuses an array that is not of the type it was
compiled for.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookback.windows.cache import cache_dir, cpu

if TYPE_CHECKING:
    import llvmlite.binding as llvm

    from lookback.windows.cache import Entry

SYMBOL = "lookback_kernel"

Kind = tuple[str, int]  # (dtype, dimensions); ("", 0) is an integer
INTEGER: Kind = ("", 0)
# The C function, the dtypes of its arrays and `ndarray` itself, and which arguments are integers.
Made = tuple[Callable[..., int], tuple[Any, ...], tuple[int, ...]]

_engines: list[Any] = []  # hold the code that was loaded


class Calls:
    """One entry's machine code: called with a tuple of arguments."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._made: dict[tuple[Kind, ...], Made] = {}
        self._last: Made | None = None

    def __call__(self, args: tuple[Any, ...]) -> int:
        """Run the code made for these arguments' types: first that of the last call, which refuses others."""
        found = None if self._last is None else _run(self._last, args)
        if found is None:
            kinds = tuple(_kind(arg) for arg in args)
            if kinds not in self._made:
                self._made[kinds] = self._load(kinds)
            self._last = self._made[kinds]
            # Arrays that came through pickle have a dtype of their own, which a view has not.
            found = _run(
                self._last, tuple(a.view(k[0]) if k[0] else a for a, k in zip(args, kinds, strict=True))
            )
        if found is None:
            raise TypeError(f"{self._entry.plain.__name__} takes C-contiguous, aligned arrays")
        return found

    def _load(self, kinds: tuple[Kind, ...]) -> Made:
        path = path_of(self._entry, kinds)
        address = None if (code := read(path)) is None else load(code)
        if address is None:
            from lookback.windows import compiling

            code = compiling.object_code(self._entry, kinds)
            write(path, code)
            address = load(code)
        integers = tuple(i for i, kind in enumerate(kinds) if kind == INTEGER)
        pointers: list[Any] = [ctypes.c_void_p, ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
        shape = ctypes.PYFUNCTYPE(ctypes.c_int32, *pointers, *[ctypes.c_int64] * len(integers))
        return shape(address), (*expected(kinds), np.ndarray), integers


def _run(made: Made, args: tuple[Any, ...]) -> int | None:
    """Call machine code; None where the arguments are not what it was made for."""
    function, expected, integers = made
    if len(args) != len(expected) - 1:
        return None
    result, error = ctypes.c_int64(), ctypes.c_void_p()
    numbers = [args[i] for i in integers]
    try:
        refused = function(ctypes.byref(result), ctypes.byref(error), args, expected, *numbers)
    except ctypes.ArgumentError:  # no integer where one is due
        return None
    return None if refused else result.value


def _kind(arg: Any) -> Kind:
    if isinstance(arg, np.ndarray):
        return arg.dtype.str[1:], arg.ndim
    if isinstance(arg, int | np.integer):
        return INTEGER
    raise TypeError(f"a kernel takes arrays and integers, not {type(arg).__name__}")


def expected(kinds: Sequence[Kind]) -> list[Any]:
    """Return what arrays of these kinds have as their dtype, which is one object a type."""
    return [None if kind == INTEGER else np.dtype(kind[0]) for kind in kinds]


def path_of(entry: Entry, kinds: Sequence[Kind]) -> Path:
    """Return the file of an entry's code for these kinds; its own source, which may lie elsewhere, names it too."""
    source = Path(entry.plain.__code__.co_filename).read_bytes()
    digest = hashlib.sha256(source + repr(tuple(kinds)).encode()).hexdigest()[:16]
    return cache_dir() / f"{entry.plain.__module__}.{entry.plain.__name__}-{digest}.kernel"


def read(path: Path) -> bytes | None:
    """Return a file's object code; None where there is none to be read, or it is damaged."""
    try:
        held = path.read_bytes()
    except OSError:
        return None
    code = held[32:]
    return code if hashlib.sha256(code).digest() == held[:32] else None


def write(path: Path, code: bytes) -> None:
    """Keep object code, where the folder lets us; whoever comes second replaces the first one's whole."""
    fresh = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(hashlib.sha256(code).digest() + code)
        fresh.replace(path)


def load(code: bytes) -> int:
    """Link object code into this process; return the address of SYMBOL."""
    import llvmlite.binding as llvm

    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(SYMBOL))


def target_machine() -> llvm.TargetMachine:
    """Return what code is made for and loaded by, set as Numba sets its own."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    name, features = cpu()
    reloc = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(
        cpu=name, features=features, opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )
