"""Many texts as three buffers, as Arrow has them: where each ends, all of them as UTF-8, and which are missing.

::

    {"tx": [count, ends, texts, missing]}    numbers of buffers: ends as 64-bit numbers; missing, where there are such
                                             cells, a byte for each: TEXT, NONE, NAN, or NA, which is pandas' own

Both sides import it; whoever has pyarrow makes a column of it without looking at a single text.
"""

from .scalars import BadValue

# So many cells or more are packed.
PACKED = 32
# What a cell is.
TEXT, NONE, NAN, NA = range(4)


def write(encoder, items, na=None):
    """The node of a list of texts and missing things; None where it holds others. ``na`` is pandas.NA."""
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
    """How a cell is marked; 255 for a number."""
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
    """The same of a pyarrow array of texts (``large_string``, in one piece), without looking at each."""
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
    """The list of texts and missing things; ``na`` is pandas.NA."""
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
    """``(count, bytes of all texts, end of each, marks of the missing or None)``, which fit each other."""
    count, ends, data, missing = content
    ends, data = decoder.part(ends), decoder.part(data)
    missing = None if missing is None else bytes(decoder.part(missing))
    if type(count) is not int or len(ends) != 8 * count or (missing is not None and len(missing) != count):
        raise BadValue("texts of which there are not %.20r" % (count,))
    import numpy

    ends = numpy.frombuffer(ends, "<i8")
    if (count and (ends[0] < 0 or ends[-1] != len(data) or (ends[1:] < ends[:-1]).any())) or (not count and len(data)):
        raise BadValue("texts that end where they do not begin")
    return count, data, ends, missing or None
