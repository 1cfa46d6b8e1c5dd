"""Tracebacks as ipykernel shows them: a list of coloured texts, made with only the standard library.

Frames of the agent, and frames with ``__tracebackhide__``, are left out. Something is shown even if the exception's own
methods fail.
"""

import inspect
import itertools
import linecache
import os
import traceback

from .. import own
from ..wire import raised
from . import ansi

WIDTH = 75
CONTEXT = 5  # lines of source per frame
MAX_LINE = 500  # longest line of source, in characters
MAX_MESSAGE = 100 * 1000  # longest text of an exception, in characters
MAX_FRAMES = 60  # per exception; frames in the middle are left out
MAX_SAME = 3  # how often the same place is shown in a recursion
MAX_CHAIN = 20  # most exceptions in a chain
MAX_GROUP = 15  # most members shown of an exception group
MAX_DEPTH = 8  # how deep groups in groups are shown

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n"


def ename(exc):
    return type(exc).__name__


def evalue(exc):
    """``str(exc)``, or a substitute if that raises; shortened if it is long."""
    text = raised.text_of(exc)
    return text if len(text) <= MAX_MESSAGE else _shortened(text)


def _shortened(text):
    half = MAX_MESSAGE // 2
    return "%s\n[... %d characters left out]\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def exception_only(exc):
    """The last lines of a traceback: name and text of the error, and for a SyntaxError its position."""
    if isinstance(exc, SyntaxError):
        return [Formatter().syntax(exc)]
    head = ansi.colour(ename(exc), ansi.RED)
    text = evalue(exc)
    return [(head + ansi.colour(":", ansi.RED) + " " + text if text else head) + "\n"]


def content(exc, tb=None):
    """``{"ename", "evalue", "traceback"}`` of an exception that its shell cannot show; never fails."""
    lines = Formatter().lines(exc, exc.__traceback__ if tb is None else tb)
    return {"ename": ename(exc), "evalue": evalue(exc), "traceback": lines}


