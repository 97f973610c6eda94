r"""Vectors of features as values in Numba code.

Numba's loops keep sums over edges in memory: LLVM vectorises the loop over features, but does not
hold its accumulators in registers across the loop over edges. A :class:`Panel` is a vector of
consecutive features (64 floats are four AVX-512 registers) with ``+`` and ``*``, so that it does.
LLVM splits panels into whatever registers a processor has.

A kernel takes one pointer to its arguments, eight bytes each, typed as a pointer to the panel that
it computes with: so one source serves all widths and dtypes.
"""

# Numba infers the types of these functions when it compiles them, by rules mypy does not know.
# mypy: ignore-errors

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

# Allowed: sums in another order, fused multiply-add. Not allowed: to take NaN or inf for absent.
FLAGS = ("reassoc", "contract", "nsz", "arcp")
_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Panel(types.Type):
    """A vector of features; a masked one also serves where fewer features are left.

    The version is part of the type's name, by which kernels are found in Numba's cache.
    """

    def __init__(self, dtype, lanes, masked, version=""):
        self.dtype, self.lanes, self.masked = dtype, lanes, masked
        super().__init__(name=f"Panel({dtype}, {lanes}, {masked}, {version})")

    def scalar_type(self):
        """The LLVM type of one feature."""
        return ir.FloatType() if self.dtype is types.float32 else ir.DoubleType()

    def vector_type(self):
        """The LLVM type of the panel."""
        return ir.VectorType(self.scalar_type(), self.lanes)


@register_model(Panel)
class _PanelModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector_type())


def _element(builder, args, base, offset, scalar_type):
    pointer = builder.inttoptr(base, scalar_type.as_pointer())
    return builder.gep(pointer, [offset], inbounds=True)


def _mask(context, builder, panel, active):
    lanes = ir.Constant(ir.VectorType(_I32, panel.lanes), list(range(panel.lanes)))
    limit = _splat(builder, builder.trunc(active, _I32), panel.lanes)
    return builder.icmp_signed("<", lanes, limit)


def _splat(builder, scalar, lanes):
    vector_type = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector_type, ir.Undefined), zeros)


def _size(panel):
    return 4 if panel.dtype is types.float32 else 8


def _masked(builder, panel, kind, signature):
    name = f"llvm.masked.{kind}.v{panel.lanes}f{8 * _size(panel)}.p0"
    return cgutils.get_or_insert_function(builder.module, signature, name)


@intrinsic
def load(typingctx, args, base, offset, active):
    """The panel at element ``offset`` of an array; zero in lanes from ``active`` on."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        vector = panel.vector_type()
        element = _element(builder, values[0], values[1], values[2], panel.scalar_type())
        pointer = builder.bitcast(element, vector.as_pointer())
        if not panel.masked:
            return builder.load(pointer, align=_size(panel))
        mask = _mask(context, builder, panel, values[3])
        function = _masked(
            builder,
            panel,
            "load",
            ir.FunctionType(vector, [pointer.type, _I32, mask.type, vector]),
        )
        return builder.call(
            function, [pointer, _I32(_size(panel)), mask, ir.Constant(vector, None)]
        )

    return panel(args, types.intp, types.intp, types.intp), codegen


@intrinsic
def store(typingctx, args, base, offset, active, value):
    """Writes a panel, up to lane ``active``."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        vector = panel.vector_type()
        element = _element(builder, values[0], values[1], values[2], panel.scalar_type())
        pointer = builder.bitcast(element, vector.as_pointer())
        if not panel.masked:
            builder.store(values[4], pointer, align=_size(panel))
        else:
            mask = _mask(context, builder, panel, values[3])
            function = _masked(
                builder,
                panel,
                "store",
                ir.FunctionType(ir.VoidType(), [vector, pointer.type, _I32, mask.type]),
            )
            builder.call(function, [values[4], pointer, _I32(_size(panel)), mask])
        return context.get_dummy_value()

    return types.none(args, types.intp, types.intp, types.intp, panel), codegen


def handle(panel):
    """A function that gives other Numba code a pointer, to nothing, that names its panel."""

    @intrinsic
    def make(typingctx):
        def codegen(context, builder, signature, values):
            return context.get_constant_null(signature.return_type)

        return types.CPointer(panel)(), codegen

    return make


@intrinsic
def zero(typingctx, args):
    """A panel of zeros."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        return ir.Constant(panel.vector_type(), None)

    return panel(args), codegen


@intrinsic
def nothing(typingctx, args):
    """The number zero in the dtype of the kernel."""

    def codegen(context, builder, signature, values):
        return args.dtype.scalar_type()(0.0)

    return args.dtype.dtype(args), codegen


@intrinsic
def lanes(typingctx, args):
    """Number of features in a panel."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        return _I64(panel.lanes)

    return types.intp(args), codegen


@intrinsic
def total(typingctx, panel):
    """Sum of the lanes."""

    def codegen(context, builder, signature, values):
        scalar, vector = panel.scalar_type(), panel.vector_type()
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(scalar, [scalar, vector]),
            f"llvm.vector.reduce.fadd.v{panel.lanes}f{8 * _size(panel)}",
        )
        return builder.call(function, [scalar(-0.0), values[0]], fastmath=FLAGS)

    return panel.dtype(panel), codegen


