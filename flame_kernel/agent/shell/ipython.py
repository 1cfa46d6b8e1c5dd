"""The shell of a session if the server has IPython: magics, ``!cmd``, ``obj?``, top-level await, figures.

It behaves like ipykernel's shell.  But the process may have an IPython of its own, and other sessions.  So this shell
does not take over what IPython normally takes over in a process: ``__main__``, the builtins, ``sys.displayhook``, the
history file, the profile folder, signals, prompts.  Its classes are in ``ipython_class``, ``ipython_parts`` and
``ipython_errors``; what all sessions of the process share is in ``ipython_hooks``.
"""

import contextlib
import importlib.util
import os
import sys

from .. import own
from ..output.figures import Figures
from . import (
    compiler,
    ipykernel_names,
    ipython_class,
    ipython_errors,
    ipython_parts,
    ipython_profile,
    jedi_cache,
    system,
    timing,
    tracebacks,
)
from . import ipython_hooks as hooks

OLDEST = (7, 17)  # the first version that can run a cell on a loop that is already running
EXPERIMENTAL_TYPES = "_jupyter_types_experimental"
# The module by which tqdm and others recognize a notebook.
_NOTEBOOK = "ipykernel.zmqshell"
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"


def available():
    """None if a session can use IPython, else the reason why not, in words."""
    if sys.version_info < (3, 7):
        return "IPython %d.%d needs Python 3.7" % OLDEST
    try:
        if importlib.util.find_spec("IPython") is None:
            return "IPython is not installed there: %flame pip install ipython"
        with hooks.quiet_import():
            import IPython
            from IPython.core import interactiveshell  # noqa: F401
    except Exception as e:  # whatever a broken installation raises; its text is reported
        return "IPython cannot be imported there: %s: %s" % (type(e).__name__, e)
    if tuple(IPython.version_info[:2]) < OLDEST:
        return "IPython there is %s; %d.%d is needed: %%flame pip install --first ipython" % (
            (IPython.__version__,) + OLDEST
        )
    return None


def prepare():
    """Import what a shell will need."""
    if available() is None:
        try:
            with hooks.quiet_import():
                ipython_class.prepare()
        except Exception:  # a broken installation; the shell itself meets that again, and reports it
            pass


