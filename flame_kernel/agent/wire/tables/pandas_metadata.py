"""Checks the pandas metadata in an Arrow schema before pandas acts on it. Both sides import it.

For a table that came from pandas, pyarrow writes into the schema, as JSON, what each column was.  When pandas reads it,
it looks up dtypes and time zones by name, evaluates the column names if they have several levels, and builds the index
that is described.  So the names must be on our list, and everything else must have one of a few forms.  The same holds
for Arrow's extension types: their classes are looked up by name, and a class may do anything with the rest.
"""

import re

from .. import message as wire
from ..scalars import BadValue

# Most bytes of one extension type's metadata; how deep lists and dicts may be nested in the JSON of pandas.
MAX_EXTENSION = 1 << 16
MAX_DEPTH = 60

_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+:-]*(/[A-Za-z0-9_+-]+){0,3}|[+-]\d\d:?\d\d")

# Dtype names that pandas and numpy understand without running anything else: dtypes of their own.
_DTYPE = re.compile(
    r"""
    bool | u?int(8|16|32|64) | float(16|32|64|128) | complex(64|128|256) | object | bytes | S\d{0,6} | [<>|=][US]\d{1,6}
    | str | string(\[(python|pyarrow|pyarrow_numpy)\])? | boolean | U?Int(8|16|32|64) | Float(32|64) | category
    | (datetime64|timedelta64)(\[(Y|M|W|D|h|m|s|ms|us|ns)\])?
    | datetime64\[(s|ms|us|ns),\ (?P<zone>[^\]]{1,80})\]
    | [Pp]eriod\[[A-Za-z0-9-]{1,20}\] | interval(\[[A-Za-z0-9\[\], :/+_-]{1,120}\])?
    | Sparse(\[[A-Za-z0-9_., -]{1,60}\])?
    | [^\0\r\n]{1,1000}\[pyarrow\]
    """,
    re.VERBOSE,
)
# What a column was, in Arrow's words: it is only compared.
_KIND = re.compile(r"[^\0\r\n]{1,1000}")
# The same for the column names, which are converted to this kind.
_NAMES_KIND = re.compile(
    r"unicode|string|bytes|floating|integer|mixed|mixed-integer|mixed-integer-float|decimal|complex|categorical"
    r"|boolean|bool|datetime|datetimetz|date|timedelta|time|period|interval|empty|object"
    r"|(datetime64|timedelta64)(\[(D|s|ms|us|ns)\])?"
    r"|u?int(8|16|32|64)|float(16|32|64)"
)
# A column name with several levels, which pandas evaluates: it must be a flat tuple of strings.
_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LEVELS = re.compile(r"\(%s(?:, %s)*,?\)" % (_TEXT, _TEXT), re.DOTALL)
_MAX_NAME = 100000

# The types of an interval's ends, in Arrow's words.
_BOUND = re.compile(r"u?int(8|16|32|64)|halffloat|float|double|(timestamp|duration)\[(s|ms|us|ns)(, tz=[^\]]{1,80})?\]")
_EXTENSIONS = {
    b"pandas.period": {"freq": str},
    b"pandas.interval": {"subtype": str, "closed": str},
    b"arrow.uuid": {},
    b"arrow.json": {},
    b"arrow.bool8": {},
    b"arrow.opaque": {"type_name": str, "vendor_name": str},
    b"arrow.fixed_shape_tensor": {"shape": list, "dim_names": list, "permutation": list},
}


