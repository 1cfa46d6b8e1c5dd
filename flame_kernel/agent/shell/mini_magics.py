"""``get_ipython()`` of the mini shell: ``!cmd``, ``obj?`` and the magics that need no IPython.

The client turns magic syntax into calls (``%time x`` becomes ``get_ipython().run_line_magic('time', 'x')``), which are
answered here.  A magic is a method, ``line_NAME(line)`` or ``cell_NAME(line, cell)``; its docstring is what ``%NAME?``
shows.
"""

import contextlib
import importlib
import io
import os
import platform
import re
import shlex
import socket
import string
import subprocess
import sys

from .. import own
from ..output import display
from ..processes import own_python
from . import system as commands
from . import timing

_LINE, _CELL = "line_", "cell_"
_PROGRAMS = ("bash", "sh", "perl", "ruby", "python", "python3")  # cell magics that mean %%script with that program
_SHOWN_AS = {
    "html": "text/html",
    "javascript": "application/javascript",
    "js": "application/javascript",
    "latex": "text/latex",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
}
_FILES = ("ls", "cat", "cp", "mv", "rm", "mkdir", "rmdir")  # %ls and its like: aliases of commands
_RAW = ("time", "timeit", "pinfo", "pinfo2")  # {x} and $x in their line are not replaced


class UsageError(Exception):
    """A magic cannot do what was asked; the user sees only its text, one sentence, and no traceback."""


class Lines(list):
    """The lines of a command's output, ``x = !ls``. As SList: .n one text, .s one line, .p paths that exist."""

    @property
    def l(self):  # noqa: E743 - the name is IPython's
        return list(self)

    @property
    def n(self):
        return "\n".join(self)

    @property
    def s(self):
        return " ".join(self)

    @property
    def p(self):
        from pathlib import Path

        return [Path(line) for line in self if os.path.exists(line)]


class Exit:
    """``exit`` and ``quit``: end the session of the notebook, never the process; they also work without brackets."""

    def __init__(self, shell):
        self._shell = shell

    def __repr__(self):
        return "exit(): ends this session"

    def __call__(self, keep_kernel=False):
        self._shell.payload.append({"source": "ask_exit", "keepkernel": keep_kernel is True})


