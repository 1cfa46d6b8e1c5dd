"""Compiles the text of a cell; a last expression becomes a separate step, to be shown. Keeps the text for tracebacks.

Each cell has a file name of its own, as in ipykernel: ``<temp>/flame_<session>_<pid>/<hash of the text>.py``.  No such
file exists; the lines are in ``linecache``, for tracebacks, ``inspect.getsource``, ``warnings`` and ``pdb``.  They have
no modification time, so ``linecache.checkcache`` keeps them.  Their number and size are limited.
"""

import __future__

import ast
import collections
import inspect
import io
import linecache
import os
import re
import struct
import sys
import tempfile
import tokenize

from . import await_py36

# How many texts of old cells are kept, so that functions defined there still show their source.
KEEP_CELLS = 1000
KEEP_CHARACTERS = 16 * 1000 * 1000

# Before 3.9 the compiler recurses into an expression without checking the stack: 10^5 terms crash the process.
# Expressions that deep are refused here. Some that are less deep crash only when they become Python syntax trees; so
# such text is compiled first, which raises an error instead.
_CHECK_DEPTH = sys.version_info < (3, 9)
_LONG = 4000  # characters; shorter text cannot be nested that deep
_MAX_DEPTH = 20000
_NESTING = re.compile(
    r"(?P<skip>#[^\n]*|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''"
    r"|\"(?:[^\\\"\n]|\\.)*\"|'(?:[^\\'\n]|\\.)*')"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<end>[,;:])|(?P<line>\n)"
    r"|[-+*/%@&|^~.]|\b(?:not|if|else|lambda|await)\b",
    re.DOTALL,
)

_AWAIT = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
_FUTURES = 0
for _name in __future__.all_feature_names:
    # The bits of nested_scopes and generators are not compiler flags: they mean something else in co_flags.
    if _name not in ("nested_scopes", "generators"):
        _FUTURES |= getattr(__future__, _name).compiler_flag
del _name


# The seed of the hash from which front end and kernel make the same name for a cell, without telling each other.
SEED = 0xC70F6907


def murmur2(text):
    """The MurmurHash2 of a text, below 2**32; as in ipykernel's compiler.py and JupyterLab's debugger (hash.ts)."""
    data = text.encode("utf-8", "surrogatepass")
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = SEED ^ len(data)
    whole = len(data) & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * m) & mask
        k = ((k ^ (k >> 24)) * m) & mask
        h = ((h * m) & mask) ^ k
    rest = data[whole:]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * m) & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return h ^ (h >> 15)


def undisturbed(make_tree):
    """Call ``make_tree``, which makes a syntax tree, and return its result.

    CPython 3.11 and 3.12 count the depth of all threads' trees together. If another thread runs meanwhile, the count is
    wrong and they raise SystemError; then we try again.
    """
    for _ in range(20):
        try:
            return make_tree()
        except SystemError as e:
            if "recursion depth" not in str(e):
                raise
    return make_tree()


class Step:
    """A part of a cell. ``start(namespace)`` runs it and returns its value, or a coroutine if ``awaits``.

    shows   the value is the cell's last expression, to be displayed
    """

    def __init__(self, code, shows):
        self.code = code
        self.shows = shows
        self.awaits = bool(code.co_flags & inspect.CO_COROUTINE)

    def start(self, namespace):
        return eval(self.code, namespace)


def step(source, filename, mode):
    """A text as one Step: an expression (mode ``eval``) or statements (mode ``exec``); may await at top level."""
    may_await = await_py36.may_await(source)
    try:
        return Step(compile(source, filename, mode, _AWAIT if may_await else 0, True), False)
    except SyntaxError:
        if _AWAIT or not may_await:
            raise
        function = await_py36.compile_awaiting(source, filename, 0, mode == "eval")
        if function is None:
            raise
        return function


