"""Finds what a cell has changed: it compares values before the cell and after it. Compared are the names that the cell
mentions, and the session's names that it has added, deleted or bound to another value.

This runs in a forked copy of the process, which ends afterwards, so it may call code of the values: their ``repr``, and
what pickles them. Values are compared part by part, ``DEEP`` levels deep at most, and ``MOST`` parts in all.
"""

import collections
import hashlib
import os
import pickle
import re
import reprlib
import sys
import types

DEEP, MOST = 4, 5000
# Most lines of the answer; most characters of a value in it; most bytes of a value that is compared by its bytes.
LINES, WIDE, LARGE = 40, 60, 64 << 20
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range)
_FIXED = (types.ModuleType, types.BuiltinFunctionType, type(object.__init__), type("".join))
_NONE = object()


class _TooLarge(Exception):
    pass


class Look:
    """What the names of a cell hold at one moment.

    marks   path -> what is compared there; two marks of the same value are equal
    words   path -> the value in words, as it was then
    left    whether something was not looked at, because it is too deep or too much
    """

    def __init__(self):
        self.marks = collections.OrderedDict()
        self.words = {}
        self.left = False
        self._above = []  # the values on the way to the one that is looked at

    def add(self, path, value, deep=0):
        """Look at a value and what is in it."""
        if len(self.marks) >= MOST or deep > DEEP:
            self.left = True
            return
        if any(value is one for one in self._above):
            return
        self.marks[path], parts = _seen(value, deep)
        self.words[path] = _words(value, self.marks[path][1])
        self._above.append(value)
        for name, part in parts:
            self.add(path + name, part, deep + 1)
        self._above.pop()


class Names:
    """The names that a cell mentions: of the session's ``namespace``, and of loaded modules."""

    def __init__(self, code, namespace, hidden):
        self._namespace = namespace
        self._hidden = hidden
        self._before, self._loaded = dict(namespace), set(sys.modules)
        self._mentioned = list(collections.OrderedDict.fromkeys(_DOTTED.findall(code)))
        self._look = self._at(self._before)

    def _at(self, names):
        look, modules = Look(), collections.OrderedDict()
        for word in self._mentioned:
            name = word.partition(".")[0]
            value = names.get(name, _NONE)
            if isinstance(value, types.ModuleType):
                modules[value.__name__] = value
            elif value is not _NONE and self._is_users(name) and name not in look.marks:
                look.add(name, value)
                self._home(value, modules)
            parts = word.split(".")
            for end in range(len(parts), 0, -1):
                module = sys.modules.get(".".join(parts[:end]))
                if isinstance(module, types.ModuleType):
                    modules[module.__name__] = module
                    break
        for name, module in modules.items():
            if module.__dict__ is not self._namespace and not _is_librarys(module):
                look.add(name, module)
        return look

    def _home(self, value, modules):
        """Add the module of a function or class, which the cell may call: what it changes is often there."""
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        if callable(value) and isinstance(module, types.ModuleType):
            modules[module.__name__] = module

    def _is_users(self, name):
        return not (name in self._hidden or name.startswith("__") or re.match(r"_i*\d*$|_oh$|_ih$|_dh$", name))

    def differences(self):
        """``(lines of text, whether there was more than was looked at)``."""
        after = self._at(self._namespace)
        for name, value in list(self._namespace.items()):
            if isinstance(value, types.ModuleType) and _is_librarys(value):
                continue
            if self._is_users(name) and self._before.get(name, _NONE) is not value and name not in after.marks:
                after.add(name, value)
                if name in self._before:
                    self._look.add(name, self._before[name])
        for name in self._before:
            if name not in self._namespace and self._is_users(name) and name not in self._look.marks:
                self._look.add(name, self._before[name])
        return _lines(self._look, after) + self._imported(), self._look.left or after.left

    def _imported(self):
        """A line that names the modules which were loaded meanwhile, without those of libraries."""
        names = sorted(name for name in set(sys.modules) - self._loaded if not _is_librarys(sys.modules[name]))
        more = ", …" if len(names) > 5 else ""
        what = "loaded; what it does to other modules was not compared"
        return ["%s%s: %s" % (", ".join(names[:5]), more, what)] if names else []


def _is_librarys(module):
    """Whether a module belongs to Python or to an installed package. Those are left out: they are large."""
    file = getattr(module, "__file__", None)
    if not isinstance(module, types.ModuleType):
        return True
    if module.__name__.partition(".")[0].startswith("flame_agent_") or not isinstance(file, str):
        return module.__name__ in sys.builtin_module_names or module.__name__.startswith("flame_agent_")
    return "site-packages" in file or "dist-packages" in file or file.startswith(_STANDARD)


_STANDARD = os.path.dirname(os.__file__)


