"""Inspection, for servers without IPython: what ``name?`` and Shift-Tab show.

It works on any thread, also while a cell runs. If an object raises when it is inspected, there is still a reply.
"""

import ast
import builtins
import inspect
import io
import keyword
import linecache
import os
import reprlib
import tokenize
import types

from . import ansi

MAX_SCAN = 1000 * 1000  # characters of a cell that are parsed as Python; of a longer cell, only the cursor's line
MAX_TEXT = 200  # longest string form, in characters
MISSING = object()

_ROUTINES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    type(str.join),
    type(object().__str__),
    type(object.__init__),
)
_KINDS = ((type, "class"), (types.ModuleType, "module"), (_ROUTINES, "function"))


def resolve(namespace, dotted):
    """The object that a dotted name refers to; MISSING if there is none."""
    first, _, rest = dotted.partition(".")
    obj = namespace.get(first, MISSING)
    if obj is MISSING:
        obj = getattr(builtins, first, MISSING)
    for name in rest.split(".") if rest else ():
        if obj is MISSING:
            break
        try:
            obj = getattr(obj, name)
        except BaseException:  # a property of the user's may raise anything
            return MISSING
    return obj


class Inspector:
    """Inspects objects of one namespace. ``magics``: names with their ``%``, and what each does."""

    def __init__(self, namespace, magics=None):
        self._ns = namespace
        self._magics = magics or {}

    def inspect(self, code, cursor_pos=None, detail_level=0, omit_sections=()):
        """inspect_reply content.

        https://jupyter-client.readthedocs.io/en/stable/messaging.html#introspection
        """
        cursor = len(code) if cursor_pos is None else max(0, min(cursor_pos, len(code)))
        text = None
        try:
            if len(code) > MAX_SCAN:
                first = code.rfind("\n", 0, cursor) + 1
                code, cursor = code[first : code.find("\n", cursor) % (len(code) + 1)], cursor - first
            text = self.page(token_at_cursor(code, cursor), detail_level, omit_sections)
        except Exception:  # an object may raise anything when it is looked at; the editor then shows nothing
            pass
        found = text is not None
        return {"status": "ok", "found": found, "data": {"text/plain": text} if found else {}, "metadata": {}}

    def page(self, name, detail_level=0, omit_sections=()):
        """What ``name?`` shows, as text; None if there is no such object."""
        obj = resolve(self._ns, name) if name else MISSING
        if obj is MISSING:
            name = name.lstrip("%")
            doc = self._magics.get("%" + name) or self._magics.get("%%" + name)
            return None if doc is None else ansi.colour("Docstring:", ansi.RED) + " " + doc
        return sections_text(describe(obj, name, detail_level), omit_sections)


# -- facts about an object --------------------------------------------------------------------------------------------


def kind(obj):
    """A word for the icon in a completion list. Depends only on the type: an object may lie about its class."""
    for types_, word in _KINDS:
        if issubclass(type(obj), types_):
            return word
    return "instance"


def _safe(function, *args):
    """``function(*args)``, or None if it raises: an object may raise anything when it is inspected."""
    try:
        return function(*args)
    except BaseException:  # the user's object may raise anything when it is asked
        return None


def describe(obj, name, detail_level=0):
    """``[(title, text), …]`` in the order of ipykernel."""
    doc = _doc(obj)
    source = _safe(source_of, obj) if detail_level > 0 else None
    sections = {"class": _class_sections, "function": _function_sections}.get(kind(obj), _instance_sections)
    return [(title, text) for title, text in sections(obj, name, doc, source) if text is not None]


def _class_sections(obj, name, doc, source):
    init = _doc(obj.__init__)
    is_own = not source and init != _doc(object.__init__)
    subclasses = [c.__name__ for c in _safe(type.__subclasses__, obj) or []]
    out = [("Init signature", _signature(obj, name))]
    out += _documentation(doc, source, _is_told(doc, source))
    out += [("Init docstring", init if is_own else None)]
    out += [("File", _safe(file_of, obj)), ("Type", type(obj).__name__)]
    return out + [("Subclasses", ", ".join(subclasses[:10] + ["..."] * (len(subclasses) > 10)))]


def _function_sections(obj, name, doc, source):
    out = [("Signature", _signature(obj, name))] + _documentation(doc, source, _is_told(doc, source))
    return out + [("File", _safe(file_of, obj)), ("Type", type(obj).__name__)]


def _instance_sections(obj, name, doc, source):
    call = _safe(lambda: _signature(obj.__call__, name)) if callable(obj) else None
    out = [("Call signature", call), ("Type", type(obj).__name__), ("String form", _safe(_string_form, obj))]
    out += [("Length", _safe(lambda: str(len(obj)))), ("File", _safe(file_of, obj))]
    out += _documentation(doc, source, bool(source))
    class_doc = _doc(type(obj))
    is_known = hasattr(builtins, type(obj).__name__) or kind(obj) == "module"
    return out + [("Class docstring", None if is_known or class_doc == doc else class_doc)]


def _documentation(doc, source, is_told):
    """Docstring and source; with ``is_told`` only the source, which contains the docstring."""
    out = [] if is_told else [("Docstring", "<no docstring>" if doc is None else doc)]
    return out + ([("Source", ansi.paint(source.rstrip()))] if source else [])


def _is_told(doc, source):
    """Whether the first line of a docstring is part of the source."""
    first = (doc or "").strip().partition("\n")[0]
    return bool(source and first and first in source)


