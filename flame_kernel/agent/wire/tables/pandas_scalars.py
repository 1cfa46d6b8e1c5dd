"""Single values of pandas, exact to the nanosecond and to the zone. Both sides import it.

::

    {"pt": [number, unit, zone, fold]}  Timestamp      {"pw": [number, unit]}         Timedelta
    {"pp": [number, freq]}              Period         {"pv": [left, right, closed]}  Interval
    {"po": freq}                        an offset      {"pn": "NaT"} {"pn": "NA"}
    {"po": [n, normalize, {…}]}         a DateOffset: its keywords, each an integer

A zone is null, a zone key as text, with ``dateutil/`` before it where it is dateutil's, or an offset: ``[seconds,
library]``.  pandas 2.2 renamed some frequencies, so a name that this side does not know is tried under its other
spelling.
"""

import datetime
import re
import sys

from ..scalars import BadValue, NotPlain, class_name
from . import pandas_metadata

UNITS = ("s", "ms", "us", "ns")
CLOSED = ("left", "right", "both", "neither")
# New and old names of frequencies.
_RENAMED = (
    ("ME", "M"),
    ("QE", "Q"),
    ("YE", "A"),
    ("YE", "Y"),
    ("Y", "A"),  # of periods
    ("BME", "BM"),
    ("BQE", "BQ"),
    ("BYE", "BA"),
    ("YS", "AS"),
    ("BYS", "BAS"),
    ("SME", "SM"),
    ("CBME", "CBM"),
    ("h", "H"),
    ("min", "T"),
    ("s", "S"),
    ("ms", "L"),
    ("us", "U"),
    ("ns", "N"),
    ("bh", "BH"),
    ("cbh", "CBH"),
)
_FREQ = re.compile(r"(-?\d*)([A-Za-z]+)((?:-[A-Z0-9]+)?)")
_MAX_FREQ = 60
# The keywords of a DateOffset that are integers.
_UNITS = ("year", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond", "nanosecond")
_KEYWORDS = frozenset(_UNITS) | {one + "s" for one in _UNITS} | {"weekday"}


def write(encoder, value, kind, pandas, depth):
    """The node of a pandas scalar; None for anything else."""
    if value is pandas.NaT:
        return {"pn": "NaT"}
    if value is getattr(pandas, "NA", None):
        return {"pn": "NA"}
    if kind is pandas.Timestamp:
        moment = value.to_datetime64()
        return {"pt": [int(moment.view("i8")), unit_of(value), zone(value.tz), value.fold]}
    if kind is pandas.Timedelta:
        return {"pw": [int(value.to_timedelta64().view("i8")), unit_of(value)]}
    if kind is pandas.Period:
        return {"pp": [value.ordinal, value.freqstr]}
    if kind is pandas.Interval:
        return {"pv": encoder.nodes((value.left, value.right, value.closed), depth)}
    if kind is pandas.DateOffset:
        return {"po": _date_offset(value)}
    if isinstance(value, pandas.tseries.offsets.BaseOffset):
        return {"po": freq_text(pandas, value)}
    return None


def unit_of(value):
    """The unit of a Timestamp, a Timedelta, or an array of them; before pandas 2 it is always nanoseconds."""
    return getattr(value, "unit", "ns")


def freq_text(pandas, offset):
    """An offset as text from which it can be made again; None for None."""
    if offset is None:
        return None
    text = getattr(offset, "freqstr", None)
    try:
        same = type(text) is str and len(text) <= _MAX_FREQ and pandas.tseries.frequencies.to_offset(text) == offset
    except ValueError:
        same = False
    if not same:
        raise NotPlain("the offset %.60r is not plain data: its text makes another one" % (offset,))
    return text


def _date_offset(value):
    if not all(name in _KEYWORDS and type(one) is int for name, one in value.kwds.items()):
        raise NotPlain("the offset %.60r is not plain data: a keyword of it is no integer" % (value,))
    return [value.n, value.normalize, dict(value.kwds)]


def offset(pandas, text):
    """The offset from a text that ``freq_text`` made."""
    if text is None:
        return None
    for one in spellings(text):
        try:
            return pandas.tseries.frequencies.to_offset(one)
        except (ValueError, AttributeError, KeyError):
            pass
    raise no_frequency(pandas, text)


def no_frequency(pandas, text):
    """The error for a frequency of another version of pandas."""
    return BadValue("the frequency %.60r, which pandas %s does not have" % (text, pandas.__version__), missing=True)


def spellings(text):
    """The text of a frequency, and its spellings in other versions of pandas."""
    found = _FREQ.fullmatch(text) if type(text) is str and len(text) <= _MAX_FREQ else None
    if found is None and not (type(text) is str and re.fullmatch(r"[A-Za-z0-9 .:<>=+-]{1,%d}" % _MAX_FREQ, text)):
        raise BadValue("the frequency %.60r" % (text,))
    names = [text]
    if found is not None:
        count, name, rest = found.groups()
        for pair in _RENAMED:
            if name in pair:
                names.append(count + pair[1 - pair.index(name)] + rest)
    return names


def zone(tz):
    """A time zone as JSON; raises NotPlain for a zone that has neither a name nor a fixed offset of whole seconds."""
    if tz is None:
        return None
    key = getattr(tz, "key", None) or getattr(tz, "zone", None)
    library = type(tz).__module__
    is_dateutil = library.startswith("dateutil.")
    if is_dateutil:
        key = str(getattr(tz, "_filename", None)).rpartition("/zoneinfo/")[2]
    if type(key) is str and not key.startswith("dateutil") and type(tz).__name__ not in ("tzutc", "tzlocal"):
        try:
            pandas_metadata.check_zone(key)
        except BadValue as e:
            raise NotPlain("a time zone that does not travel (%s)" % e)
        return "dateutil/" + key if is_dateutil else key
    offset = tz.utcoffset(None) if library in ("datetime", "pytz") else None
    if offset is not None:
        seconds = offset.total_seconds()
        if seconds == int(seconds):
            return [int(seconds), library]
    raise NotPlain("a time zone of class %s is not plain data" % class_name(type(tz)))


def made_zone(content):
    """The zone argument for pandas: a name, which pandas looks up, or an offset."""
    if content is None:
        return None
    if type(content) is list:
        seconds, library = content
        if library == "pytz" and "pytz" in sys.modules:
            return sys.modules["pytz"].FixedOffset(seconds // 60)
        offset = datetime.timezone(datetime.timedelta(seconds=seconds))
        return datetime.timezone.utc if not seconds else offset
    library, _, key = content.partition("/")
    if library == "dateutil" and not key.lower().startswith(("dateutil", "tzlocal")):
        pandas_metadata.check_zone(key)
        if sys.modules["dateutil.tz"].gettz(key) is None:  # pandas has loaded it
            raise BadValue("the time zone %.60r, of which dateutil knows nothing" % content)
        return content
    pandas_metadata.check_zone(content)
    if content.lower().startswith(("dateutil", "tzlocal")):
        raise BadValue("the time zone %.60r" % content)
    return content


def _number(value):
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise BadValue("a time of the number %.40r" % (value,))
    return value


def _unit(unit):
    if unit not in UNITS:
        raise BadValue("the unit %.20r" % (unit,))
    return unit


def _read_timestamp(decoder, content, depth, pandas):
    import numpy

    number, unit, zone, fold = content
    made = pandas.Timestamp(numpy.datetime64(_number(number), _unit(unit)))
    if zone is not None:
        made = made.tz_localize("UTC").tz_convert(made_zone(zone))
    return made.replace(fold=1) if fold and not made.fold else made


def _read_timedelta(decoder, content, depth, pandas):
    import numpy

    number, unit = content
    return pandas.Timedelta(numpy.timedelta64(_number(number), _unit(unit)))


def _read_period(decoder, content, depth, pandas):
    number, freq = content
    _number(number)
    for one in spellings(freq):
        try:
            made = pandas.Period(ordinal=number, freq=one)
        except (ValueError, AttributeError, KeyError):
            continue
        return made
    raise no_frequency(pandas, freq)


def _read_interval(decoder, content, depth, pandas):
    left, right, closed = decoder.values(content, depth)
    if closed not in CLOSED:
        raise BadValue("an interval that is closed %.20r" % (closed,))
    return pandas.Interval(left, right, closed)


def _read_offset(decoder, content, depth, pandas):
    if type(content) is not list:
        return offset(pandas, content)
    count, normalize, keywords = content
    small = type(count) is int and abs(count) < 1 << 31 and type(normalize) is bool and type(keywords) is dict
    if not small or not all(name in _KEYWORDS and type(one) is int for name, one in keywords.items()):
        raise BadValue("the offset %.60r" % (content,))
    return pandas.DateOffset(count, normalize, **keywords)


def _read_nothing(decoder, content, depth, pandas):
    if content not in ("NaT", "NA"):
        raise BadValue("the missing value %.20r" % (content,))
    if content == "NA" and not hasattr(pandas, "NA"):
        raise BadValue("pandas.NA, which needs pandas 1.0; here is %s" % pandas.__version__, missing=True)
    return pandas.NaT if content == "NaT" else pandas.NA


READERS = {
    "pt": _read_timestamp,
    "pw": _read_timedelta,
    "pp": _read_period,
    "pv": _read_interval,
    "po": _read_offset,
    "pn": _read_nothing,
}
