"""Numba's half: kernels to object code. Imported only where something must be compiled.

Owns: how compiled code takes its arguments out of Python's objects (see `machine`), what the kernels' intrinsics are.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, type_callable
from numba.np.arrayobj import populate_array

from lookback.windows.cache import OPTIONS, cache_dir, kept_in
from lookback.windows.machine import INTEGER, SYMBOL, Kind, target_machine
from lookback.windows.numeric import as_float, as_word, prefetch

if TYPE_CHECKING:
    from lookback.windows.cache import Entry

njit = numba.njit

# Where CPython's tuples and numpy's arrays hold what compiled code reads: both are these types' C interfaces.
_ITEMS = tuple.__basicsize__
_HEAD = object.__basicsize__
_TYPE, _DATA, _NDIM, _SHAPE, _DTYPE, _FLAGS = 8, _HEAD, _HEAD + 8, _HEAD + 16, _HEAD + 40, _HEAD + 48
_IN_ORDER = 0x0001 | 0x0100  # C-contiguous, aligned


def object_code(entry: Entry, kinds: Sequence[Kind]) -> bytes:
    """Return an entry's object code, defining SYMBOL, for arguments of these kinds."""
    inner = entry.compiled
    unpack = _unpack(kinds)

    def call(args, expected, numbers):
        return inner(*unpack(args, expected, numbers))

    numbers = types.UniTuple(types.int64, sum(kind == INTEGER for kind in kinds))
    signature = (types.int64, types.int64, numbers)
    with kept_in(cache_dir()):
        made = njit(signature, no_cpython_wrapper=True, **OPTIONS)(call)
    module = llvm.parse_assembly(made.inspect_llvm(signature))
    name = made.overloads[signature].fndesc.llvm_func_name
    for value in [*module.functions, *module.global_variables]:
        if not value.is_declaration and value.name != name:
            value.linkage = "internal"
    module.get_function(name).name = SYMBOL
    return target_machine().emit_object(module)


@intrinsic
def _peek(typingctx, address):
    """Read the int64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


def _checked(args, expected, index, count, ndim):
    """Return the address of array `index` of the arguments, once it is what it must be."""
    array = _peek(args + _ITEMS + 8 * index)
    if (
        _peek(array + _TYPE) != _peek(expected + _ITEMS + 8 * count)
        or _peek(array + _DTYPE) != _peek(expected + _ITEMS + 8 * index)
        or _peek(array + _NDIM) & 0xFFFFFFFF != ndim
        or _peek(array + _FLAGS) & _IN_ORDER != _IN_ORDER
    ):
        raise TypeError
    return array


_CHECKED = types.int64(*[types.int64] * 5)


def _array(context, builder, kind, address):
    """Return the kernel's own description of the numpy array at an address."""

    def word(pointer, offset):
        at = builder.add(pointer, context.get_constant(types.int64, offset))
        return builder.load(builder.inttoptr(at, ir.IntType(64).as_pointer()))

    array = context.make_array(kind)(context, builder)
    lengths = word(address, _SHAPE)
    shape = [word(lengths, 8 * n) for n in range(kind.ndim)]
    item = context.get_constant(types.int64, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [item]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    data = builder.inttoptr(word(address, _DATA), array.data.type)
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=item, meminfo=None)
    return array._getvalue()


def _unpack(kinds: Sequence[Kind]) -> Any:
    """Return an intrinsic that makes the kernel's arguments of (args, expected, numbers)."""
    wanted = [
        types.int64 if kind == INTEGER else types.Array(numba.from_dtype(np.dtype(kind[0])), kind[1], "C")
        for kind in kinds
    ]

    @intrinsic
    def unpack(typingctx, args, expected, numbers):
        def codegen(context, builder, signature, values):
            found, taken = [], 0
            for index, kind in enumerate(wanted):
                if kind == types.int64:
                    found.append(builder.extract_value(values[2], taken))
                    taken += 1
                    continue
                what = [context.get_constant(types.int64, n) for n in (index, len(kinds), kind.ndim)]
                address = context.compile_internal(builder, _checked, _CHECKED, [*values[:2], *what])
                found.append(_array(context, builder, kind, address))
            return context.make_tuple(builder, signature.return_type, found)

        return types.Tuple(wanted)(args, expected, numbers), codegen

    return unpack


# What the kernels ask of the machine beyond Python's arithmetic.


@type_callable(as_float)
def _(context):
    return lambda word: types.float64(types.int64)


@lower_builtin(as_float, types.int64)
def _(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(types.float64))


@type_callable(as_word)
def _(context):
    return lambda number: types.int64(types.float64)


@lower_builtin(as_word, types.float64)
def _(context, builder, signature, args):
    return builder.bitcast(args[0], context.get_value_type(types.int64))


@type_callable(prefetch)
def _(context):
    return lambda array, index: types.void(array, types.int64)


@lower_builtin(prefetch, types.Array, types.int64)
def _(context, builder, signature, args):
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
    word = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, word(0), word(3), word(1)])
    return context.get_dummy_value()
