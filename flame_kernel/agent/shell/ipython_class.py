"""The InteractiveShell of a session: IPython's, without its changes to the process.

IPython is imported inside ``_make_class``, once, when the first session needs it.  For IPython 7.17 to 9.
"""

import atexit
import contextlib
import importlib
import inspect
import linecache
import os
import runpy
import shutil
import subprocess
import sys
import types

from .. import tempdirs
from ..output import kernel_object, streams
from . import ipython_hooks as hooks
from . import ipython_parts, ipython_profile, jedi_cache
from . import system as commands
from .ipython_errors import ShowsErrors
from .ipython_parts import clean

# Names for ``%gui`` and ``%matplotlib`` that need no event loop of a window system.
WINDOWLESS = (None, "", "none", "inline", "auto", "agg", "asyncio", "notebook", "nbagg", "widget", "ipympl")

_shell_class = None


def build(shell, host):
    """The InteractiveShell for an IPythonShell. Call it inside ``hooks.quiet_import()``."""
    return _class()(shell, host)


def prepare():
    """Make its class, and import what IPython imports only when it makes a shell."""
    _class()
    for name in ("application", "completer", "completerlib", "debugger", "magics", "oinspect"):
        importlib.import_module("IPython.core." + name)
    import pdb  # noqa: F401, T100


def _class():
    global _shell_class
    if _shell_class is None:
        _shell_class = _make_class()
    return _shell_class


