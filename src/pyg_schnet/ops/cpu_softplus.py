r"""Shifted softplus and its derivatives, element by element, in float32.

With :math:`w = e^{-|x|} - 1`

.. math::
    \text{ssp}(x) = \max(x, 0) + \ln(1 + w/2) = \max(x, 0) + 2\,\text{artanh}\frac{w}{4 + w}

which loses no digits near zero, where ssp itself vanishes. There is no vector exponential in
Numba; the polynomials below are free of branches, so LLVM vectorises them.
"""

# Numba infers the types of these functions when it compiles them, by rules mypy does not know.
# mypy: ignore-errors

import ctypes
import struct

import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from . import threads
from .cpu_launch import compile_kernel, panel_for
from .simd import get, put, take, word

# Elements of a task, and below which one thread is done before a second has joined.
_CHUNK, _SERIAL = 8_192, 32_768
COUNTER, TASKS, COUNT, X, VALUE, SLOPE, G, H = range(8)
_LAYOUT = struct.Struct("8q")


@intrinsic
def _power_of_two(typingctx, shifted):
    r"""2 to an integer that the sum with 1.5 * 2^23 has moved into the lowest bits."""

    def codegen(context, builder, signature, values):
        bits = builder.bitcast(values[0], ir.IntType(32))
        exponent = builder.shl(builder.add(bits, ir.IntType(32)(127)), ir.IntType(32)(23))
        return builder.bitcast(exponent, ir.FloatType())

    return types.float32(types.float32), codegen


@njit(error_model="numpy", fastmath={"contract"})
def value_and_slope(x):
    """Of one number."""
    f = types.float32
    size = abs(x)
    # e^-87 is the smallest number that is not denormal.
    size = f(87.0) if size > f(87.0) else size
    shifted = f(12582912.0) - size * f(1.44269504)
    n = shifted - f(12582912.0)
    # ln 2 in two parts, the first of few digits, so that n times it is exact.
    r = (-size - n * f(0.693359375)) + n * f(2.12194440e-4)
    p = f(0.00139421649)
    p = p * r + f(0.00836377614)
    p = p * r + f(0.0416663634)
    p = p * r + f(0.166665734)
    p = p * r + f(0.5)
    p = p * r * r + r
    power = _power_of_two(shifted)
    z = power + power * p
    w = (power - f(1.0)) + power * p
    s = w / (f(4.0) + w)
    q = s * s
    log = f(0.281915456)
    log = log * q + f(0.279576659)
    log = log * q + f(0.400251144)
    log = log * q + f(0.666663110)
    log = log * q + f(2.0)
    positive = x if x > f(0.0) else f(0.0)
    slope = (f(1.0) if x > f(0.0) else z) / (f(1.0) + z)
    return positive + log * s, slope


def forward(args):
    """Values."""
    x, value = word(args, X), word(args, VALUE)
    count, tasks = word(args, COUNT), word(args, TASKS)
    while True:
        task = take(args)
        if task >= tasks:
            return
        for i in range(count * task // tasks, count * (task + 1) // tasks):
            put(args, value, i, value_and_slope(get(args, x, i))[0])


def forward_with_slope(args):
    """Values and derivatives."""
    x, value, slope = word(args, X), word(args, VALUE), word(args, SLOPE)
    count, tasks = word(args, COUNT), word(args, TASKS)
    while True:
        task = take(args)
        if task >= tasks:
            return
        for i in range(count * task // tasks, count * (task + 1) // tasks):
            v, s = value_and_slope(get(args, x, i))
            put(args, value, i, v)
            put(args, slope, i, s)


def double_backward(args):
    """Gradients h s and h g s (1 - s) of g s."""
    slope, g, h = word(args, SLOPE), word(args, G), word(args, H)
    by_g, by_x = word(args, VALUE), word(args, X)
    count, tasks = word(args, COUNT), word(args, TASKS)
    while True:
        task = take(args)
        if task >= tasks:
            return
        for i in range(count * task // tasks, count * (task + 1) // tasks):
            s = get(args, slope, i)
            hs = get(args, h, i) * s
            put(args, by_g, i, hs)
            put(args, by_x, i, hs * get(args, g, i) * (types.float32(1.0) - s))


def shifted_softplus(x: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """Values and, if asked for, derivatives of a float32 tensor."""
    x = x.contiguous()
    value = torch.empty_like(x)
    if not with_slope:
        _run(forward, x=x, value=value)
        return value, None
    slope = torch.empty_like(x)
    _run(forward_with_slope, x=x, value=value, slope=slope)
    return value, slope


def slope_backward(h: Tensor, g: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``g * slope(x)`` by g and by x, with cotangent h."""
    g, h = g.contiguous(), h.contiguous()
    by_g, by_x = torch.empty_like(g), torch.empty_like(g)
    _run(double_backward, slope=slope, g=g, h=h, value=by_g, x=by_x)
    return by_g, by_x


def _run(
    function: object,
    x: Tensor,
    value: Tensor,
    slope: Tensor | None = None,
    g: Tensor | None = None,
    h: Tensor | None = None,
) -> None:
    count = x.numel()
    tasks = -(-count // _CHUNK)
    addresses = (0 if t is None else t.data_ptr() for t in (x, value, slope, g, h))
    arguments = ctypes.create_string_buffer(_LAYOUT.size)
    _LAYOUT.pack_into(arguments, 0, 0, tasks, count, *addresses)
    team = torch.get_num_threads() if count >= _SERIAL else 1
    threads.run(compile_kernel(function, panel_for(torch.float32, 1)), arguments, team)
