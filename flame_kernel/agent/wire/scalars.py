"""Values that hold no other values: numbers, times, paths and the like, as JSON and back. Both sides import it.

``LEAVES`` maps each class to its tag, the function that makes JSON of a value, and the one that makes a value of JSON.
"""

import datetime
import decimal
import fractions
import ipaddress
import pathlib
import sys
import uuid

# Most bits of the numbers in a Fraction or a range: dividing longer ones takes seconds.
MAX_DIVIDED = 1 << 16
# Numbers of up to this many hexadecimal digits are divided at once.
SHORT = 500


class NotPlain(TypeError):
    """A value that cannot be sent; the text says which and why, but not what to do instead."""


class TooLarge(ValueError):
    """A value is larger than the limit that was given."""


class BadValue(ValueError):
    """Parts that ``encode`` cannot have written; or, with ``missing``, parts that need a library not installed here."""

    def __init__(self, message, missing=False):
        ValueError.__init__(self, message)
        self.missing = missing


def is_clean(text):
    """Whether JSON keeps the text exact: two lone surrogates side by side would become one character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def class_name(kind):
    """``module.Class`` for messages; just ``Class`` for a built-in, and for one of the cells' module or of ours: the
    names of these modules say nothing, and each session has its own."""
    module = getattr(kind, "__module__", None)
    name = getattr(kind, "__qualname__", None) or getattr(kind, "__name__", "?")
    is_bare = module in (None, "builtins") or str(module).startswith(("flame_session_", "flame_agent_"))
    return name if is_bare else "%s.%s" % (module, name)


def _fraction(value):
    numerator, denominator = value.numerator, value.denominator
    if max(numerator.bit_length(), denominator.bit_length()) > MAX_DIVIDED:
        raise NotPlain("a Fraction of more than %d bits" % MAX_DIVIDED)
    return ["%x" % numerator, "%x" % denominator]


def _range(value):
    start, stop, step = value.start, value.stop, value.step
    if max(start.bit_length(), stop.bit_length(), step.bit_length()) > MAX_DIVIDED:
        raise NotPlain("a range of more than %d bits" % MAX_DIVIDED)
    return ["%x" % start, "%x" % stop, "%x" % step]


def _check_divided(name, size, count):
    """Check the hexadecimal digits of all its numbers together: the time for a division grows with their square."""
    if size > 3 * (MAX_DIVIDED // 4 + 2):
        raise BadValue("a %s of more than %d bits" % (name, MAX_DIVIDED))
    count(size * size >> 16)


def _make_fraction(content, count):
    numerator, denominator = content
    if len(numerator) + len(denominator) > SHORT:
        _check_divided("Fraction", len(numerator) + len(denominator), count)
    return fractions.Fraction(int(numerator, 16), int(denominator, 16))


def _make_range(content, count):
    start, stop, step = content
    if len(start) + len(stop) + len(step) > SHORT:
        _check_divided("range", len(start) + len(stop) + len(step), count)
    return range(int(start, 16), int(stop, 16), int(step, 16))


def _make_decimal(content, count):
    if type(content) is not str:
        raise BadValue("a Decimal that is not text")
    if len(content) > SHORT:
        count(len(content) >> 6)  # its hash is computed anew each time
    return decimal.Decimal(content)


def _make_date(content):
    year, month, day = content
    return datetime.date(year, month, day)


def _make_complex(content):
    real, imaginary = content
    if not {type(real), type(imaginary)} <= {int, float}:
        raise BadValue("a complex of other things than numbers")
    return complex(real, imaginary)


def _path(value):
    text = str(value)
    return [type(value).__name__, text.encode("utf-8", "surrogatepass").decode("latin-1")]


def _make_path(content):
    """Make a path; one of another operating system becomes a pure path, because it names nothing here."""
    name, text = content
    kinds = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    kinds[type(pathlib.Path()).__name__] = type(pathlib.Path())
    kinds.update(PurePosixPath=pathlib.PurePosixPath, PureWindowsPath=pathlib.PureWindowsPath)
    return kinds[name](text.encode("latin-1").decode("utf-8", "surrogatepass"))


def _make_address(content):
    name, text = content
    if type(text) is not str:
        raise BadValue("an address that is no text")
    return _ADDRESSES[name](text)


def _delta(value):
    return [value.days, value.seconds, value.microseconds]


def _make_delta(content):
    days, seconds, microseconds = content
    return datetime.timedelta(days, seconds, microseconds)


def zone(one):
    """A time zone as JSON: None, a zone's key, or an offset with an optional name."""
    if one is None:
        return None
    if type(one) is datetime.timezone:
        offset = one.__getinitargs__()
        return [_delta(offset[0])] + [_hexed(name) for name in offset[1:]]
    if type(one) in ZONES and one.key is not None:
        return one.key
    raise NotPlain("a time zone of class %s is not plain data" % class_name(type(one)))


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


# Networks and interfaces are checked as they are made: a text that is none raises ValueError.
_ADDRESSES = {
    kind.__name__: kind
    for kind in (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
}

# Values whose length makes them slow to make, hash or compare. Their makers get a second argument: a function to report
# how many values they count as.
LONG = {"N", "F", "R"}
# class -> (tag, function from value to JSON, function from JSON to value)
LEAVES = {
    complex: ("c", lambda value: [value.real, value.imag], _make_complex),
    datetime.datetime: ("T", _moment, _make_moment),
    datetime.date: (
        "D",
        lambda value: [value.year, value.month, value.day],
        _make_date,
    ),
    datetime.time: ("C", _clock, _make_clock),
    datetime.timedelta: ("W", _delta, _make_delta),
    datetime.timezone: ("z", zone, _make_zone),
    decimal.Decimal: ("N", str, _make_decimal),
    fractions.Fraction: (
        "F",
        _fraction,
        _make_fraction,
    ),
    uuid.UUID: ("u", lambda value: value.hex, lambda content: uuid.UUID(hex=content)),
    range: (
        "R",
        _range,
        _make_range,
    ),
    type(Ellipsis): ("E", lambda value: 0, lambda content: (Ellipsis, NotImplemented)[content]),
    type(NotImplemented): ("E", lambda value: 1, None),
    pathlib.PurePosixPath: ("p", _path, _make_path),
    pathlib.PureWindowsPath: ("p", _path, _make_path),
    type(pathlib.Path()): ("p", _path, _make_path),
}
LEAVES.update(
    (kind, ("ip", lambda value: [type(value).__name__, str(value)], _make_address)) for kind in _ADDRESSES.values()
)
try:
    from zoneinfo import ZoneInfo

    ZONES = (ZoneInfo,)
except ImportError:  # before Python 3.9
    ZONES = ()