class IPythonShell:
    """Has the same interface as ``mini.MiniShell``.

    ip       the InteractiveShell, what ``get_ipython()`` returns in the session
    figures  matplotlib's figures of this session
    """

    name = "ipython"

    def __init__(self, host):
        self._host = host
        self._closed = False
        self.ip = None
        self.figures = Figures(host)
        self._starts = host.place.owns_process  # run startup files with the first cell that is not silent
        self._notebook_module = None  # what was removed from sys.modules for a client that shows only text
        with hooks.quiet_import():
            self.ip = ipython_class.build(self, host)
            hooks.install(self.ip, host.place.owns_process)
        jedi_cache.use(self.ip)
        if host.place.owns_process:
            self._prepare_child()
        else:
            self.ip.ast_transformers.append(compiler.AsMain)

    def __repr__(self):
        return "<IPythonShell %s, In[%d]>" % (self._host.session_id, self.execution_count)

    def _prepare_child(self):
        """Change this process as ipykernel changes its own; not for a server's process."""
        import pdb  # noqa: T100

        from IPython.core import debugger

        os.environ.update(system.ENVIRONMENT)
        if hasattr(debugger, "InterruptiblePdb"):
            pdb.Pdb = debugger.Pdb = debugger.InterruptiblePdb
            pdb.set_trace = debugger.set_trace
        ipykernel_names.plant(self.ip)
        if importlib.util.find_spec("matplotlib_inline") is not None:
            os.environ["MPLBACKEND"] = os.environ.get("MPLBACKEND") or INLINE_BACKEND
        else:
            self.figures.enable_with_pyplot(self.ip.enable_inline_figures)

    @property
    def user_ns(self):
        return self.ip.user_ns

    @property
    def execution_count(self):
        return self.ip.execution_count

    def shows_text_only(self, text_only):
        """Tell libraries whether the client shows only text: then tqdm and others draw for a terminal."""
        if self._host.place.owns_process:
            if text_only:
                self._notebook_module = sys.modules.pop(_NOTEBOOK, self._notebook_module)
            elif self._notebook_module is not None:
                sys.modules.setdefault(_NOTEBOOK, self._notebook_module)
        config = self.ip.config
        if text_only:
            config.pop("IPKernelApp", None)
        elif "IPKernelApp" not in config:
            config.IPKernelApp.connection_file = ""  # libraries only check that it exists

    def displayhook(self, value):
        """``sys.displayhook`` for the session's code."""
        self.ip.displayhook(value)

    # -- running -----------------------------------------------------------------------------------------------------

    async def run_cell(self, code, silent=False, store_history=True, cell_id=None, raw=None):
        """Run a cell and return the content of its execute_reply, without user_expressions. An error is published
        before this returns. ``raw`` is for a shell that has no magics of its own.

        Branches because IPython reports an error in four ways: it raises it, shows it, returns it as
        ``error_in_exec``, or, if the cell did not begin, as ``error_before_exec``.
        """
        ip = self.ip
        if self._starts and not silent:
            self._starts = False
            self._start()
        error = ip.begin_cell()
        result = failure = None
        failed = False
        try:
            result = await self._run(code, silent, store_history, cell_id)
        except GeneratorExit:
            raise
        except BaseException as e:  # it was raised in IPython's own code, not in the user's
            if error:  # IPython has shown the user's error, and stumbled over it afterwards
                failed = True
            else:
                failure = self._of_cell(e)
                self._show(failure)
        ip.end_cell()
        if result is not None:
            failure = next((e for e in (result.error_before_exec, result.error_in_exec) if e is not None), None)
        if failure is not None and not error and not silent:
            error = self._shown_after_all(failure)
        if failure is None and not failed and not error.get("in_displayhook"):
            reply = {"status": "ok"}
        else:
            reply = {"status": "error", "ename": error.get("ename"), "evalue": error.get("evalue")}
            if failure is not None:
                reply["ename"], reply["evalue"] = type(failure).__name__, ip.text_of(failure)
            reply["traceback"] = error.get("traceback") or []
        count = getattr(result, "execution_count", None) if store_history and not silent else None
        reply["execution_count"] = ip.execution_count - 1 if count is None else count
        reply["user_expressions"] = {}
        reply["payload"] = ip.payload_manager.read_payload()
        ip.payload_manager.clear_payload()
        return reply

    def _start(self):
        """Run the user's startup files; in the first cell, so that the user sees there what fails, and can stop it."""
        self.ip.begin_cell()
        try:
            for problem in self.ip.problems:
                sys.stderr.write(problem)
            ipython_profile.start(self.ip)
        except Exception as e:  # the user's startup code may raise anything; it is shown, and the cell still runs
            self._show(e)
        finally:
            self.ip.end_cell()

    async def _run(self, code, silent, store_history, cell_id):
        """IPython's ExecutionResult. Code that awaits runs on the lane's loop, other code in one step."""
        ip = self.ip
        transformed, problem = code, None
        try:
            transformed = ip.transform_cell(code)
        except Exception:  # also from the user's own input transformers; the cell shows it
            problem = sys.exc_info()
        inner, timed = timing.awaiting(code), contextlib.nullcontext()
        if inner is not None and self._awaits(inner[1], ip.transform_cell(inner[1])):
            transformed = "\n" * inner[0] + ip.transform_cell(inner[1])
            timed = timing.timed(lambda text: sys.stdout.write(text))
        kwargs = {"store_history": store_history, "silent": silent}
        if ip.takes_cell_id and cell_id is not None:
            kwargs["cell_id"] = cell_id
        awaits = problem is None and self._awaits(code, transformed)
        if (awaits and not ip.runs_on_asyncio()) or (not awaits and "run_cell" in vars(ip)):
            # %autoawait trio and the like use a loop of their own; %autopx and others have replaced this method.
            return ip.run_cell(code, **kwargs)
        coroutine = ip.run_cell_async(code, transformed_cell=transformed, preprocessing_exc_tuple=problem, **kwargs)
        result = None
        try:
            if awaits:
                with timed:
                    result = await coroutine
            else:
                try:
                    coroutine.send(None)
                except StopIteration as stop:
                    result = stop.value
                else:
                    raise RuntimeError("the cell awaits, although IPython found no await in it")
        finally:
            coroutine.close()
            ip.events.trigger("post_execute")
            if not silent:
                ip.events.trigger("post_run_cell", result)
        return result

    def _of_cell(self, failure):
        """The error of the cell that IPython was about to show when it failed itself, by ``failure``; ``failure`` if
        there is none."""
        error, left = failure, 50
        while error is not None and left:
            tb = error.__traceback__
            while tb is not None and tb.tb_next is not None:
                # Only what run_code calls is the cell: IPython may also call a function that a cell has given it.
                of_cell = tb.tb_next.tb_frame.f_globals is self.ip.user_global_ns
                if of_cell and tb.tb_frame.f_code.co_name == "run_code":
                    return error
                tb = tb.tb_next
            error, left = error.__context__, left - 1
        return failure

    def _shown_after_all(self, failure):
        """Show an error that IPython failed to show, perhaps because a cell has replaced a part of IPython; returns
        what was shown."""
        if type(failure).__name__ == "UsageError":
            return {}  # IPython prints it to stderr, as one sentence
        error = tracebacks.content(failure)
        self._host.publish("error", error)
        return error

    def _awaits(self, code, transformed):
        try:
            return self.ip.should_run_async(code, transformed_cell=transformed, preprocessing_exc_tuple=None)
        except Exception:  # whatever a compiler raises for it
            return False  # no compiler accepts the text: running it shows the error

    def _show(self, error):
        tb = _without_agent(error.__traceback__)
        try:
            self.ip.showtraceback((type(error), error, tb), tb_offset=0)
        except BaseException:  # IPython's formatter, or the error itself, fails; a plain traceback is shown
            content = tracebacks.content(error, tb)
            self.ip.record_error(content)
            self._host.publish("error", content)

    def user_expressions(self, expressions):
        """Evaluate expressions after a cell: ``{name: {"status", "data", "metadata"} or an error}``."""
        return self.ip.clean(self.ip.user_expressions(expressions))

    def cell_name(self, file):
        """``In[3]`` for a cell's file name, None for any other name."""
        number = getattr(self.ip.compile, "_filename_map", {}).get(file)
        if number is not None:
            return "In[%s]" % number
        return "a cell" if file in self.ip.compile.entries else None

    def format_exception(self, exc_info):
        """``{"ename", "evalue", "traceback"}`` of an exception outside of a cell, without the agent's own frames."""
        etype, value, tb = exc_info
        tb = ipython_errors.without_ours(_without_agent(tb))
        try:
            with hooks.serving(self.ip):
                lines = self.ip.traceback_lines(etype, value, tb)
        except Exception:  # IPython's formatter, or the error's own methods, fail; the error is shown all the same
            return tracebacks.content(value, tb)
        return {"ename": etype.__name__, "evalue": self.ip.text_of(value), "traceback": lines}

    def bundle(self, value):
        """``(data, metadata)`` of a value: the forms in which a front end may show it."""
        data, metadata = self.ip.display_formatter.format(value)
        return self.ip.clean(data), self.ip.clean(metadata)

    # -- for the debugger --------------------------------------------------------------------------------------------

    @property
    def cell_folder(self):
        return ipython_parts.cell_folder()

    def cell_file(self, code):
        """The file name of a cell with this text."""
        return ipython_parts.cell_file(code)

    def keep_empty_lines(self, keep):
        """Set whether empty lines at the beginning of a cell are kept; IPython removes them by default."""
        from IPython.core.inputtransformer2 import leading_empty_lines

        transforms = self.ip.input_transformer_manager.cleanup_transforms
        if keep and leading_empty_lines in transforms:
            transforms.remove(leading_empty_lines)
        elif not keep and leading_empty_lines not in transforms:
            transforms.insert(0, leading_empty_lines)

    # -- completion and inspection -----------------------------------------------------------------------------------

    def complete(self, code, cursor_pos=None):
        """The content of a complete_reply; positions count code points."""
        if cursor_pos is None:
            cursor_pos = len(code)
        with hooks.serving(self.ip):
            found = self.ip.completions(code, cursor_pos)
        details = [
            {"start": c.start, "end": c.end, "text": c.text, "type": c.type, "signature": c.signature} for c in found
        ]
        return {
            "status": "ok",
            "matches": [c.text for c in found],
            "cursor_start": found[0].start if found else cursor_pos,
            "cursor_end": found[0].end if found else cursor_pos,
            "metadata": {EXPERIMENTAL_TYPES: details},
        }

    def inspect(self, code, cursor_pos=None, detail_level=0, omit_sections=()):
        """The content of an inspect_reply."""
        if cursor_pos is None:
            cursor_pos = len(code)
        reply = {"status": "ok", "found": False, "data": {}, "metadata": {}}
        with hooks.serving(self.ip):
            data = self.ip.inspect_at(code, cursor_pos, detail_level, omit_sections)
        if data is not None:
            reply["data"] = self.ip.clean(data)
            reply["found"] = True
        return reply

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self):
        """Undo what this shell has changed in the process. Idempotent; any thread."""
        if self._closed:
            return
        self._closed = True
        with hooks.serving(self.ip):
            self.figures.close()
            self.ip.end_session()
        hooks.uninstall(self.ip)
        jedi_cache.leave(self.ip)


def _without_agent(tb):
    """A traceback from its first frame that belongs neither to the agent nor to asyncio."""
    while tb is not None and tb.tb_next is not None:
        if not own.has(tb.tb_frame) and not (tb.tb_frame.f_globals.get("__name__") or "").startswith("asyncio."):
            break
        tb = tb.tb_next
    return tb
