"""Many texts as three buffers, as in Arrow: where each text ends, all texts as UTF-8, and which cells are missing.

::

    {"tx": [count, ends, texts, missing]}    buffer numbers: ends are 64-bit integers; missing (null if no cell is) has
                                             one byte per cell: TEXT, NONE, NAN, or NA (pandas' own)

Both sides import it; a side with pyarrow makes a column of these buffers without reading a single text.
"""

from ..scalars import BadValue

# A list of this many cells or more is packed.
PACKED = 32
# The kinds of a cell.
TEXT, NONE, NAN, NA = range(4)


def write(encoder, items, na=None):
    """The node of a list of texts and missing values; None if it holds anything else. ``na`` is pandas.NA."""
    kinds = set(map(type, items))
    missing = None
    if kinds != {str}:
        others = kinds - {str, type(None), float} - ({type(na)} if na is not None else set())
        if others or str not in kinds:
            return None
        missing = bytearray(map(_sort, items))
        if 255 in missing:
            return None
        items = [one if type(one) is str else "" for one in items]
    text = "".join(items)
    data = text.encode("utf-8", "surrogatepass")
    lengths = map(len, items)
    if len(data) != len(text):
        lengths = (len(one.encode("utf-8", "surrogatepass")) for one in items)
    ends = _ends(lengths, len(items))
    count = len(items)
    node = [
        count,
        encoder.buffer(ends),
        encoder.buffer(data),
        None if missing is None else encoder.buffer(bytes(missing)),
    ]
    return {"tx": node}


def _sort(one):
    """The kind of a cell; 255 for a number."""
    if type(one) is str:
        return TEXT
    if one is None:
        return NONE
    if type(one) is float:
        return NAN if one != one else 255
    return NA


def _ends(lengths, count):
    import numpy

    return numpy.cumsum(numpy.fromiter(lengths, "<i8", count), dtype="<i8").tobytes()


def write_arrow(encoder, texts, missing):
    """The same for a pyarrow array of texts (``large_string``, contiguous), without reading each text."""
    import numpy

    _, ends, data = texts.buffers()
    first = texts.offset
    count = len(texts)
    if not count:
        return {"tx": [0, encoder.buffer(b""), encoder.buffer(b""), None]}
    bounds = numpy.frombuffer(ends, "<i8")[first : first + count + 1]
    start, stop = int(bounds[0]), int(bounds[-1])
    ends = encoder.buffer((bounds[1:] - start).tobytes())
    data = encoder.buffer(b"" if data is None or start == stop else memoryview(data)[start:stop])
    marks = None
    if texts.null_count:
        nulls = texts.is_null().to_numpy(zero_copy_only=False)
        marks = encoder.buffer((nulls.astype("u1") * missing).tobytes())
    return {"tx": [count, ends, data, marks]}


def read(decoder, content, na=None):
    """The list of texts and missing values; ``na`` is pandas.NA."""
    _count, data, ends, missing = parts(decoder, content)
    found = [None, None, float("nan"), na]
    text = str(data, "utf-8", "surrogatepass")
    ends = ends.tolist()
    starts = [0] + ends[:-1] if ends else []
    if len(text) == len(data):
        items = [text[start:end] for start, end in zip(starts, ends)]
    else:
        data = bytes(data)
        items = [data[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends)]
    if missing is None:
        return items
    if max(missing) > (NAN if na is None else NA):
        raise BadValue("a text that is missing in an unknown way")
    return [one if not mark else found[mark] for one, mark in zip(items, missing)]


def parts(decoder, content):
    """``(count, bytes of all texts, end of each, kinds of the cells or None)``, checked to fit each other."""
    count, ends, data, missing = content
    ends, data = decoder.part(ends), decoder.part(data)
    missing = None if missing is None else bytes(decoder.part(missing))
    if type(count) is not int or len(ends) != 8 * count or (missing is not None and len(missing) != count):
        raise BadValue("more texts than the buffer holds: %.20r" % (count,))
    import numpy

    ends = numpy.frombuffer(ends, "<i8")
    if (count and (ends[0] < 0 or ends[-1] != len(data) or (ends[1:] < ends[:-1]).any())) or (not count and len(data)):
        raise BadValue("texts whose ends are out of order")
    return count, data, ends, missing or None
