"""Software prefetch for numba kernels (llvm.prefetch)."""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _prefetch_code(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask the memory for array[index], one-dimensional, for soon, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        struct = context.make_array(array_type)(context, builder, arguments[0])
        element = cgutils.get_item_pointer(  # type: ignore[no-untyped-call]
            context, builder, array_type, struct, [arguments[1]], wraparound=False
        )
        pointer = builder.bitcast(element, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, *[number] * 3])
        )
        # to read, into the second cache level (the first one's few slots are for the reads), data
        builder.call(function, [pointer, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Final[Any] = intrinsic(_prefetch_code)