def _make_class():
    from IPython.core import interactiveshell, page
    from IPython.core.autocall import ZMQExitAutocall
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
    from IPython.core.magics.script import ScriptMagics
    from IPython.utils import text as ipython_text
    from IPython.utils.tokenutil import token_at_cursor
    from traitlets import Any, CBool, Type, default, observe
    from traitlets.config import Config

    parts = ipython_parts.classes()

    class ZMQInteractiveShell(ShowsErrors, InteractiveShell):
        """Named like ipykernel's class: by that name libraries recognize a notebook."""

        displayhook_class = Type(parts.SessionDisplayHook)
        display_pub_class = Type(parts.SessionDisplayPublisher)
        compiler_class = Type(parts.Compiler)
        kernel = Any()
        autoindent = CBool(False)
        keepkernel_on_exit = None

        def __init__(self, outer, host):
            self._outer = outer
            self._host = host
            self._owns_process = host.place.owns_process
            self._main = sys.modules.get("__main__")
            self._next_count = 1
            self._errors = {}  # request id -> what _showtraceback has shown for it
            self._last_exc_info = None
            self._in_sys = False  # whether that error was sys.last_value when the latest cell ended
            self.own_group = host.place.own_group
            config, self.problems = ipython_profile.configuration() if self._owns_process else (Config(), [])
            parameters = inspect.signature(InteractiveShell.run_cell_async).parameters
            self.takes_cell_id = "cell_id" in parameters
            try:
                with hooks.serving(self):
                    super().__init__(user_module=host.namespace, config=config)
            finally:
                atexit.unregister(self.atexit_operations)
                shutil.rmtree(self._profile.location, ignore_errors=True)
                atexit.unregister(self._remove_profile)
                self._profile = None
            self.kernel = kernel_object.Kernel(self)

        @property
        def execution_count(self):
            """The number of the calling cell, or of the next one. IPython keeps one counter, which it increases during
            a cell or at its end; here each cell has its own number, because cells may run at the same time."""
            cell = streams.current()
            count = getattr(cell, "count", None)
            return self._next_count if count is None else count

        @execution_count.setter
        def execution_count(self, value):
            cell = streams.current()
            if getattr(cell, "count", None) is not None:
                cell.count = value
                value = max(value, self._next_count) if value > 1 else value
            self._next_count = value

        # -- construction, without what IPython would take over ------------------------------------------------------

        def init_ipython_dir(self, ipython_dir):
            self.ipython_dir = ipython_profile.folder()

        @observe("ipython_dir")
        def _ipython_dir_changed(self, change):
            pass  # IPython creates the folder

        def init_profile_dir(self, profile_dir):
            # Before 9.18 IPython opens a database there, which `db` then drops. If the process is ended meanwhile, its
            # exit handlers run, so one of them must know the folder before it exists.
            location = tempdirs.name("flame_profile_")
            self._profile = types.SimpleNamespace(location=location)
            atexit.register(self._remove_profile)
            if sys.modules["IPython"].version_info[:2] < (9, 18):
                tempdirs.make(location)

        def _remove_profile(self):
            if self._profile is not None:
                shutil.rmtree(self._profile.location, ignore_errors=True)

        @property
        def profile_dir(self):
            """The user's profile there, for libraries that keep files in it; made when it is first asked for."""
            if self._profile is None:
                from IPython.core.profiledir import ProfileDir, ProfileDirError

                try:
                    self._profile = ProfileDir.find_profile_dir_by_name(self.ipython_dir, "default")
                except ProfileDirError:
                    os.makedirs(self.ipython_dir, exist_ok=True)
                    self._profile = ProfileDir.create_profile_dir_by_name(self.ipython_dir, "default")
            return self._profile

        @property
        def db(self):
            return self.__dict__.setdefault("_memory", ipython_parts.Memory())

        @db.setter
        def db(self, value):
            pass  # see init_profile_dir

        def init_instance_attrs(self):
            super().init_instance_attrs()
            if not isinstance(self.compile, parts.Compiler):  # IPython 7.17 does not ask compiler_class
                self.compile = parts.Compiler()

        def init_environment(self):
            pass

        def init_virtualenv(self):
            pass

        def init_sys_modules(self):
            pass  # the session has put its own module there

        def save_sys_module_state(self):
            pass

        def restore_sys_module_state(self):
            pass

        def init_io(self):
            pass

        def init_prompts(self):
            pass

        def init_deprecation_warnings(self):
            pass  # IPython 7

        def init_traceback_handlers(self, custom_exceptions):
            super().init_traceback_handlers(custom_exceptions)
            for formatter in (self.InteractiveTB, self.SyntaxTB):
                if hasattr(formatter, "check_cache"):  # IPython 7, whose own function needs its patch of linecache
                    formatter.check_cache = lambda *args: linecache.checkcache(*args)

        def init_history(self):
            self.history_manager = parts.SessionHistory(shell=self, parent=self)
            self.configurables.append(self.history_manager)

        def init_builtins(self):
            self.builtin_trap = parts.NoBuiltinTrap(shell=self)

        def init_events(self):
            self.events = parts.SessionEvents(self, interactiveshell.available_events)
            self.events.register("pre_execute", self._clear_warning_registry)

        def init_user_ns(self):
            super().init_user_ns()
            from IPython.display import display

            self.user_ns["display"] = self.user_ns_hidden["display"] = display

        def init_displayhook(self):
            super().init_displayhook()
            self.displayhook.publishing(self._host)
            self.display_trap = parts.NoDisplayTrap(hook=self.displayhook)

        def init_display_pub(self):
            super().init_display_pub()
            self.display_pub.publishing(self._host)

        def init_hooks(self):
            super().init_hooks()
            self.set_hook("show_in_pager", page.as_hook(self._page), 99)

        def init_magics(self):
            super().init_magics()
            self.register_magics(parts.KernelMagics, parts.SessionScripts)
            with contextlib.suppress(ImportError):  # the application loads it in IPython
                self.register_magics(importlib.import_module("IPython.extensions.storemagic").StoreMagics)
            self.magics_manager.register_alias("ed", "edit")

        @default("exiter")
        def _exiter_default(self):
            return ZMQExitAutocall(self)

        # -- one cell ------------------------------------------------------------------------------------------------

        def begin_cell(self):
            """Returns a dict that will hold what was shown of an error: ename, evalue, traceback, in_displayhook."""
            cell = streams.current()
            error = self._errors[cell.request_id if cell else None] = {}
            inputs = self.history_manager.input_hist_raw
            if cell is not None and cell.count is not None and any(inputs[cell.count : cell.count + 1]):
                cell.count = self._next_count  # the client does not know of some cells that ran here
            return error

        def end_cell(self):
            cell = streams.current()
            last = self._last_exc_info
            if last is not None and self._in_sys and getattr(sys, "last_value", None) is None:
                self._last_exc_info = None  # a cell has cleared it, so that what the error holds is freed
                self.InteractiveTB.tb = None
            self._in_sys = (
                self._last_exc_info is not None and getattr(sys, "last_value", None) is self._last_exc_info[1]
            )
            self._errors.pop(cell.request_id if cell else None, None)
            if not self._owns_process and self._main is not None:
                main = sys.modules.get("__main__")
                if main is self.user_module or main in self._main_mod_cache.values():
                    # Two sessions with %run at the same time have each restored the other's module.
                    sys.modules["__main__"] = self._main

        def record_error(self, content):
            cell = streams.current()
            self._errors.setdefault(cell.request_id if cell else None, {}).update(content)

        def runs_on_asyncio(self):
            """Whether cells that await run on asyncio (see %autoawait), whose loop is already running here."""
            return self.loop_runner is interactiveshell._asyncio_runner

        @contextlib.contextmanager
        def _tee(self, channel):
            yield  # IPython 9 would replace the write method of sys.stdout here, for the whole process

        clean = staticmethod(clean)

        # -- payloads ------------------------------------------------------------------------------------------------

        def _page(self, text, start=0, screen_lines=0, pager_cmd=None):
            data = text if isinstance(text, dict) else {"text/plain": text}
            self.payload_manager.write_payload({"source": "page", "data": clean(data), "start": max(0, start)})

        def set_next_input(self, text, replace=False):
            """Put text into the next cell, or with ``replace`` into this one."""
            payload = {"source": "set_next_input", "text": text, "replace": replace}
            self.payload_manager.write_payload(payload)

        def ask_exit(self):
            """``exit``: ask the front end to end the session; the process goes on."""
            payload = {"source": "ask_exit", "keepkernel": bool(self.keepkernel_on_exit)}
            self.payload_manager.write_payload(payload)

        # -- the request for which code runs ---------------------------------------------------------------------------

        def get_parent(self):
            return self.kernel.get_parent()

        @property
        def parent_header(self):
            return self.get_parent()

        def set_parent(self, parent):
            """Let what the calling thread shows belong to that request from now on."""
            self.set_thread_parent(parent)

        def set_thread_parent(self, parent):
            """The same, but returns a token for reset_thread_parent."""
            before = streams.current()
            header = parent.get("header") or parent
            if before is None or before.request_id != header.get("msg_id"):
                asks, lane = (False, "") if before is None else (before.allow_stdin, before.lane)
                streams.set_current(streams.Cell(header.get("msg_id"), self._host, asks, lane=lane))
            return before

        def reset_thread_parent(self, token):
            """Let the calling thread belong to no request from now on: what it shows goes to the cell that ran last."""
            streams.set_current(streams.LatestCell(self._host))

        # -- commands ------------------------------------------------------------------------------------------------

        def system(self, cmd):
            """``!cmd``: show its output while it runs; ``_exit_code`` is its status, negative for a signal."""
            self._refuse_background(cmd)
            cmd = self.var_expand(cmd, depth=1)
            try:
                status = commands.run(cmd, lambda text: sys.stdout.write(text), own_group=self.own_group)
            except KeyboardInterrupt:
                print("^C")
                status = -2
            self._command_is_over(cmd, status)

        system_piped = system_raw = system

        def getoutput(self, cmd, split=True, depth=0):
            """``x = !cmd``: the output as a list of lines."""
            self._refuse_background(cmd)
            cmd = self.var_expand(cmd, depth=depth + 1)
            text, status = commands.collect(cmd, self.own_group)
            if getattr(self, "system_raise_on_error", False):
                self._command_is_over(cmd, status)
            return ipython_text.SList(text.splitlines()) if split else ipython_text.LSString(text)

        def _refuse_background(self, cmd):
            if cmd.rstrip().endswith("&"):
                raise OSError("Background processes not supported.")

        def _command_is_over(self, cmd, status):
            if status > 128:  # how a shell reports that a signal ended the command
                status = 128 - status
            self.user_ns["_exit_code"] = status
            if status and getattr(self, "system_raise_on_error", False):
                raise subprocess.CalledProcessError(status, cmd)

        # -- %run ----------------------------------------------------------------------------------------------------

        def _run_name(self):
            return self.user_module.__name__ + "_run"

        def new_main_mod(self, filename, modname):
            # %run puts the script's module into sys.modules; but in a server's process __main__ is the server's own.
            if not self._owns_process and modname == "__main__":
                modname = self._run_name()
            return super().new_main_mod(filename, modname)

        def safe_execfile(self, fname, *where, **kwargs):
            if where and where[0].get("__name__") == self._run_name():
                where[0]["__name__"] = "__main__"  # the script itself must see this name
            return super().safe_execfile(fname, *where, **kwargs)

        def safe_run_module(self, mod_name, where):
            if self._owns_process:
                return super().safe_run_module(mod_name, where)
            try:
                where.update(runpy.run_module(str(mod_name), run_name="__main__", alter_sys=False))
            except SystemExit as status:
                if status.code:
                    self.showtraceback()
            except BaseException:  # the user's module may raise anything: it is shown, as a cell's is
                self.showtraceback()

        # -- figures and windows -------------------------------------------------------------------------------------

        def enable_gui(self, gui=None):
            if gui not in WINDOWLESS:
                raise UsageError("no windows for %r: they would open on the server; use %%matplotlib inline" % gui)
            self.active_eventloop = gui

        def enable_matplotlib(self, gui=None):
            self.enable_gui(gui.lower() if isinstance(gui, str) else gui)
            if self._owns_process or gui not in (None, "inline", "auto"):
                return super().enable_matplotlib(gui)
            self.enable_inline_figures()
            return "inline", "inline"

        def enable_inline_figures(self):
            """Show the figures of this session only, whatever backend the app uses."""
            from IPython.core.pylabtools import select_figure_formats
            from IPython.display import display

            figures = self._outer.figures
            if figures.enabled:
                return
            figures.enable()
            options = {"bbox_inches": "tight"}
            formats = {"png"}
            try:
                from matplotlib_inline.config import InlineBackend
            except ImportError:
                pass
            else:
                settings = InlineBackend(parent=self)  # so that %config InlineBackend.… affects this session only
                settings.shell = self
                self.configurables.append(settings)
                formats, options = settings.figure_formats, settings.print_figure_kwargs
                settings.observe(lambda change: setattr(figures, "close_figures", change["new"]), "close_figures")
            select_figure_formats(self, formats, **options)
            figures.show_by(display)
            self.events.register("post_execute", figures.flush)

        # -- completion and inspection -------------------------------------------------------------------------------

        def completions(self, code, cursor_pos):
            """IPython's Completion objects, all for the same range of text."""
            from IPython.core.completer import rectify_completions

            if getattr(self.Completer, "use_jedi", False):
                with contextlib.suppress(ImportError):
                    importlib.import_module("jedi")  # IPython 9 imports it only when it completes

            def ask():
                return list(dict.fromkeys(self.Completer.completions(code, cursor_pos)))

            found = jedi_cache.complete(self, ask)
            return list(rectify_completions(code, found))

        def inspect_at(self, code, cursor_pos, detail_level, omit_sections):
            """The MIME bundle for the name at the cursor, or None if there is none."""
            name = token_at_cursor(code, cursor_pos)
            kwargs = {"detail_level": detail_level}
            if "omit_sections" in inspect.signature(InteractiveShell.object_inspect_mime).parameters:
                kwargs["omit_sections"] = omit_sections
            try:
                data = self.object_inspect_mime(name, **kwargs)
            except KeyError:
                return None
            if not self.enable_html_pager:
                data.pop("text/html", None)
            return data

        # -- the end -------------------------------------------------------------------------------------------------

        def end_session(self):
            """Release what this shell has in the process: files, processes, a thread, entries of linecache."""
            for name in ("SessionScripts", "ScriptMagics"):
                scripts = self.magics_manager.registry.get(name)
                if isinstance(scripts, ScriptMagics):
                    atexit.unregister(scripts.kill_bg_processes)
                    parts.end_background(scripts)
            self.compile.forget_all()
            if self.logger.logfile is not None:
                self.logger.logstop()
            for path in list(self.tempfiles) + list(self.tempdirs):
                try:
                    shutil.rmtree(str(path)) if os.path.isdir(str(path)) else os.unlink(str(path))
                except OSError:
                    pass
            hooks.forget_last_exception(self._last_exc_info[1] if self._last_exc_info else None)
            self._last_exc_info = None
            self.InteractiveTB.tb = None

    ZMQInteractiveShell.__module__, ZMQInteractiveShell.__qualname__ = "ipykernel.zmqshell", "ZMQInteractiveShell"
    InteractiveShellABC.register(ZMQInteractiveShell)
    return ZMQInteractiveShell
