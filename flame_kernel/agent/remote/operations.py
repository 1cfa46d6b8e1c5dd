"""Operators and functions that can be applied to an object besides attributes, items and calls, by fixed names."""

import operator


def _power(one, other, modulus=None):
    return pow(one, other) if modulus is None else pow(one, other, modulus)


def _enter(thing):
    return thing.__enter__()


def _names(thing):
    return [name for name in dir(thing) if isinstance(name, str)]


_OPERATORS = """
add sub mul truediv floordiv mod matmul lshift rshift and_ or_ xor iadd isub imul itruediv ifloordiv imod ipow imatmul
ilshift irshift iand ior ixor lt le eq ne gt ge neg pos invert abs index contains
"""
FUNCTIONS = {name: getattr(operator, name) for name in _OPERATORS.split()}
FUNCTIONS.update(
    pow=_power,
    divmod=divmod,
    round=round,
    len=len,
    bool=bool,
    int=int,
    float=float,
    complex=complex,
    str=str,
    bytes=bytes,
    hash=hash,
    format=format,
    iter=iter,
    reversed=reversed,
    next=next,
    enter=_enter,
    dir=_names,
    aiter=lambda thing: type(thing).__aiter__(thing),
    anext=lambda thing: type(thing).__anext__(thing),
    aenter=lambda thing: type(thing).__aenter__(thing),
)
