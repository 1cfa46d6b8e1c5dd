"""Reads amounts that people write in settings (``"90 min"``, ``"256 MB"``, ``"yes"``) and shows amounts as text.

Units of size are powers of 1024: MB and MiB mean the same when read, and MiB is shown.
"""

from __future__ import annotations

import math
import re
import time

from ..agent.wire import units as in_words

_TIMES = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "day": 86400, "days": 86400}
_SIZES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZES |= {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_NO_TIME = 1e11  # seconds; beyond it there is no calendar date
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)")


def seconds(value: object) -> float:
    """A time in seconds, from a number or from text with a unit (s, min, h, days). ValueError says what is accepted."""
    return _amount(value, _TIMES, 'a time such as 3600, "90 min" or "24 h"')


def size(value: object) -> int:
    """A size in bytes, from a number or from text with a unit (KB is 1024). ValueError says what is accepted."""
    return int(_amount(value, _SIZES, 'a size such as 1000000, "64 MB" or "1 GB"'))


def size_in_words(number: object) -> str:
    """A number of bytes as people read it: ``812 bytes``, ``1.5 MiB``; ``?`` if it is not a number."""
    if not isinstance(number, (int, float)) or not abs(number) < 1e18:
        return "?"
    return str(in_words.size_in_words(number))


def time_in_words(seconds: object) -> str:
    """A time as people read it: ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``; ``?`` if it is not
    a time."""
    if not isinstance(seconds, (int, float)) or not abs(seconds) < _NO_TIME:
        return "?"
    if seconds < 59.5:
        return f"{_short(seconds) if seconds < 9.95 else round(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {rest} min" if rest else "")
    return f"{hours // 24} d" + (f" {hours % 24} h" if hours % 24 else "")


def moment_in_words(stamp: object, form: str = "%Y-%m-%d %H:%M") -> str:
    """Seconds since 1970 as a local date and time; ``?`` if there is no such date."""
    if not isinstance(stamp, (int, float)) or not abs(stamp) < _NO_TIME:
        return "?"
    return time.strftime(form, time.localtime(stamp))


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def truth(value: object) -> bool:
    """A bool, from a bool or from text such as "yes". ValueError says what is accepted."""
    if isinstance(value, bool):
        return value
    found = _TRUTHS.get(str(value).strip().lower())
    if found is None:
        raise ValueError("true or false")
    return found


def _amount(value: object, units: dict[str, int], wanted: str) -> float:
    if isinstance(value, bool):
        raise ValueError(wanted)
    if isinstance(value, (int, float)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(wanted)
        return value
    match = _AMOUNT.fullmatch(str(value).strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(wanted)
    return float(match[1]) * units[match[2].lower()]