def _lines(before, after):
    """What differs, a line for each name or part."""
    paths = list(before.marks) + [path for path in after.marks if path not in before.marks]
    changed = [path for path in paths if _differ(before.marks.get(path, _NONE), after.marks.get(path, _NONE))]
    with_parts = {one for path in changed for one in _above(path)}
    told, lines = set(), []
    for path in changed:
        if not told.isdisjoint(_above(path)):
            continue  # what it is in has a line already
        line = _line(path, before.words.get(path), after.words.get(path), path in with_parts)
        if line:
            told.add(path)
            lines.append(line)
    if len(lines) > LINES:
        lines[LINES:] = ["… and %d more" % (len(lines) - LINES)]
    return lines


def _differ(then, now):
    return not (then is now or (then is not _NONE and now is not _NONE and then == now))


def _above(path):
    """The paths of what the value at ``path`` is in: ``a`` and ``a.b`` for ``a.b[0]``."""
    return [path[:at] for at, sign in enumerate(path) if sign in ".[{"]


def _line(path, then, now, has_parts):
    """The line for a changed value: it was ``then`` and is ``now``, in words. Empty if lines of its parts tell it."""
    if now is None:
        return "%s: deleted (it was %s)" % (path, then)
    if then is None:
        return "%s: %s (new)" % (path, now)
    if then != now:
        return "%s: %s → %s" % (path, then, now)
    return "" if has_parts else "%s: changed, now %s" % (path, now)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = WIDE
_short.maxlevel = 3


def _words(value, instead=""):
    """A value in words: its repr if that is short, else ``instead``, or the beginning of its repr."""
    if isinstance(value, (types.ModuleType, type, types.FunctionType)):
        return instead
    try:
        text = _short.repr(value).replace("\n", " ")
    except Exception as e:  # the user's own ``__repr__`` may raise anything; the look goes on
        text = "<%s, whose repr raises %s>" % (type(value).__name__, type(e).__name__)
    if len(text) <= WIDE and (not instead or "..." not in text):
        return text
    return instead or text[: WIDE - 1] + "…"


def _seen(value, deep):
    """``(mark, parts)``. Marks are compared; the second item of a mark is the value in words, or empty. ``parts`` is
    ``[(what follows the path, such as ".name" or "[0]", the part), …]``.

    Branches because each kind of value is compared in its own way.
    """
    kind = type(value)
    if isinstance(value, _PLAIN):
        return (kind, "", value), ()
    if isinstance(value, types.ModuleType):
        return ("module", value.__name__), _attributes(vars(value), value.__name__) if deep == 0 else ()
    if isinstance(value, types.FunctionType):
        return ("function", value.__qualname__ + "()", _Same(value.__code__), _Same(value.__defaults__)), ()
    if isinstance(value, type):
        return ("class", value.__qualname__, _Same(value)), _attributes(vars(value), value.__module__)
    if isinstance(value, _FIXED):
        return (kind, "", _Same(value)), ()
    if isinstance(value, dict):
        return (kind, "%s of %d" % (kind.__name__, len(value))), [("[%s]" % _words(k), v) for k, v in _some(value)]
    if isinstance(value, (list, tuple, collections.deque)):
        return (kind, "%s of %d" % (kind.__name__, len(value))), [("[%d]" % i, v) for i, v in _numbered(value)]
    if isinstance(value, (set, frozenset)):
        return (kind, "%s of %d" % (kind.__name__, len(value)), frozenset(value)), ()
    digest = _digest(value)
    held = getattr(value, "__dict__", None)
    if digest is not None and (not isinstance(held, dict) or hasattr(value, "__array__")):
        return (kind, "", digest), ()
    mark = (kind, "", digest)
    return mark, _attributes(held, "") if isinstance(held, dict) else ()


def _some(value):
    return list(value.items())[:MOST]


def _numbered(value):
    return list(enumerate(value))[:MOST]


def _attributes(held, home):
    """The attributes of a module, class or object; without what a module has imported."""
    found = []
    for name, one in list(held.items()):
        if not isinstance(name, str) or name.startswith("__") or isinstance(one, types.ModuleType):
            continue
        if home and isinstance(one, (type, types.FunctionType)) and one.__module__ != home:
            continue
        found.append(("." + name, one))
    return found


class _Same:
    """Equal only to a mark of the very same object."""

    def __init__(self, one):
        self._one = one

    def __eq__(self, other):
        return isinstance(other, _Same) and self._one is other._one

    __hash__ = None


class _Sink:
    """A file that keeps the hash of what is written, up to ``LARGE`` bytes."""

    def __init__(self):
        self.hash = hashlib.blake2b()
        self._room = LARGE

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise _TooLarge()
        self.hash.update(data)
        return len(data)


def _digest(value):
    """A hash of a value's pickle; None if it cannot be pickled, or the pickle is larger than ``LARGE``."""
    sink = _Sink()
    try:
        pickle.Pickler(sink, 4).dump(value)
    except Exception:  # locks, sockets and the user's own classes raise anything; then its attributes are compared
        return None
    return sink.hash.digest()
