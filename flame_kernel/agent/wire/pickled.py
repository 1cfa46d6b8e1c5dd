"""Values that are not plain data, between sides that trust each other: all in one pickle. Both sides import it.

::

    {"!": [n, place]}     buffer n is the pickle of a list; the value is at that place in it

It is one pickle, so that objects which these values share stay shared.  Nothing is pickled or unpickled here: the
caller of ``values`` passes the functions that do.
"""

from .scalars import BadValue, NotPlain, class_name


class Pickled:
    """The values of one text that are pickled; ``dumps`` pickles a value, or raises the error to report."""

    def __init__(self, encoder, dumps):
        self._encoder = encoder
        self._dumps = dumps
        self._values = []
        self._number = None

    def node(self, value):
        """The node of a value that goes into the pickle; raises NotPlain for one that stays where it is."""
        takes = getattr(self._dumps, "takes", None)
        if takes is not None and not takes(value):
            raise NotPlain("a %s stays where it is" % class_name(type(value)))
        if self._number is None:
            self._number = self._encoder.buffer(b"")
        self._values.append(value)
        return {"!": [self._number, len(self._values) - 1]}

    def mark(self):
        """The current position, for ``back_to``."""
        return len(self._values), self._number

    def back_to(self, mark):
        """Drop all values that were added since ``mark``."""
        count, self._number = mark
        del self._values[count:]

    def finish(self):
        """Make the pickle, when all values have been added."""
        if self._number is None:
            return
        try:
            data = self._dumps(self._values)
        except Exception:  # from the caller's function; pickling one by one finds the value that fails
            for value in self._values:
                self._dumps(value)
            raise
        self._encoder.fill(self._number, data)


class Unpickled:
    """The pickles of one text; ``loads`` unpickles one, or is None if none may be unpickled."""

    def __init__(self, decoder, loads):
        self._decoder = decoder
        self._loads = loads
        self._opened = {}

    def value(self, content):
        if self._loads is None:
            raise BadValue("a pickle, which is opened only where trust=True was given to flame.connect")
        number, place = content
        if number not in self._opened:
            self._opened[number] = self._decoder.passed(self._loads, bytes(self._decoder.part(number)))
        values = self._opened[number]
        if type(values) is not list or type(place) is not int or not 0 <= place < len(values):
            raise BadValue("a place in a pickle that does not exist")
        return values[place]