class MiniIPython:
    """What ``get_ipython()`` returns if there is no IPython. ``shell`` is the MiniShell."""

    def __init__(self, shell, host):
        self._shell = shell
        self._host = host
        self.user_ns = shell.user_ns

    def __repr__(self):
        return "<get_ipython() of Remote Flame on %s, which has no IPython>" % socket.gethostname()

    # -- called by code that the client has transformed --------------------------------------------------------------

    def run_line_magic(self, magic_name, line, _stack_depth=1):
        method = self._find(_LINE, magic_name)
        return method(line if magic_name in _RAW else self.expand(line))

    def run_cell_magic(self, magic_name, line, cell):
        method = self._find(_CELL, magic_name)
        return method(line if magic_name in _RAW else self.expand(line), cell)

    def magics(self):
        """``{"%time": "what it does", …}``"""
        found = {}
        for name in dir(type(self)):
            for prefix, sign in ((_LINE, "%"), (_CELL, "%%")):
                if name.startswith(prefix):
                    found[sign + name[len(prefix) :]] = getattr(type(self), name).__doc__ or ""
        found.update(("%%" + n, "Run the cell with %s." % n) for n in _PROGRAMS)
        found.update(("%%" + n, "Show the cell as %s." % mime) for n, mime in _SHOWN_AS.items())
        found.update(("%" + n, "Run the command %s." % n) for n in _FILES)
        return found

    def _find(self, prefix, name):
        method = getattr(self, prefix + name, None)
        if method is not None:
            return method
        if prefix == _CELL and name in _PROGRAMS:
            program = own_python() or name if name.startswith("python") else name
            return lambda line, cell: self._script([program] + shlex.split(line), cell)
        if prefix == _CELL and name in _SHOWN_AS:
            return lambda line, cell: display.display({_SHOWN_AS[name]: cell}, raw=True)
        if prefix == _LINE and name in _FILES:
            return lambda line: self.system(name + " " + line)
        sign = "%%" if prefix == _CELL else "%"
        advice = ": %flame pip install ipython, then a new session" if sys.version_info >= (3, 7) else ""
        where = (sign + name, socket.gethostname(), platform.python_version(), advice)
        raise UsageError("%s needs IPython, which is not installed on %s (Python %s)%s" % where)

    def system(self, command):
        """``!command``: show its output while it runs; the exit code is in ``_exit_code``."""
        code = commands.run(self.expand(command), sys.stdout.write, own_group=self._host.place.own_group)
        self.user_ns["_exit_code"] = -(code - 128) if code > 128 else code

    def getoutput(self, command, split=True, depth=0):
        """``x = !command``: the output as lines."""
        text, code = commands.collect(self.expand(command), own_group=self._host.place.own_group)
        self.user_ns["_exit_code"] = code
        return Lines(text.splitlines()) if split else text

    def expand(self, text):
        """``text`` with ``{expression}`` and ``$name`` replaced by values; unchanged if any of them is unknown."""
        if "{" not in text and "$" not in text:
            return text
        names = dict(self.user_ns)
        frame = sys._getframe(1)
        while frame is not None and own.has(frame):
            frame = frame.f_back
        if frame is not None and frame.f_globals is self.user_ns:
            names.update(frame.f_locals)
        try:
            return _Expander().vformat(text, (), names)
        except Exception:  # an expression in the text may raise anything; the text then stays, as in IPython
            return text

    # -- called by libraries and cells -------------------------------------------------------------------------------

    @property
    def execution_count(self):
        return self._shell.execution_count

    def set_next_input(self, text, replace=False):
        self._shell.payload.append({"source": "set_next_input", "text": text, "replace": replace})

    def showtraceback(self, *args, **kwargs):
        self._shell.showtraceback(sys.exc_info())

    def ev(self, expression):
        return eval(expression, self.user_ns)

    def ex(self, code):
        exec(code, self.user_ns)

    def push(self, variables, interactive=True):
        self.user_ns.update(variables)

    # -- time --------------------------------------------------------------------------------------------------------

    def line_time(self, line):
        """Time one statement or expression."""
        return self.cell_time("", line)

    def cell_time(self, line, cell):
        """Time the cell."""
        if line.strip():
            exec(compile(line, "<time setup>", "exec"), self.user_ns)
        return timing.time_once(cell.strip() if not line else cell, self.user_ns, sys.stdout.write)

    def line_timeit(self, line):
        """Time a statement in a loop: %timeit [-n LOOPS] [-r REPEATS] [-q] [-o] statement"""
        return self.cell_timeit(line, None)

    def cell_timeit(self, line, cell):
        """Time the cell in a loop: %%timeit [-n LOOPS] [-r REPEATS] [-q] [-o] [setup]"""
        try:
            return timing.time_loop(line, cell, self.user_ns, sys.stdout.write)
        except timing.BadOptions as e:
            raise UsageError(str(e))

    # -- the process -------------------------------------------------------------------------------------------------

    def line_pwd(self, line):
        """The working directory of the server's process, or of the session's own."""
        return os.getcwd()

    def line_cd(self, line):
        """Change the working directory: %cd [FOLDER | -]; a server's process has one for all its sessions."""
        quiet, line = (True, line[2:]) if line.startswith("-q") else (False, line)
        folder = os.path.expanduser(line.strip().strip("'\"") or "~")
        visited = self.user_ns.get("_dh") or []
        try:
            if folder == "-":
                if len(visited) < 2:
                    raise UsageError("%cd -: no earlier folder")
                folder = visited[-2]
            os.chdir(folder)
        except OSError as e:
            print(e)
        else:
            visited.append(os.getcwd())
        if not quiet:
            print(os.getcwd())

    def line_env(self, line):
        """Environment variables: %env, %env NAME, %env NAME=VALUE, %env NAME VALUE"""
        line = line.strip()
        if not line:
            return dict(os.environ)
        match = re.match(r"([^\s=]+)(?:\s*=\s*|\s+)(.*)$", line)
        if match is not None:
            return self.line_set_env(line)
        if line not in os.environ:
            raise UsageError("Environment does not have key: %s" % line)
        return os.environ[line]

    def line_set_env(self, line):
        """Set an environment variable: %set_env NAME=VALUE"""
        match = re.match(r"\s*([^\s=]+)(?:\s*=\s*|\s+)(.*)$", line)
        if match is None:
            raise UsageError("use %set_env NAME=VALUE")
        os.environ[match.group(1)] = match.group(2)
        print("env: %s=%s" % match.groups())

    def line_pip(self, line):
        """Install packages for the server's Python: %pip install NAME"""
        if not own_python():
            raise UsageError("%pip: the server cannot run its Python (a frozen app, or sys.executable is empty)")
        code = commands.run(
            [own_python(), "-m", "pip"] + shlex.split(line),
            sys.stdout.write,
            own_group=self._host.place.own_group,
        )
        self.user_ns["_exit_code"] = code
        print("Note: you may need to restart the kernel to use updated packages.")

    def cell_script(self, line, cell):
        """Run the cell with a program: %%script PROGRAM [ARGUMENTS]"""
        argv = shlex.split(line)
        if not argv:
            raise UsageError("%%script needs a program")
        self._script(argv, cell)

    def _script(self, argv, cell):
        carry_on = "--no-raise-error" in argv
        argv = [a for a in argv if a != "--no-raise-error"]
        data = cell.encode("utf-8", "surrogatepass")
        own_group = self._host.place.own_group
        try:
            code = commands.run(argv, sys.stdout.write, sys.stderr.write, data, own_group=own_group)
        except FileNotFoundError:
            raise UsageError("%s is not installed on %s" % (argv[0], socket.gethostname()))
        self.user_ns["_exit_code"] = code
        if code and not carry_on:
            raise subprocess.CalledProcessError(code, data)

    def cell_system(self, line, cell):
        """Run the cell in the system's shell; its output by lines."""
        return self.getoutput(cell)

    def line_system(self, line):
        """Run a command of the system; its output by lines."""
        return self.getoutput(line)

    line_sx, cell_sx = line_system, cell_system

    # -- files and namespaces ----------------------------------------------------------------------------------------

    def cell_writefile(self, line, cell):
        """Write the cell to a file on the server: %%writefile [-a] FILE"""
        words = shlex.split(line)
        append = bool({"-a", "--append"}.intersection(words))
        names = [w for w in words if w not in ("-a", "--append")]
        if len(names) != 1:
            raise UsageError("use %%writefile [-a] FILE")
        name = os.path.expanduser(names[0])
        print("%s %s" % (("Appending to" if append else "Overwriting") if os.path.exists(name) else "Writing", name))
        with io.open(name, "a" if append else "w", encoding="utf-8") as f:
            f.write(cell)

    def cell_capture(self, line, cell):
        """Keep what the cell prints: %%capture [NAME]; NAME.stdout and NAME.stderr then have it."""
        names = [w for w in line.split() if not w.startswith("-")]
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self._shell.run_inner(cell)
        finally:
            if names:
                self.user_ns[names[0]] = Captured(out.getvalue(), err.getvalue())

    def line_run(self, line):
        """Run a Python file as a script; its names are then the session's: %run [-i] FILE [ARGUMENTS]"""
        words = shlex.split(line)
        inside = words[:1] == ["-i"]
        words = words[1:] if inside else words
        if not words:
            raise UsageError("%run needs a file")
        name = os.path.expanduser(words[0])
        if not os.path.exists(name) and os.path.exists(name + ".py"):
            name += ".py"
        if not os.path.isfile(name):
            raise UsageError("File `%r` not found." % words[0])
        with io.open(name, "rb") as f:
            code = compile(f.read(), name, "exec", 0, True)
        ns = self.user_ns if inside else {"__name__": "__main__", "__file__": name}
        argv, sys.argv = sys.argv, [name] + words[1:]
        try:
            exec(code, ns)
        except SystemExit as e:
            if e.code not in (None, 0):
                raise
        finally:
            sys.argv = argv
            if not inside:
                self.user_ns.update((k, v) for k, v in ns.items() if not k.startswith("__"))

    def _variables(self, line):
        kinds = line.split()
        hidden = self._shell.hidden
        for name, value in sorted(dict(self.user_ns).items()):
            mine = name not in hidden or hidden[name] is not value
            if not name.startswith("_") and mine and (not kinds or type(value).__name__ in kinds):
                yield name, value

    def line_who_ls(self, line):
        """The names of the session's variables, as a list: %who_ls [TYPE ...]"""
        return [name for name, _ in self._variables(line)]

    def line_who(self, line):
        """The names of the session's variables: %who [TYPE ...]"""
        names = self.line_who_ls(line)
        if not names:
            print("No variables match your requested type." if line.strip() else "Interactive namespace is empty.")
        for n in range(0, len(names), 9):
            print("\t ".join(names[n : n + 9]) + "\t ")

    def line_whos(self, line):
        """The session's variables with their types and what they are: %whos [TYPE ...]"""
        rows = [(name, type(value).__name__, _in_short(value)) for name, value in self._variables(line)]
        if not rows:
            return self.line_who(line)
        head = ("Variable", "Type", "Data/Info")
        a, b = [max(len(row[n]) for row in rows + [head]) for n in (0, 1)]
        lines = ["%-*s   %-*s   %s" % (a, row[0], b, row[1], row[2]) for row in [head] + rows]
        lines.insert(1, "-" * len(lines[0]))
        print("\n".join(lines))

    # -- asking ------------------------------------------------------------------------------------------------------

    def line_pinfo(self, line, detail_level=0):
        """What an object is: NAME?"""
        name = line.strip().strip("?")
        text = self._shell.page(name, detail_level)
        if text is None:
            print("Object `%s` not found." % name)
        else:
            self._shell.payload.append({"source": "page", "data": {"text/plain": text}, "start": 0})

    def line_pinfo2(self, line):
        """What an object is, with its source: NAME??"""
        self.line_pinfo(line, 1)

    def line_lsmagic(self, line):
        """The magics that there are."""
        print("  ".join(sorted(self.magics())))

    def line_tb(self, line):
        """The last error's traceback, in full."""
        error = self._shell.last_error
        if error is None:
            print("No traceback available to show.")
        else:
            print("\n".join(self._shell.traceback_of(error)))

    def line_debug(self, line):
        """Look around where the last error was raised, with pdb."""
        error = self._shell.last_error
        if error is None or error.__traceback__ is None:
            raise UsageError("%debug: there is no error to look at")
        # No readline, signal handler or .pdbrc: they belong to the process. pdb asks by input(), as the session does.
        debugger = importlib.import_module("pdb").Pdb(completekey=None, nosigint=True, readrc=False)
        debugger.prompt = "(pdb) "
        debugger.reset()
        debugger.interaction(None, self._shell.user_traceback(error))

    def line_matplotlib(self, line):
        """Figures in the notebook: %matplotlib inline"""
        if line.strip() not in ("", "inline"):
            raise UsageError("%%matplotlib %s: without IPython only %%matplotlib inline works" % line.strip())
        self._shell.figures.enable()