def check(text, names):
    """Raise BadValue unless pandas may see this metadata (``text``, bytes) with columns of these names."""
    told = _json(text, "the metadata of pandas")
    if _depth(told, 0) > MAX_DEPTH:
        raise BadValue("metadata of pandas that are nested too deep")
    index, columns = told.get("index_columns", []), told.get("columns", [])
    levels = told.get("column_indexes", [])
    for one in (index, columns, levels):
        _need(type(one) is list)
    _need(type(told.get("attributes", {})) is dict)
    _check_index(index)
    for level in levels:
        _check_column(level, _NAMES_KIND, set())
    shown, seen = {}, set()
    for column in columns:
        _check_column(column, _KIND, seen)
        field = column.get("field_name", column["name"])
        _need(type(field) is str and field not in shown)
        shown[field] = column["name"]
    if len(levels) > 1:
        for name in names:
            _need((name in index and names.count(name) == 1) or _LEVELS.fullmatch(shown.get(name, name) or ""))


def check_extension(name, metadata):
    """Raise BadValue unless this extension type (name and metadata, bytes) is a known one in a known form."""
    if name not in _EXTENSIONS:
        raise BadValue(
            "an Arrow column of the extension type %.60r; send its storage" % name.decode("utf-8", "replace")
        )
    if len(metadata) > MAX_EXTENSION:
        raise BadValue("an Arrow extension type with metadata of %d bytes" % len(metadata))
    if not metadata:
        return
    _need(metadata.count(b"[") <= 8 and metadata.count(b"{") <= 1)  # Arrow recurses without a limit
    told = _json(metadata, "the metadata of an extension type")
    for key, value in told.items():
        _need(type(value) is _EXTENSIONS[name].get(key))
        _need(key != "subtype" or _BOUND.fullmatch(value))
        if type(value) is list:
            _need(len(value) <= 64 and all(type(one) is str or (type(one) is int and one >= 0) for one in value))


def _check_column(column, kinds, seen):
    """Check one column, or one level of the column names; ``seen`` collects the types that passed."""
    _need(type(column) is dict)
    for one in (column.get("name"), column.get("field_name")):
        _need(one is None or (type(one) is str and len(one) <= _MAX_NAME))
    kind, dtype, metadata = column.get("pandas_type"), column.get("numpy_type"), column.get("metadata")
    _need(type(kind) is str and type(dtype) is str)
    if (kind, dtype) not in seen:
        found = _DTYPE.fullmatch(dtype)
        if not found:
            raise BadValue("a column of the dtype %.60r, which is none of those that are known" % (dtype,))
        check_zone(found.group("zone"))
        _need(kinds.fullmatch(kind))
        seen.add((kind, dtype))
    if metadata is not None:
        _need(type(metadata) is dict)
        for key, value in metadata.items():
            _need(value is None or type(value) in (str, int, bool))
            if key == "timezone":
                check_zone(value)


def _check_index(index):
    """Check the index: column names, each used once, or a range."""
    ranges = [one for one in index if type(one) is dict]
    names = [one for one in index if type(one) is str]
    _need(len(ranges) + len(names) == len(index) and len(set(names)) == len(names))
    _need(not ranges or len(index) == 1)
    for one in ranges:
        _need(one.get("kind") == "range" and (one.get("name") is None or type(one["name"]) is str))
        _need(all(type(one.get(key)) is int for key in ("start", "stop", "step")))


def check_zone(zone):
    """Raise BadValue unless this may be an offset or the name of a time zone: zone names become file names."""
    if zone is not None and not (type(zone) is str and len(zone) <= 80 and _ZONE.fullmatch(zone)):
        raise BadValue("a column of the time zone %.60r" % (zone,))


def _json(text, what):
    try:
        told = wire.read_json(text, 19, "utf-8")
    except (ValueError, RecursionError) as e:
        raise BadValue("%s: %s" % (what, str(e)[:200]))
    _need(type(told) is dict)
    return told


def _depth(told, depth):
    """How deep lists and dicts are nested, counted up to MAX_DEPTH + 1."""
    inner = told.values() if type(told) is dict else told if type(told) is list else ()
    if depth > MAX_DEPTH:
        return depth
    return max([depth] + [_depth(one, depth + 1) for one in inner if type(one) in (dict, list)])


def _need(true):
    if not true:
        raise BadValue("metadata of pandas that pandas cannot have written")