@intrinsic
def word(typingctx, args, i):
    """Argument ``i`` as an integer or address."""

    def codegen(context, builder, signature, values):
        pointer = builder.bitcast(values[0], _I64.as_pointer())
        return builder.load(builder.gep(pointer, [values[1]]))

    return types.intp(args, types.intp), codegen


@intrinsic
def set_word(typingctx, args, i, value):
    """Sets argument ``i``, an integer."""

    def codegen(context, builder, signature, values):
        pointer = builder.bitcast(values[0], _I64.as_pointer())
        builder.store(values[2], builder.gep(pointer, [values[1]]))
        return context.get_dummy_value()

    return types.none(args, types.intp, types.intp), codegen


@intrinsic
def number(typingctx, args, i):
    """Argument ``i``, a double, in the dtype of the kernel."""
    dtype = args.dtype.dtype

    def codegen(context, builder, signature, values):
        pointer = builder.bitcast(values[0], ir.DoubleType().as_pointer())
        value = builder.load(builder.gep(pointer, [values[1]]))
        return value if dtype is types.float64 else builder.fptrunc(value, ir.FloatType())

    return dtype(args, types.intp), codegen


@intrinsic
def take(typingctx, args):
    """Next task from the counter in argument 0, which all threads share."""

    def codegen(context, builder, signature, values):
        pointer = builder.bitcast(values[0], _I64.as_pointer())
        return builder.atomic_rmw("add", pointer, _I64(1), "monotonic")

    return types.intp(args), codegen


@intrinsic
def get(typingctx, args, base, i):
    """Element ``i`` of an array in the dtype of the kernel."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        element = _element(builder, values[0], values[1], values[2], panel.scalar_type())
        return builder.load(element, align=_size(panel))

    return panel.dtype(args, types.intp, types.intp), codegen


@intrinsic
def put(typingctx, args, base, i, value):
    """Writes element ``i`` of an array in the dtype of the kernel."""
    panel = args.dtype

    def codegen(context, builder, signature, values):
        element = _element(builder, values[0], values[1], values[2], panel.scalar_type())
        builder.store(values[3], element, align=_size(panel))
        return context.get_dummy_value()

    return types.none(args, types.intp, types.intp, panel.dtype), codegen


@intrinsic
def cubic(typingctx, args, i, u):
    """Four cubics at u: coefficients of 1, u, u^2, u^3, four each, from argument ``i`` on."""
    panel = args.dtype
    four = Panel(panel.dtype, 4, False)

    def codegen(context, builder, signature, values):
        vector = four.vector_type()
        base = builder.bitcast(values[0], _I64.as_pointer())
        base = builder.bitcast(builder.gep(base, [values[1]]), vector.as_pointer())
        rows = [
            builder.load(builder.gep(base, [_I64(power)]), align=_size(panel)) for power in range(4)
        ]
        powers = _splat(builder, values[2], 4)
        value = rows[3]
        for row in rows[2::-1]:
            value = builder.fadd(builder.fmul(value, powers, flags=FLAGS), row, flags=FLAGS)
        return value

    return four(args, types.intp, panel.dtype), codegen


@intrinsic
def tap(typingctx, taps, i):
    """Number ``i`` of four."""

    def codegen(context, builder, signature, values):
        return builder.extract_element(values[0], builder.trunc(values[1], _I32))

    return taps.dtype(taps, types.intp), codegen


@intrinsic
def get_index(typingctx, base, i):
    """Element ``i`` of an int32 array."""

    def codegen(context, builder, signature, values):
        element = _element(builder, None, values[0], values[1], _I32)
        return builder.sext(builder.load(element, align=4), _I64)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def put_index(typingctx, base, i, value):
    """Writes element ``i`` of an int32 array."""

    def codegen(context, builder, signature, values):
        element = _element(builder, None, values[0], values[1], _I32)
        builder.store(builder.trunc(values[2], _I32), element, align=4)
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, types.intp), codegen


def _arithmetic(operation):
    @intrinsic
    def apply(typingctx, left, right):
        panel = left if isinstance(left, Panel) else right

        def codegen(context, builder, signature, values):
            operands = [
                value if isinstance(kind, Panel) else _splat(builder, value, panel.lanes)
                for value, kind in zip(values, signature.args)
            ]
            return getattr(builder, operation)(*operands, flags=FLAGS)

        scalar = panel.dtype
        return panel(*(t if isinstance(t, Panel) else scalar for t in (left, right))), codegen

    return apply


_add, _multiply = _arithmetic("fadd"), _arithmetic("fmul")


@overload(operator.add, inline="always")
def _panel_add(left, right):
    if isinstance(left, Panel) and isinstance(right, Panel):
        return lambda left, right: _add(left, right)
    return None


@overload(operator.mul, inline="always")
def _panel_multiply(left, right):
    if isinstance(left, Panel) or isinstance(right, Panel):
        return lambda left, right: _multiply(left, right)
    return None