class AsMain:
    """Makes ``if __name__ == "__main__":`` in a cell true where the module of the cells has another name, since the
    ``__main__`` of the process is an app."""

    @staticmethod
    def visit(tree):
        """Change a syntax tree, and return it."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                left, right = node.left, node.comparators[0]
                for name, text in ((left, right), (right, left)):
                    named = isinstance(name, ast.Name) and name.id == "__name__"
                    if named and getattr(text, "value", getattr(text, "s", None)) == "__main__":
                        node.left, node.comparators = text, [text]
        return tree


class Compiler:
    """The compiler of one session; remembers its ``from __future__`` imports and the texts of its cells.

    transform   changes the syntax tree of a cell; None: nothing does
    """

    def __init__(self, session_id, transform=None):
        self._transform = transform
        self.flags = 0
        self.folder = folders(session_id, os.getpid())[0]
        self._cells = collections.OrderedDict()  # file name -> (linecache entry, label)
        self._characters = 0

    def __repr__(self):
        return "<Compiler %s, %d cells>" % (self.folder, len(self._cells))

    # -- texts -------------------------------------------------------------------------------------------------------

    def cell_file(self, source):
        """The file name of a cell with this text."""
        return os.path.join(self.folder, "%d.py" % murmur2(source))

    def remember(self, source, count, raw=None):
        """Keep a cell's text and return its file name. ``count`` gives the cell its label ``In[count]``; ``raw`` is its
        text before magics were turned into Python, from which front ends make the file name."""
        lines = [line + "\n" for line in source.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
        if lines[-1] == "\n":
            del lines[-1]  # the text ends with a line end
        number, name = 0, self.cell_file(source if raw is None else raw)
        while name in self._cells and self._cells[name][0][2] != lines:
            number += 1
            name = os.path.join(self.folder, "%d-%d.py" % (murmur2(source if raw is None else raw), number))
        self._forget(name)
        entry = (len(source), None, lines, name)
        self._cells[name] = (entry, "In[%d]" % count)
        self._characters += len(source)
        linecache.cache[name] = entry
        while len(self._cells) > 1 and (len(self._cells) > KEEP_CELLS or self._characters > KEEP_CHARACTERS):
            self._forget(next(iter(self._cells)))
        return name

    def _forget(self, name):
        entry, _ = self._cells.pop(name, ((0,), None))
        self._characters -= entry[0]
        if linecache.cache.get(name) is entry:
            del linecache.cache[name]

    def label(self, filename):
        """``In[3]`` for a cell's file name, None for any other name."""
        cell = self._cells.get(filename)
        return None if cell is None else cell[1]

    def refresh(self, filename):
        """Put a cell's lines back into linecache if someone has called ``linecache.clearcache``."""
        cell = self._cells.get(filename)
        if cell is not None:
            linecache.cache.setdefault(filename, cell[0])

    def close(self):
        """Remove everything of ours from linecache."""
        for name in list(self._cells):
            self._forget(name)

    # -- code --------------------------------------------------------------------------------------------------------

    def compile(self, source, filename, show=True):
        """The Steps of a cell. With ``show`` the last Step gives the value of the cell's last expression, if the cell
        ends in one and not in ``;``. Raises what ``compile`` raises: SyntaxError, ValueError, MemoryError,
        RecursionError.
        """
        show = show and not ends_in_semicolon(source)
        try:
            tree = self._parse(source, filename)
            return self._steps(tree if self._transform is None else self._transform(tree), filename, show)
        except SyntaxError:
            if _AWAIT or not await_py36.may_await(source):
                raise
            function = await_py36.compile_awaiting(source, filename, self.flags, show)
            if function is None:
                raise
            return [function]

    def _parse(self, source, filename):
        if _CHECK_DEPTH and len(source) > _LONG:
            if _depth(source) > _MAX_DEPTH:
                raise RecursionError("an expression is nested too deeply for Python %d.%d" % sys.version_info[:2])
            try:
                compile(source, filename, "exec", self.flags | _AWAIT, True)
            except SyntaxError:
                pass  # the code below raises it again, or handles it
        flags = self.flags | _AWAIT | ast.PyCF_ONLY_AST
        return undisturbed(lambda: compile(source, filename, "exec", flags, True))

    def _steps(self, tree, filename, show):
        last = None
        if show and tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        flags = self.flags
        steps = []
        if tree.body:
            code = compile(tree, filename, "exec", flags | _AWAIT, True)
            flags |= code.co_flags & _FUTURES
            steps.append(Step(code, False))
        if last is not None:
            steps.append(Step(compile(last, filename, "eval", flags | _AWAIT, True), True))
        self.flags = flags
        return steps


def _depth(source):
    """A rough measure of how deep expressions nest: operators between two commas, plus those around their brackets."""
    if all(len(part) < 2 * _MAX_DEPTH for part in re.split("[,;]", source)):
        return 0
    deepest, levels = 0, [0]
    for match in _NESTING.finditer(source):
        what = match.lastgroup
        if what == "skip":
            continue
        if what == "close":
            if len(levels) > 1:
                levels.pop()
        elif what == "end" or (what == "line" and len(levels) == 1):
            levels[-1] = levels[-2] if len(levels) > 1 else 0
        elif what != "line":
            levels[-1] += 1
            deepest = max(deepest, levels[-1])
            if what == "open":
                levels.append(levels[-1])
    return deepest


def ends_in_semicolon(source):
    """Whether the last token of a cell is ``;``, so that its value is not shown."""
    if not _may_end_in_semicolon(source):
        return False
    last = None
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.DEDENT):
                last = token
    except (tokenize.TokenError, SyntaxError):
        return False
    return last is not None and last.type == tokenize.OP and last.string == ";"


def _may_end_in_semicolon(source):
    """Whether the last line with code has a ``;``. A quick check, since tokenizing 10^5 lines takes a second."""
    end = len(source)
    while end > 0:
        start = source.rfind("\n", 0, end) + 1
        line = source[start:end].strip()
        if line and not line.startswith("#"):
            return ";" in line
        end = start - 1
    return False


def folders(session_id, pid):
    """The folders of a session's cell files, without IPython and with it (as in ipykernel). They exist only while the
    session is debugged; otherwise they are only names."""
    name = "".join(c if c.isalnum() else "_" for c in session_id)[:16]
    return [os.path.join(_temp(), one) for one in ("flame_%s_%d" % (name, pid), "ipykernel_%d" % pid)]


def _temp():
    try:
        return tempfile.gettempdir()
    except OSError:  # a file system that cannot be written to: no file is needed then
        return os.path.join(os.sep, "tmp")