class Formatter:
    """Writes tracebacks. ``compiler`` knows which file names are cells."""

    def __init__(self, compiler=None):
        self._compiler = compiler

    def lines(self, exc, tb):
        """The traceback of ``exc`` as a list of texts, like ipykernel's."""
        custom = self._rendered(exc)
        if custom is not None:
            return custom
        try:
            return [ansi.colour("-" * WIDTH, ansi.RED)] + self._chain(exc, tb, 0)
        except Exception:  # an odd frame or source fails our formatter; Python's shows the error
            try:
                return traceback.format_exception(type(exc), exc, tb)
            except Exception:  # the error's own methods fail; its name is shown
                return exception_only(exc)

    @staticmethod
    def _rendered(exc):
        """The traceback that an exception provides itself (ipyparallel's RemoteError, and our client's)."""
        try:
            made = exc._render_traceback_() if hasattr(type(exc), "_render_traceback_") else None
            if isinstance(made, list) and all(isinstance(text, str) for text in made):
                return made
        except Exception:  # the user's method may raise anything; the error is shown without it
            pass
        return None

    # -- exceptions --------------------------------------------------------------------------------------------------

    def _chain(self, exc, tb, depth):
        chain, seen = [(exc, tb, None)], {id(exc)}
        while True:
            earlier, words = _led_to(chain[-1][0])
            if earlier is None or id(earlier) in seen:
                break
            if len(chain) == MAX_CHAIN:
                chain.append((None, None, words))
                break
            seen.add(id(earlier))
            chain.append((earlier, earlier.__traceback__, words))
        out = []
        for n in range(len(chain) - 1, -1, -1):
            one, its_tb, words = chain[n]
            if one is None:
                out.append("[... earlier exceptions left out]")
            else:
                out.extend(self._exception(one, its_tb, depth))
            if words is not None:
                out.append(words)
        return out

    def _exception(self, exc, tb, depth):
        name, long_head = ename(exc), "Traceback (most recent call last)"
        out = [ansi.colour(name, ansi.RED) + " " * max(1, WIDTH - len(name) - len(long_head)) + long_head]
        out.extend(self._frames(tb))
        if isinstance(exc, SyntaxError):
            out.append(self.syntax(exc))
        else:
            out.append("%s: %s" % (ansi.colour(name, ansi.RED), evalue(exc)))
        out.extend(_notes(exc))
        if _is_group(exc):
            out.extend(self._members(exc, depth))
        return out

    def _members(self, group, depth):
        if depth >= MAX_DEPTH:
            return ["    [... groups within groups left out]"]
        out = []
        members = group.exceptions
        for n, exc in enumerate(members[:MAX_GROUP], 1):
            text = "\n".join(self._chain(exc, exc.__traceback__, depth + 1))
            title = "  +%s %d %s" % ("-" * 16, n, "-" * 16)
            out.append(title + "\n" + "\n".join("  | " + line for line in text.rstrip("\n").split("\n")))
        if len(members) > MAX_GROUP:
            out.append("  +%s and %d more exceptions" % ("-" * 16, len(members) - MAX_GROUP))
        return out

    def syntax(self, exc):
        """A SyntaxError with its line and a caret."""
        filename = exc.filename if isinstance(exc.filename, str) else None
        lineno = exc.lineno if isinstance(exc.lineno, int) else None
        text = exc.text if isinstance(exc.text, str) else None
        if text is None and filename and lineno:
            text = self._source(filename, None)[lineno - 1 : lineno]
            text = text[0] if text else None
        out = "" if filename is None else "  %s\n" % self._place(filename, lineno)
        if text:
            out += _with_caret(text.rstrip("\n"), exc.offset)
        head = ansi.colour(ename(exc), ansi.RED) + ansi.colour(":", ansi.RED)
        message = exc.msg if isinstance(exc.msg, str) and filename is not None else evalue(exc)
        return "%s%s %s\n" % (out, head, message)

    # -- frames ------------------------------------------------------------------------------------------------------

    def _frames(self, tb):
        every = list(_walk(tb))
        frames = [f for f in every if not _hidden(f[0])]
        if not frames:  # an error within the agent, or while a value was shown
            frames = every
        shown = _folded(frames)
        if len(shown) > MAX_FRAMES:
            half = MAX_FRAMES // 2
            shown[half:-half] = ["[... %d frames left out]" % (len(shown) - 2 * half)]
        return [item if isinstance(item, str) else self._frame(*item) for item in shown]

    def _frame(self, frame, lineno, lasti):
        code = frame.f_code
        head = self._place(code.co_filename, lineno)
        if code.co_name != "<module>":
            name = getattr(code, "co_qualname", code.co_name).rpartition("<locals>.")[2]
            head += ", in %s%s" % (ansi.colour(name, ansi.CYAN), ansi.colour(_arguments(code), ansi.BLUE))
        lines = self._source(code.co_filename, frame.f_globals)
        if not 0 < lineno <= len(lines):
            return head + "\n"
        first = max(0, min(lineno - 1 - CONTEXT // 2, len(lines) - CONTEXT))
        rows = []
        for n, line in enumerate(lines[first : first + CONTEXT], first + 1):
            line = line.rstrip("\n")
            if n == lineno:
                arrow = "-" * max(1, 5 - len(str(n))) + "> "
                number = ansi.colour(arrow, ansi.GREEN) + ansi.colour(str(n), ansi.GREEN)
                rows.append(number + " " + _failing(code, lasti, lineno, line))
            else:
                rows.append("%s %s" % (ansi.colour("%7d" % n, ansi.GREEN), ansi.paint(line[:MAX_LINE])))
        return head + "\n" + "\n".join(rows) + "\n"

    def _place(self, filename, lineno):
        label = None if self._compiler is None else self._compiler.label(filename)
        if label is not None:
            text = ansi.colour(label, ansi.GREEN) + (ansi.colour(", line %d" % lineno, ansi.GREEN) if lineno else "")
            return ansi.colour("Cell", ansi.CYAN) + ansi.colour(" ", ansi.CYAN) + text
        home = os.path.expanduser("~")
        if filename.startswith(home + os.sep):
            filename = "~" + filename[len(home) :]
        return ansi.colour("File ", ansi.CYAN) + ansi.colour(filename + (":%d" % lineno if lineno else ""), ansi.GREEN)

    def _source(self, filename, namespace):
        try:
            if self._compiler is not None:
                self._compiler.refresh(filename)
            linecache.checkcache(filename)
            return linecache.getlines(filename, namespace)
        except Exception:  # a __loader__ of the user's may raise anything; the frame is shown without its source
            return []


def _with_caret(text, offset):
    """A line of source with a caret below column ``offset`` (from 1), if that is given."""
    shown = text.lstrip(" \t\f")
    column = None
    if isinstance(offset, int) and offset > 0:
        column = max(0, min(offset - 1, len(text)) - (len(text) - len(shown)))
    start = 0 if column is None else max(0, column - MAX_LINE // 2)
    out = ansi.colour("    ", ansi.RED) + ansi.colour(shown[start : start + MAX_LINE], ansi.RED) + "\n"
    return out if column is None else out + "    " + " " * (column - start) + "^\n"


def _led_to(exc):
    """The exception before this one in the chain, and the words between them."""
    if exc.__cause__ is not None:
        return exc.__cause__, _CAUSE
    if exc.__context__ is not None and not exc.__suppress_context__:
        return exc.__context__, _CONTEXT
    return None, None


def _walk(tb):
    for one in up_to_debugger(tb):
        yield one.tb_frame, one.tb_lineno or 0, one.tb_lasti


def up_to_debugger(tb):
    """The entries of a traceback, as a list, without those of a debugger that had stopped the cell when it was
    interrupted."""
    found = []
    while tb is not None:
        name = tb.tb_frame.f_globals.get("__name__")
        if isinstance(name, str) and name.startswith(("pydevd", "_pydevd")):
            while len(found) > 1 and found[-1].tb_frame is found[-2].tb_frame:
                found.pop()  # the line where it stopped, a second time
            break
        found.append(tb)
        tb = tb.tb_next
    return found


def from_user(tb):
    """A traceback from its first frame that is not the agent's; the whole one if there is none."""
    at = tb
    while at is not None and _hidden(at.tb_frame):
        at = at.tb_next
    return at or tb


def _hidden(frame):
    return "__tracebackhide__" in frame.f_code.co_varnames or own.has(frame)


def _folded(frames):
    """The frames; in a recursion only the first few, and one text for the others."""
    out, count, skipped = [], {}, {}
    for n, item in enumerate(frames, 1):
        where = (item[0].f_code, item[1])
        count[where] = count.get(where, 0) + 1
        if count[where] > MAX_SAME and n < len(frames):
            skipped[where] = skipped.get(where, 0) + 1
            continue
        if skipped:
            out.append(_similar(skipped))
            skipped = {}
        out.append(item)
    return out


def _similar(skipped):
    places = ["%s at line %d (%d times)" % (code.co_name, lineno, n) for (code, lineno), n in skipped.items()]
    return "[... skipping similar frames: %s]" % ", ".join(places[:5] + ["..."] * (len(places) > 5))


def _arguments(code):
    """The names of a function's arguments as text, ``(a, *rest, key)``."""
    names = code.co_varnames
    plain, keys = code.co_argcount, code.co_kwonlyargcount
    shown = list(names[:plain])
    after = plain + keys
    if code.co_flags & inspect.CO_VARARGS:
        shown.append("*" + names[after])
        after += 1
    shown += names[plain : plain + keys]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        shown.append("**" + names[after])
    return "(%s)" % ", ".join(shown)


def _failing(code, lasti, lineno, line):
    """The line that raised; from Python 3.11 on the failing expression is highlighted, unless it is the whole line."""
    try:
        start_line, end_line, start, end = next(itertools.islice(code.co_positions(), lasti // 2, None))
        if start_line == lineno and end_line is not None and start is not None and len(line) <= MAX_LINE:
            raw = line.encode("utf-8", "surrogatepass")
            start = len(raw[:start].decode("utf-8", "surrogatepass"))
            end = len(raw[:end].decode("utf-8", "surrogatepass")) if end_line == lineno else len(line)
            if line[start:end].strip() != line.strip():
                return ansi.mark(line, start, end)
    except (AttributeError, StopIteration, TypeError, ValueError):
        pass
    if len(line) > MAX_LINE:
        return ansi.paint(line[:MAX_LINE]) + " ..."
    return ansi.paint(line)


def _notes(exc):
    notes = getattr(exc, "__notes__", None)
    if not isinstance(notes, (list, tuple)):
        return []
    out = []
    for note in notes[:100]:
        try:
            out.append(str(note)[:MAX_MESSAGE])
        except Exception:  # the note's __str__ may raise anything
            out.append("<note str() failed>")
    return out


def _is_group(exc):
    # By name, because the backport for Python 3.10 and below has the same name.
    group = any(c.__name__ == "BaseExceptionGroup" for c in type(exc).__mro__)
    return group and isinstance(getattr(exc, "exceptions", None), (tuple, list))