def sections_text(sections, omit=()):
    """The sections as text: titles in red, their texts aligned behind them."""
    omit = {str(o).lower().replace("_", " ") for o in omit}
    sections = [(title, text.strip("\n")) for title, text in sections if title.lower() not in omit]
    width = max([len(title) for title, _ in sections] or [0])
    lines = []
    for title, text in sections:
        between = "\n" if "\n" in text else " "
        lines.append(ansi.colour(title + ":", ansi.RED) + " " * (width - len(title)) + between + text)
    return "\n".join(lines)


def _doc(obj):
    text = _safe(inspect.getdoc, obj)
    return text if isinstance(text, str) else None


def _signature(obj, name):
    if not callable(obj):
        return None
    signature = _safe(inspect.signature, obj)
    if signature is None:
        return None
    name = name.rpartition(".")[2] if name.count(".") > 3 else name
    text = name + str(signature)
    if len(text) > 75 and signature.parameters:
        end = str(signature.replace(parameters=()))[2:]
        parameters = str(signature.replace(return_annotation=signature.empty))[1:-1]
        text = "%s(\n    %s\n)%s" % (name, _split_arguments(parameters).replace("\n", "\n    "), end)
    return ansi.paint(text)


def _split_arguments(text):
    """``a, b=(1, 2), c`` with one line per argument."""
    out, depth, quote = [], 0, None
    for n, c in enumerate(text):
        if quote:
            quote = None if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        out.append("\n" if c == " " and depth == 0 and not quote and n and text[n - 1] == "," else c)
    return "".join(out)


def _string_form(obj):
    if isinstance(obj, (list, tuple, dict, set, frozenset, str, bytes, bytearray)) and len(obj) > 100000:
        return reprlib.repr(obj)  # the full repr of a large object takes long
    text = str(obj)
    if len(text) > MAX_TEXT:
        half = (MAX_TEXT - 5) // 2
        text = text[:half] + " <...> " + text[-half:]
    return text


def file_of(obj):
    """The file where an object or its class was defined; the home folder is written ``~``."""
    for one in (obj, type(obj)):
        try:
            path = inspect.getfile(inspect.unwrap(one) if callable(one) else one)
        except Exception:  # it has no file, or its attributes raise something
            path = _code_file(one) if inspect.isclass(one) else None
        if path:
            home = os.path.expanduser("~")
            return "~" + path[len(home) :] if path.startswith(home + os.sep) else path
    return None


def _code_file(cls):
    """The file of a class whose module has none, such as a session's module: the file of its first method."""
    for value in vars(cls).values():
        value = getattr(value, "__func__", value)
        value = getattr(value, "fget", value)
        code = getattr(value, "__code__", None)
        if code is not None and getattr(value, "__qualname__", "").startswith(cls.__qualname__ + "."):
            return code.co_filename
    return None


def source_of(obj):
    """The source of a function, class or property, or of an object's class. Raises if there is none."""
    if isinstance(obj, property):
        obj = obj.fget
    if callable(obj):
        obj = inspect.unwrap(obj)
    if not (inspect.isclass(obj) or inspect.isroutine(obj) or inspect.ismodule(obj)):
        obj = type(obj)
    try:
        return inspect.getsource(obj)
    except (OSError, TypeError):
        if not inspect.isclass(obj):
            raise
    lines = linecache.getlines(_code_file(obj))
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.ClassDef) and node.name == obj.__name__:
            return "".join(inspect.getblock(lines[node.lineno - 1 :]))
    raise OSError("source code not available")


# -- the cursor's position --------------------------------------------------------------------------------------------


def tokens(code):
    """The tokens up to the first error, because a cell is incomplete while it is being typed."""
    out = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            out.append(token)
    except (tokenize.TokenError, SyntaxError):
        pass
    return out


def token_at_cursor(code, cursor):
    """The name to inspect, as in ipykernel: the one under the cursor, else the function whose call surrounds it."""
    read = _NamesRead()
    every = tokens(code)
    offsets = _line_offsets(code)
    for n, token in enumerate(every):
        start = offsets[min(token.start[0], len(offsets)) - 1] + token.start[1]
        end = offsets[min(token.end[0], len(offsets)) - 1] + token.end[1]
        if start > cursor:
            break
        read.closed = None
        is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        if is_name:
            is_attribute = n > 0 and every[n - 1].string == "."
            is_assigned = n + 1 < len(every) and every[n + 1].string == "="
            is_name = read.add_name(token.string, is_attribute, is_assigned)
        else:
            read.add_bracket(token.string)
        if end > cursor:
            if is_name:
                return read.names[-1]
            break
    return read.best()


class _NamesRead:
    """The dotted names before the cursor, and which of them have an open call there."""

    def __init__(self):
        self.names, self._calls = [], []
        self.closed = None  # the function whose call has just been closed
        self._outermost = None  # the latest name outside of any call

    def add_name(self, text, is_attribute, is_assigned):
        """Add a name; returns whether it can be inspected. A name that is being assigned may not exist yet."""
        if is_attribute and self.names:
            self.names[-1] += "." + text
        else:
            self.names.append(text)
        if is_assigned:
            self.names.pop()
        if not self._calls:
            self._outermost = self.names[-1] if self.names else None
        return not is_assigned

    def add_bracket(self, text):
        if text == "(" and self.names:
            self._calls.append(self.names[-1])
        elif text == ")" and self._calls:
            self.closed = self._calls.pop()

    def best(self):
        """The name to inspect if the cursor is not on one."""
        calls, names = self._calls[-1:], self.names[-1:]
        return self.closed or (calls or [self._outermost or (names or [""])[0]])[0]


def _line_offsets(code):
    """The offset of the start of each line, in characters; and the end of the text."""
    offsets = [0]
    for line in io.StringIO(code):
        offsets.append(offsets[-1] + len(line))
    return offsets
