"""Parts of a session's IPython shell: compiler, displays, history, our own magics, and helpers that need no IPython.

IPython is imported inside ``classes``, once, when the first session needs it; all sessions of this version of the agent
share the classes.  For IPython 7.17 to 9.
"""

import ast
import asyncio
import collections
import datetime
import fnmatch
import importlib.util
import linecache
import math
import numbers
import os
import subprocess
import sys
import threading
import types
import uuid
from base64 import b64encode

from .. import sources
from ..output import streams
from . import compiler, system
from . import ipython_hooks as hooks

# How many cells keep their text, for tracebacks and inspect.getsource, and their outputs, for %notebook.
KEEP_CELLS = 1000


def clean(value):
    """A copy that JSON can represent, as in jupyter_client: bytes become base64, nan and inf their repr."""
    if value is None or isinstance(value, (str, bool)):
        return value if type(value) in (str, bool, type(None)) else (bool if isinstance(value, bool) else str)(value)
    if isinstance(value, dict):
        return {k if isinstance(k, str) else str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, types.GeneratorType)):
        return [clean(v) for v in value]
    for kinds, convert in _AS_JSON:
        if isinstance(value, kinds):
            return convert(value)
    if hasattr(value, "__iter__"):
        return [clean(v) for v in value]
    raise ValueError("JSON cannot carry %r" % type(value))


def _real(value):
    number = float(value)
    return number if math.isfinite(number) else repr(number)


_AS_JSON = (
    ((bytes, bytearray, memoryview), lambda value: b64encode(bytes(value)).decode("ascii")),
    (numbers.Integral, int),
    (numbers.Real, _real),
    ((datetime.datetime, datetime.date), lambda value: value.isoformat()),
)


def cell_file(code):
    """ipykernel's file name for a cell: the murmur2 of its text in a folder of the process. No such file exists."""
    given = os.environ.get("IPYKERNEL_CELL_NAME")
    if given is not None:
        return given
    return os.path.join(cell_folder(), "%d.py" % compiler.murmur2(code))


def cell_folder():
    return compiler.folders("", os.getpid())[1]


class Memory(dict):
    """``get_ipython().db`` in memory: what %store and %bookmark keep lasts as long as the session."""

    def keys(self, glob=None):
        return [k for k in dict.keys(self) if glob is None or fnmatch.fnmatch(k, glob)]

    def hkeys(self, folder):
        return list(self.get(folder, {}))

    def hget(self, folder, key, default=None):
        return self.get(folder, {}).get(key, default)

    def hset(self, folder, key, value):
        self.setdefault(folder, {})[key] = value

    def uncache(self, *items):
        pass

    def __delitem__(self, key):
        self.pop(key, None)  # as in IPython's, a name that is not there is no error


class Publisher:
    """Sends messages; first, as in ipykernel, each passes the hooks that the calling thread has registered."""

    def publishing(self, host):
        self.host = host
        self.local = threading.local()

    @property
    def _hooks(self):
        if not hasattr(self.local, "hooks"):
            self.local.hooks = []
        return self.local.hooks

    def register_hook(self, hook):
        """Register ``hook(message)``, which returns the message, changed or not, or None to keep it from being sent."""
        self._hooks.append(hook)

    def unregister_hook(self, hook):
        """Remove a hook; returns whether it was registered."""
        found = hook in self._hooks
        if found:
            self._hooks.remove(hook)
        return found

    def send(self, msg_type, content):
        streams.flush_all()
        if self._hooks:
            content = clean(content)
            header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type}
            parent = self.shell.get_parent().get("header", {})
            message = {"header": header, "msg_id": header["msg_id"], "msg_type": msg_type}
            message.update(parent_header=parent, metadata={}, content=content)
            for hook in list(self._hooks):
                message = hook(message)
                if message is None:
                    return
            msg_type, content = message["header"]["msg_type"], message["content"]
        self.host.publish(msg_type, content, clean=clean)


