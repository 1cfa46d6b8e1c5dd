"""Values that hold no others: numbers, times, paths and their like, each as JSON and back. Both sides import it.

``LEAVES`` has for each class its tag, what makes JSON of a value, and what makes a value of that.
"""

import datetime
import decimal
import fractions
import pathlib
import sys
import uuid

# Bits of a Fraction's parts: beyond, its greatest common divisor takes seconds.
MAX_FRACTION = 1 << 16


class NotPlain(TypeError):
    """A value that does not travel; the text says which and why, without the next step."""


class TooLarge(ValueError):
    """A value beyond the limit that was given."""


class BadValue(ValueError):
    """Parts that ``encode`` cannot have written; or, with ``missing``, that want a library that is not here."""

    def __init__(self, message, missing=False):
        ValueError.__init__(self, message)
        self.missing = missing


def class_name(kind):
    """``module.Class``, or ``Class`` of a built-in one, for people."""
    module = getattr(kind, "__module__", None)
    name = getattr(kind, "__qualname__", None) or getattr(kind, "__name__", "?")
    return name if module in (None, "builtins") else "%s.%s" % (module, name)


def _big(number):
    return "%x" % number


def _fraction(value):
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_FRACTION:
        raise NotPlain("a Fraction of more than %d bits" % MAX_FRACTION)
    return [_big(value.numerator), _big(value.denominator)]


def _make_fraction(content):
    numerator, denominator = content
    if max(len(numerator), len(denominator)) > MAX_FRACTION // 4 + 1:
        raise BadValue("a Fraction of more than %d bits" % MAX_FRACTION)
    return fractions.Fraction(int(numerator, 16), int(denominator, 16))


def _path(value):
    text = str(value)
    return [type(value).__name__, text.encode("utf-8", "surrogatepass").decode("latin-1")]


def _make_path(content):
    """Another system's path comes as a pure one: it names nothing here."""
    name, text = content
    kinds = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    kinds[type(pathlib.Path()).__name__] = type(pathlib.Path())
    kinds.update(PurePosixPath=pathlib.PurePosixPath, PureWindowsPath=pathlib.PureWindowsPath)
    return kinds[name](text.encode("latin-1").decode("utf-8", "surrogatepass"))


def _delta(value):
    return [value.days, value.seconds, value.microseconds]


def _make_delta(content):
    days, seconds, microseconds = content
    return datetime.timedelta(days, seconds, microseconds)


def zone(one):
    """A time zone as JSON: None, a zone's key, or an offset and perhaps a name."""
    if one is None:
        return None
    if type(one) is datetime.timezone:
        offset = one.__getinitargs__()
        return [_delta(offset[0])] + [_hexed(name) for name in offset[1:]]
    if type(one) in ZONES and one.key is not None:
        return one.key
    raise NotPlain("a time zone of class %s is no plain value" % class_name(type(one)))


def _make_zone(content):
    if content is None:
        return None
    if isinstance(content, list):
        return datetime.timezone(_make_delta(content[0]), *[_unhexed(name) for name in content[1:2]])
    try:
        import zoneinfo
    except ImportError:
        raise BadValue("a time zone by its name, and Python %d.%d has no zoneinfo" % sys.version_info[:2])
    if not _known_zones:
        _known_zones.update(zoneinfo.available_timezones())
    if content not in _known_zones:
        raise BadValue("the time zone %.60r, of which this system knows nothing" % (content,))
    return zoneinfo.ZoneInfo(content)


def _hexed(text):
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def _unhexed(text):
    return text.encode("latin-1").decode("utf-8", "surrogatepass")


_known_zones = set()


def _moment(value):
    numbers = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
    return numbers + [value.fold, zone(value.tzinfo)]


def _make_moment(content):
    year, month, day, hour, minute, second, microsecond, fold, zone = content
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, _make_zone(zone), fold=fold)


def _clock(value):
    return [value.hour, value.minute, value.second, value.microsecond, value.fold, zone(value.tzinfo)]


def _make_clock(content):
    hour, minute, second, microsecond, fold, zone = content
    return datetime.time(hour, minute, second, microsecond, _make_zone(zone), fold=fold)


def _make_range(content):
    return range(*[int(number, 16) for number in content])


# Class -> (tag, what makes JSON of one, what makes one of JSON).
LEAVES = {
    complex: ("c", lambda value: [value.real, value.imag], lambda content: complex(*map(float, content[:2]))),
    datetime.datetime: ("T", _moment, _make_moment),
    datetime.date: (
        "D",
        lambda value: [value.year, value.month, value.day],
        lambda content: datetime.date(*content),
    ),
    datetime.time: ("C", _clock, _make_clock),
    datetime.timedelta: ("W", _delta, _make_delta),
    datetime.timezone: ("z", zone, _make_zone),
    decimal.Decimal: ("N", str, decimal.Decimal),
    fractions.Fraction: ("F", _fraction, _make_fraction),
    uuid.UUID: ("u", lambda value: value.hex, lambda content: uuid.UUID(hex=content)),
    range: ("R", lambda value: [_big(value.start), _big(value.stop), _big(value.step)], _make_range),
    type(Ellipsis): ("E", lambda value: 0, lambda content: Ellipsis),
    pathlib.PurePosixPath: ("p", _path, _make_path),
    pathlib.PureWindowsPath: ("p", _path, _make_path),
    type(pathlib.Path()): ("p", _path, _make_path),
}
try:
    from zoneinfo import ZoneInfo

    ZONES = (ZoneInfo,)
except ImportError:  # before Python 3.9
    ZONES = ()
