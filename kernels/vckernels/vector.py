"""What processors can do and Numba makes of no Python: one comparison of a whole vector, and fetching ahead."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import extending, types


@extending.intrinsic
def equal_of_eight(_typing: Any, array: Any, _first: Any, _value: Any) -> Any:
    """Return the place, 0 to 7, of the first of eight int32 in a row that equals a value, 8 if none does.

    A loop would leave early, and a branch cannot be foreseen where.

    ``array`` is C-contiguous; ``first`` (uint64) is where the eight begin, and is not checked.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, eight = ir.IntType(32), ir.VectorType(ir.IntType(32), 8)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        held = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), eight.as_pointer()))
        held.align = 4
        undefined = ir.Constant(eight, ir.Undefined)
        value = builder.insert_element(undefined, builder.trunc(arguments[2], word), word(0))
        wanted = builder.shuffle_vector(value, undefined, ir.Constant(eight, [0] * 8))
        same = builder.bitcast(builder.icmp_signed("==", held, wanted), ir.IntType(8))
        # A ninth bit ends the count where none is equal.
        found = builder.cttz(builder.or_(builder.zext(same, word), word(1 << 8)), ir.IntType(1)(1))
        return builder.zext(found, ir.IntType(64))

    return types.int64(array, types.uint64, types.int64), generate


@extending.intrinsic
def fetch_ahead(_typing: Any, array: Any, _index: Any) -> Any:
    """Ask the processor for the cache line of an element that is needed soon; nothing is read, so any index will do.

    ``array`` is C-contiguous; ``index`` is an int64, and counts from the beginning even where it is negative.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        element = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        # To be read and written, kept in every cache, data.
        builder.call(prefetch, [element, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