class Captured:
    """What %%capture has captured."""

    def __init__(self, stdout, stderr):
        self.stdout = stdout
        self.stderr = stderr

    def __str__(self):
        return self.stdout

    def __call__(self):
        self.show()

    def show(self):
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)


class _Expander(string.Formatter):
    """Expands ``{expression}``, ``$name`` and ``$name.attribute`` in a command like IPython; ``$$`` becomes ``$``."""

    _dollar = re.compile(r"(.*?)\$(\$?[\w.]+)(?=([^']*'[^']*')*[^']*$)", re.DOTALL)

    def vformat(self, text, args, names):
        out = []
        for literal, field, spec, conversion in self._parts(text):
            out.append(literal)
            if field is not None:
                value = eval(field + (":" + spec if spec else ""), names)
                out.append(format(self.convert_field(value, conversion), ""))
        return "".join(out)

    def _parts(self, text):
        for literal, field, spec, conversion in self.parse(text):
            at, before = 0, ""
            for match in self._dollar.finditer(literal):
                words, name = match.group(1, 2)
                if name.startswith("$"):
                    before += words + name
                else:
                    yield before + words, name, "", None
                    before = ""
                at = match.end()
            yield before + literal[at:], field, spec, conversion


def _in_short(value):
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return "n=%d" % len(value)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return "%s: %s" % ("x".join(map(str, shape)), getattr(value, "dtype", ""))
    try:
        text = str(value).replace("\n", "\\n")
    except Exception:  # the user's __str__ may raise anything
        return "<%s with id %d (str() failed)>" % (type(value).__name__, id(value))
    return text if len(text) < 50 else text[:25] + "<...>" + text[-25:]
