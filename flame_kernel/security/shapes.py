"""Shapes: what the tables of `answers.py` are made of. A *check* says whether a value has the right type and range.

A check is called with a value and the value's name, and raises WrongShape with a sentence about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Most levels of nested JSON that both a front end's encoder and ours can process.
MAX_DEPTH = 200
# The largest whole number that JavaScript can represent.
MAX_WHOLE = 1 << 53
# The largest number accepted for seconds, bytes and percent.
MAX_NUMBER = 1e15
MAX_LINE = 4096
# Seconds since 1970: in the year 5138.
MAX_MOMENT = 1e11

# Values of these types need no check: they hold no other values, and are not numbers.
_WORDS = frozenset((str, bool, type(None)))

Check = Callable[[Any, str], None]


class WrongShape(ValueError):
    """A part of an answer has the wrong type or range; the text says which part."""


def text(most: int = 1 << 30) -> Check:
    """A text of at most ``most`` characters."""

    def check(value: Any, name: str) -> None:
        if type(value) is not str:
            raise WrongShape(f"{name} is not text")
        if len(value) > most:
            raise WrongShape(f"{name} has more than {most} characters")

    return check


def whole(least: int = 0, most: int = MAX_WHOLE) -> Check:
    """A whole number from ``least`` to ``most``."""

    def check(value: Any, name: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise WrongShape(f"{name} is not a whole number from {least} to {most}")

    return check


def number(value: Any, name: str) -> None:
    """A number of at most MAX_NUMBER in size, so neither infinite nor NaN."""
    if type(value) not in (int, float) or not -MAX_NUMBER <= value <= MAX_NUMBER:  # False for NaN
        raise WrongShape(f"{name} is not a number in range")


def moment(value: Any, name: str) -> None:
    """A time in seconds since 1970 that can be shown as a date."""
    if type(value) not in (int, float) or not 0 <= value <= MAX_MOMENT:
        raise WrongShape(f"{name} is not a time")


def flag(value: Any, name: str) -> None:
    """True or false."""
    if type(value) is not bool:
        raise WrongShape(f"{name} is neither true nor false")


def one_of(*words: Any) -> Check:
    """One of these words."""

    def check(value: Any, name: str) -> None:
        if type(value) is not str or value not in words:
            raise WrongShape(f"{name} is not one of {', '.join(words)}")

    return check


def maybe(other: Check) -> Check:
    """Null, or a value that ``other`` accepts."""
    return lambda value, name: None if value is None else other(value, name)


def listing(item: Check, most: int = 1_000_000, least: int = 0) -> Check:
    """A list of ``least`` to ``most`` items."""

    def check(value: Any, name: str) -> None:
        if type(value) is not list:
            raise WrongShape(f"{name} is not a list")
        if len(value) > most:
            raise WrongShape(f"{name} has more than {most} items")
        if len(value) < least:
            raise WrongShape(f"{name} has fewer than {least} items")
        for one in value:
            item(one, f"an item of {name}")

    return check


def row(*items: Check) -> Check:
    """A list of exactly these items."""

    def check(value: Any, name: str) -> None:
        if type(value) is not list or len(value) != len(items):
            raise WrongShape(f"{name} is not a list of {len(items)}")
        for one, item in zip(value, items, strict=True):
            item(one, f"an item of {name}")

    return check


def table(item: Check, most: int = 100_000) -> Check:
    """A dict of at most ``most`` entries, whose values ``item`` accepts."""

    def check(value: Any, name: str) -> None:
        if type(value) is not dict:
            raise WrongShape(f"{name} is not an object")
        if len(value) > most:
            raise WrongShape(f"{name} has more than {most} entries")
        for one in value.values():
            item(one, f"a value of {name}")

    return check


def record(needed: Mapping[str, Check], other: Mapping[str, Check] | None = None) -> Check:
    """A dict that must have the fields of ``needed``, and may have those of ``other``."""

    fields = {**(other or {}), **needed}

    def check(value: Any, name: str) -> None:
        if type(value) is not dict:
            raise WrongShape(f"{name} is not an object")
        for field in needed:
            if field not in value:
                raise WrongShape(f"{name} has no {field}")
        for field in value if len(value) < len(fields) else fields:
            if field in value and field in fields:
                fields[field](value[field], field)

    return check


def mapping(value: Any, name: str) -> None:
    """Any dict."""
    if type(value) is not dict:
        raise WrongShape(f"{name} is not an object")


def either(field: str, cases: Mapping[str, Check]) -> Check:
    """A dict whose ``field`` says which check of ``cases`` it must pass."""

    def check(value: Any, name: str) -> None:
        if type(value) is not dict:
            raise WrongShape(f"{name} is not an object")
        kind = value.get(field)
        if type(kind) is not str or kind not in cases:
            raise WrongShape(f"{field} is not one of {', '.join(cases)}")
        cases[kind](value, name)

    return check


def tree(value: Any, name: str) -> None:
    """Any JSON, at most MAX_DEPTH levels deep, with whole numbers of at most 4,000 digits.

    Python parses 4,300 digits; the limit is lower so that adding to a number cannot exceed that.
    """
    if type(value) is dict and _WORDS.issuperset(map(type, value.values())):
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        kinds = set(map(type, level))
        if int in kinds and max(map(int.bit_length, (one for one in level if type(one) is int))) > 13_000:
            raise WrongShape(f"{name} has a number of thousands of digits")
        for one in level if dict in kinds or list in kinds else ():
            kind = type(one)
            if kind is dict:
                below.extend(one.values())
            elif kind is list:
                below.extend(one)
        if not below:
            return
        level = below
    raise WrongShape(f"{name} is nested deeper than {MAX_DEPTH}")