def classes():
    """Our classes, as attributes of a namespace. Call it inside ``hooks.quiet_import()``."""
    from IPython.core import magic_arguments, page
    from IPython.core.builtin_trap import BuiltinTrap
    from IPython.core.compilerop import CachingCompiler, code_name
    from IPython.core.display_trap import DisplayTrap
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.error import UsageError
    from IPython.core.events import EventManager
    from IPython.core.history import HistoryManager
    from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
    from IPython.core.magics.script import ScriptMagics, script_args
    from IPython.utils.process import arg_split

    # The debugger and the front end use this kind of name for a cell.
    like_ipykernel = any(importlib.util.find_spec(name) is not None for name in ("ipykernel", "debugpy"))

    class Compiler(CachingCompiler):
        """Names cells as ipykernel does if that or debugpy is installed; linecache keeps their texts until the end."""

        def __init__(self):
            with hooks.quiet_import():
                super().__init__()
            self.entries = collections.OrderedDict()

        def get_code_name(self, raw_code, transformed_code, number):
            if like_ipykernel:
                return cell_file(raw_code)
            return code_name(transformed_code, number)

        def ast_parse(self, source, filename="<unknown>", symbol="exec"):
            if sys.version_info < (3, 9) and len(source) > 4000:
                # Making the syntax tree of a very deep expression crashes such a Python; compiling it only raises.
                compile(source, filename, symbol, self.flags | getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0))
            parse = super().ast_parse
            return compiler.undisturbed(lambda: parse(source, filename, symbol))

        def cache(self, transformed_code, number=0, raw_code=None):
            # IPython 7 gives the entry a time and patches linecache to keep it; an entry without a time needs no patch.
            name = self.get_code_name(transformed_code if raw_code is None else raw_code, transformed_code, number)
            if hasattr(self, "_filename_map"):
                self._filename_map[name] = number
            lines = sources.lines_of(transformed_code)
            entry = linecache.cache[name] = (len(transformed_code), None, lines, name)
            self.entries.pop(name, None)
            self.entries[name] = entry
            while len(self.entries) > KEEP_CELLS:
                self._forget(*self.entries.popitem(last=False))
            return name

        def _forget(self, name, entry):
            getattr(self, "_filename_map", {}).pop(name, None)
            if linecache.cache.get(name) is entry:  # otherwise another session has since run the same text
                del linecache.cache[name]

        def forget_all(self):
            while self.entries:
                self._forget(*self.entries.popitem())

    class NoDisplayTrap(DisplayTrap):
        """Sets nothing for a cell: our sys.displayhook already finds the caller's shell."""

        def set(self):
            pass

        def unset(self):
            pass

    class NoBuiltinTrap(BuiltinTrap):
        """Sets no builtins, which the whole process has: a session has such names itself, or by ``ipython_hooks``."""

        def activate(self):
            pass

        def deactivate(self):
            pass

    class SessionDisplayHook(Publisher, DisplayHook):
        """Publishes a cell's value as execute_result."""

        @property
        def message(self):
            return getattr(self.local, "message", None)

        def __call__(self, result=None):
            try:
                super().__call__(result)
            finally:
                self.local.message = None

        def flush(self):
            super().flush()
            self.shell.user_ns_hidden.update(
                (name, "") for name in ("_", "__", "___")
            )  # IPython leaves the values there

        def start_displayhook(self):
            self.local.message = {"data": {}, "metadata": {}}

        def write_output_prompt(self):
            self.message["execution_count"] = self.prompt_count

        def write_format_data(self, format_dict, md_dict=None):
            self.message["data"] = format_dict
            self.message["metadata"] = md_dict or {}

        def finish_displayhook(self):
            if self.message and self.message["data"]:
                self.send("execute_result", self.message)

    class SessionDisplayPublisher(Publisher, DisplayPublisher):
        """Publishes display_data, update_display_data and clear_output."""

        def publish(self, data, metadata=None, source=None, transient=None, update=False, **kwargs):
            metadata = {} if metadata is None else metadata
            self._validate_data(data, metadata)
            content = {"data": data, "metadata": metadata, "transient": transient or {}}
            self.send("update_display_data" if update else "display_data", content)

        def clear_output(self, wait=False):
            self.send("clear_output", {"wait": bool(wait)})

    class SessionEvents(EventManager):
        """Ignores ``unregister`` of a function that is not registered here: matplotlib remembers for the whole process
        that it has registered one, and so may unregister it in another session."""

        def unregister(self, event, function):
            try:
                super().unregister(event, function)
            except ValueError:
                pass

    class SessionHistory(HistoryManager):
        """The session's own cells, in memory: no file, no thread. The client's side keeps the permanent history."""

        def __init__(self, shell, **kwargs):
            super().__init__(shell=shell, enabled=False, hist_file=":memory:", **kwargs)
            self.outputs = collections.defaultdict(list)  # IPython 9 has one dict for all shells of a process

        def store_inputs(self, line_num, *args, **kwargs):
            kept = self.input_hist_parsed, self.input_hist_raw
            for inputs in kept:
                inputs.extend([""] * (line_num - len(inputs)))  # some cells were not run by this shell
            known = len(kept[0])
            super().store_inputs(line_num, *args, **kwargs)
            for inputs in kept:
                if line_num < known < len(inputs):  # a cell on a subshell has begun before this one
                    inputs[line_num] = inputs.pop()
            self.db_input_cache = []
            for kept in (self.outputs, getattr(self, "exceptions", {}), self.output_hist_reprs):
                while len(kept) > KEEP_CELLS:  # as IPython itself does with Out
                    del kept[next(iter(kept))]

        def _rows(self, raw, output, searched=None):
            parsed, original = self.input_hist_parsed, self.input_hist_raw
            for i in range(1, min(len(parsed), len(original))):
                if searched is None or fnmatch.fnmatchcase((original if searched[1] else parsed)[i], searched[0]):
                    line = (original if raw else parsed)[i]
                    yield 0, i, (line, self.output_hist_reprs.get(i)) if output else line

        def get_tail(self, n=10, raw=True, output=False, include_latest=False):
            rows = list(self._rows(raw, output))
            rows = rows if include_latest else rows[:-1]
            return rows[-(10 if n is None else n) :]

        def search(self, pattern="*", raw=True, search_raw=True, output=False, n=None, unique=False):
            rows = list(self._rows(raw, output, (pattern, search_raw)))
            if unique:
                rows = list(collections.OrderedDict((row[2], row) for row in rows).values())
            return rows if n is None else rows[-n:]

    @magics_class
    class KernelMagics(Magics):
        """Magics that depend on what is at the other end."""

        @line_magic
        def edit(self, line):
            """Not in a remote session: %load a file, change it, and %%writefile it."""
            raise UsageError("%edit cannot open an editor from here: %load shows a file, %%writefile writes it")

        @line_magic
        def connect_info(self, line):
            """Not in a remote session: other programs attach to it by its name."""
            print("This session runs on a server, as %flame status tells; %flame attach NAME continues it elsewhere.")

        @line_magic
        def qtconsole(self, line):
            """Not in a remote session: jupyter flame console opens a prompt there."""
            print("No window can be opened there. In a terminal, jupyter flame console opens a prompt on this server.")

        @line_magic
        def subshell(self, line):
            """Show which thread this cell runs on, and which others there are."""
            here, main = threading.current_thread(), threading.main_thread()
            print("thread id: %s (%s)\nmain thread id: %s" % (here.ident, here.name, main.ident))
            print("pid: %s\nthread count: %d" % (os.getpid(), threading.active_count()))

        @line_magic
        def clear(self, line):
            """Clear the terminal."""
            print("\x1b[H\x1b[2J", end="")

        @line_magic
        def less(self, line):
            """Show a file through the pager; Python files are coloured."""
            if not line:
                raise UsageError("Missing filename.")
            with open(os.path.expanduser(line), encoding="utf-8", errors="replace") as f:
                text = f.read()
            page.page(self.shell.pycolorize(text) if line.endswith(".py") else text)

        more = line_magic("more")(less)

        @line_magic
        def man(self, line):
            """Show the manual page of a command through the pager."""
            if not line:
                raise UsageError("Which manual page?")
            page.page(self.shell.getoutput("man %s | col -b" % line, split=False))

        @line_magic
        def autosave(self, line):
            """Set the interval, in seconds, at which the classic notebook saves; 0 for never."""
            from IPython.display import Javascript, display

            try:
                seconds = int(line)
            except ValueError:
                raise UsageError("%%autosave requires an integer, got %r" % line)
            script = Javascript("IPython.notebook.set_autosave_interval(%i)" % (1000 * seconds))
            display(script, include=["application/javascript"])
            print("Autosaving every %i seconds" % seconds if seconds else "Autosave disabled")

    @magics_class
    class SessionScripts(ScriptMagics):
        """``%%bash`` and its like, without IPython's thread with an event loop, which no interrupt reaches."""

        @magic_arguments.magic_arguments()
        @script_args
        @cell_magic("script")
        def shebang(self, line, cell):
            """Run a cell by a command: ``%%script bash``."""
            args, command = self.shebang.parser.parse_known_args(arg_split(line, posix=os.name == "posix"))
            if args.bg or os.name != "posix":
                super().shebang(line, cell)
                self.started = getattr(self, "started", []) + self.bg_processes[-1:]
                return None
            data = (cell if cell.endswith("\n") else cell + "\n").encode("utf-8", "replace")
            names = self.shell.user_ns
            out = self._into(names, args.out, lambda text: sys.stdout.write(text))
            err = self._into(names, args.err, lambda text: sys.stderr.write(text))
            try:
                status = system.run(command, out, err, data, self.shell.own_group)
            except (FileNotFoundError, PermissionError):
                print("Couldn't find program: %r" % command[0])
                return None
            except KeyboardInterrupt:
                print("Process was interrupted.")
                status = -2
            if status and getattr(args, "raise_error", True):
                raise subprocess.CalledProcessError(status, data)
            return None

        def _make_script_magic(self, name):
            """``%%bash`` or another. IPython makes a parser for each, which takes half of the time of a whole shell."""
            path = self.script_paths.get(name, name)

            def named_script_magic(line, cell):
                return self.shebang("%s %s" % (path, line) if line else path, cell)

            named_script_magic.__doc__ = "Run a cell by %s in a subprocess: short for ``%%%%script %s``." % (path, path)
            named_script_magic.has_arguments, named_script_magic.parser = True, self.shebang.parser
            return named_script_magic

        @staticmethod
        def _into(names, name, write):
            """Write text to the variable ``name`` if one is given; otherwise pass it on."""
            if not name:
                return write
            names[name] = ""

            def append(text):
                names[name] += text

            return append

        @line_magic
        def killbgscripts(self, line=""):
            """Kill all processes that ``%%script --bg`` and its family have started."""
            self.kill_bg_processes()
            print("All background processes were killed.")

    def end_background(scripts):
        """Kill what ``%%script --bg`` has started, and end the thread with an event loop that IPython runs for it."""
        scripts.kill_bg_processes()
        loop = getattr(scripts, "event_loop", None)
        if loop is None or loop.is_closed() or not loop.is_running():
            return

        async def settle():
            # A process that they started may live on and keep a pipe open, for which IPython's task would wait.
            me = asyncio.current_task()
            others = [task for task in asyncio.all_tasks() if task is not me]
            if others:
                await asyncio.wait(others, timeout=0.1)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for process in getattr(scripts, "started", ()):
                if getattr(process, "_transport", None) is not None:
                    process._transport.close()
            await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(settle(), loop).result(2.0)
        if hasattr(scripts, "stop_event_loop"):
            scripts.stop_event_loop()
        else:
            loop.call_soon_threadsafe(loop.stop)

    return types.SimpleNamespace(
        end_background=end_background,
        Compiler=Compiler,
        NoDisplayTrap=NoDisplayTrap,
        NoBuiltinTrap=NoBuiltinTrap,
        SessionDisplayHook=SessionDisplayHook,
        SessionDisplayPublisher=SessionDisplayPublisher,
        SessionEvents=SessionEvents,
        SessionHistory=SessionHistory,
        KernelMagics=KernelMagics,
        SessionScripts=SessionScripts,
    )
