"""``jupyter flame run NOTEBOOK``: nbclient runs the cells, with our kernel on the chosen server."""

from __future__ import annotations

import argparse
import ast
import atexit
import contextlib
import itertools
import keyword
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...commands.options import protection
from ...connect.installation import pip_install
from ...connect.selection import select
from ...errors import TargetError
from ...group import folding
from ...group.calls import folder_of
from ...remote.program import DONE, FAILED
from ...terminal import plain_text
from .. import kernelspec
from ..connecting import Connecting
from ..on_group import NONE_REACHED
from ..output import show_table
from ..parser import Parser

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

# How many notebooks run at a time on several servers; each needs two processes here.
AT_ONCE = 8


def run(command: Connecting, file: str, words: list[str]) -> int | None:
    """Run the notebook ``file``; ``words`` are the options after its name. Returns the exit code."""
    options = _parser().parse_args(words)
    _check_libraries()
    command.options.target = options.target or command.options.target
    path = Path(file).expanduser()
    notebook = _read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # from an earlier run, perhaps on another host
            cell.outputs, cell.execution_count = [], None
    given = parameters(options.parameters)
    if command.is_group:
        return _on_each(command, path, options)
    if options.failed:
        raise TargetError("--failed is for several servers, whose notebooks are in the folder of -o; name them with -t")
    inject(notebook, given)
    output = path if options.inplace else Path(options.output).expanduser() if options.output else None
    if output is not None and not output.absolute().parent.is_dir():
        raise TargetError(f"the folder {output.absolute().parent} for the result does not exist; create it first")
    cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    environ = _environ(command)
    log = logging.getLogger("flame.notebook")
    log.setLevel(command.log_level if command.log_level == logging.DEBUG else logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="flame-") as folder, _progress(path.name, cells) as begun:
        settings = {
            "km": manager(Path(folder), environ, log),
            "timeout": options.timeout,
            "allow_errors": options.allow_errors,
            "resources": {"metadata": {"path": str(path.absolute().parent)}},
            "on_cell_execute": lambda **_: begun(),
            "log": log,
        }
        failure = _execute(notebook, settings, Path(folder, "log"), output)
    if failure:
        print(plain_text(f"jupyter flame run: {path}: {failure}"), file=sys.stderr)
        return FAILED
    if output is not None:
        print(f"{output}: {cells} cells")
    return None


def _check_libraries() -> None:
    try:
        import nbclient  # noqa: F401
        import nbformat  # noqa: F401
    except ImportError as e:
        raise TargetError(f"running a notebook needs {e.name}: {pip_install('notebook')}") from None


def _read(path: Path) -> NotebookNode:
    import nbformat

    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    except OSError as e:
        raise TargetError(f"cannot read {path}: {e.strerror}; name a notebook here") from None
    except Exception as e:  # a file that is not a notebook can make nbformat and json raise anything
        raise TargetError(f"{path} is not a notebook: {str(e).splitlines()[0]}") from None
    return notebook


def _execute(notebook: NotebookNode, settings: dict[str, Any], log: Path, output: Path | None) -> str:
    """Run the cells, and write the notebook to ``output`` even if they fail. Returns what failed, in words, or "".

    ``log`` gets what the kernel itself prints, which is not the output of cells.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(notebook, **settings)
    try:
        with open(log, "wb") as said:
            client.execute(cleanup_kc=True, stdout=said, stderr=said)
    except CellExecutionError as e:
        return f"a cell failed: {e.ename}: {e.evalue!s}"
    except CellTimeoutError:
        return f"a cell took more than {settings['timeout']:g} s"
    except DeadKernelError:
        text = log.read_text("utf-8", "replace").strip()
        return "the kernel has died" + (f": {text[-1000:]}" if text else "")
    except (RuntimeError, AssertionError) as e:  # nbclient's own assertion hides jupyter_client's RuntimeError
        atexit.unregister(client._cleanup_kernel)  # it would show that assertion once more, when the program ends
        text = log.read_text("utf-8", "replace").strip()
        why = e if isinstance(e, RuntimeError) else e.__context__
        return f"the kernel did not start: {why}" + (f": {text[-1000:]}" if text else "")
    finally:
        if output is not None:
            nbformat.write(notebook, output)
    return ""


@contextlib.contextmanager
def _progress(name: str, cells: int) -> Iterator[Callable[[], None]]:
    """Show in a terminal which cell runs; yields a function to be called when a cell begins."""
    numbers = itertools.count(1)
    seen = sys.stderr is not None and sys.stderr.isatty()

    def begun() -> None:
        if seen:
            print(f"\r\x1b[K{plain_text(name)}: cell {next(numbers)} of {cells}", end="", file=sys.stderr, flush=True)

    try:
        yield begun
    finally:
        if seen:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _parser() -> Parser:
    parser = Parser("run NOTEBOOK", "Run a notebook.")
    parser.add_argument("-t", "--target", metavar="TARGET", help="the server, or several; as before the notebook")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="FILE", help="where to write it with its outputs")
    where.add_argument("--inplace", action="store_true", help="write it back into the same file")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        dest="parameters",
        metavar="NAME=VALUE",
        help="set a variable after the cell tagged parameters, as papermill does; repeatable",
    )
    parser.add_argument("--failed", action="store_true", help="with several servers: only those whose run in -o failed")
    parser.add_argument("--allow-errors", action="store_true", help="go on after a cell that fails")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds that a cell may take")
    return parser


# -- parameters ------------------------------------------------------------------------------------------------------


def parameters(words: list[str]) -> dict[str, Any]:
    """The variables in ``NAME=VALUE`` words; a value that is no Python literal is text. Raises TargetError."""
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name.isidentifier() or keyword.iskeyword(name):
            raise TargetError(f"{word} is not a parameter; write NAME=VALUE, such as alpha=0.5")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name] = text
    return found


def inject(notebook: NotebookNode, given: dict[str, Any]) -> None:
    """Insert a cell that sets ``given`` after the one tagged ``parameters``, or first. It replaces an earlier one.

    The tags are papermill's: https://papermill.readthedocs.io/en/latest/usage-parameterize.html
    """
    if not given:
        return
    from nbformat.v4 import new_code_cell

    source = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in given.items())])
    cell = new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    cells = [one for one in notebook.cells if "injected-parameters" not in _tags(one)]
    at = next((number + 1 for number, one in enumerate(cells) if "parameters" in _tags(one)), 0)
    notebook.cells = [*cells[:at], cell, *cells[at:]]
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        del cell["id"]


def _tags(cell: NotebookNode) -> list[str]:
    tags = cell.metadata.get("tags")
    return tags if isinstance(tags, list) else []


# -- on several servers ----------------------------------------------------------------------------------------------


def _on_each(command: Connecting, path: Path, options: argparse.Namespace) -> int:
    """Run the notebook on each server of a group; write ``NAME.HOST.ipynb`` into the folder of ``-o``, print a table.

    Each has a process of its own. The exit code is 0, 1 if some failed, or 4 if none was reached.
    """
    if not options.output or options.inplace:
        raise TargetError("on several servers each has a notebook of its own; name their folder: -o FOLDER")
    folder = Path(options.output).expanduser()
    chosen = {one.label: one.where for one in select(command.where or "", command.targets())}
    outputs = {label: folder / f"{path.stem}.{folder_of(label)}.ipynb" for label in chosen}
    if options.failed:
        chosen = {label: where for label, where in chosen.items() if not _went_well(outputs[label])}
    if not chosen:
        print("no run has failed: nothing to do")
        return DONE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise TargetError(f"cannot make the folder {folder}: {e.strerror}; name another one") from None
    lines = {
        label: [*_words(command, where), str(path), "-o", str(outputs[label]), *_behind(options)]
        for label, where in chosen.items()
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = dict(zip(lines, pool.map(_one, lines.values()), strict=True))
    return _tell(done, outputs, path)


def _tell(done: dict[str, _Done], outputs: dict[str, Path], path: Path) -> int:
    """Print the table of all runs, and what kept some from success; returns the exit code."""
    rows = [(label, one.state, f"{one.seconds:.1f} s", str(outputs[label])) for label, one in done.items()]
    show_table(("host", "state", "time", "notebook"), rows)
    failed = {label: one.words(path) for label, one in done.items() if one.code != 0}
    if failed:
        print(plain_text(folding.told(failed, diff=False, total=len(done))), file=sys.stderr)
    if all(one.code == 0 for one in done.values()):
        return DONE
    return FAILED if any(one.was_reached for one in done.values()) else NONE_REACHED


@dataclass(frozen=True)
class _Done:
    """One finished run: its exit code, how long it took, and what it printed on stderr."""

    code: int
    seconds: float
    said: str

    @property
    def state(self) -> str:
        """How it ended, in a word or two."""
        return "done" if self.code == 0 else "failed" if self.was_reached else "not reachable"

    def words(self, path: Path) -> str:
        """What kept it from success: the last line that it printed, without what is the same for each host."""
        lines = self.said.strip().splitlines() or ["failed"]
        words = lines[-1].removeprefix("jupyter flame run: ").removeprefix(f"{path}: ")
        return words if self.was_reached else words.removeprefix("a cell failed: ")

    @property
    def was_reached(self) -> bool:
        return self.code == 0 or "cannot reach" not in self.said


def _one(words: list[str]) -> _Done:
    """Run ``jupyter flame run`` with these arguments."""
    begun = time.monotonic()
    line = [sys.executable, "-m", "flame_kernel.cli", "run", *words]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return _Done(done.returncode, time.monotonic() - begun, done.stderr)


def _words(command: Connecting, where: str) -> list[str]:
    """The options of our command line, as arguments of a command for one server."""
    options = vars(command.options)
    words = ["-t", where]
    for name in ("place", "session", "shell", "key_file", "config_file"):
        if options.get(name):
            words += [f"--{'config' if name == 'config_file' else name.replace('_', '-')}", str(options[name])]
    return words


def _behind(options: argparse.Namespace) -> list[str]:
    words = [word for one in options.parameters for word in ("-p", one)]
    words += ["--allow-errors"] if options.allow_errors else []
    return words if options.timeout is None else [*words, "--timeout", str(options.timeout)]


def _went_well(path: Path) -> bool:
    """Whether the notebook of an earlier run exists and none of its cells failed."""
    try:
        notebook = _read(path)
    except TargetError:  # it is missing or incomplete
        return False
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
    return not failed and all(cell.execution_count is not None for cell in cells)


def _environ(command: Connecting) -> dict[str, str]:
    """The variables that tell the kernel where to connect, as an installed kernelspec does."""
    options = vars(command.options)
    if protection(options) or any(options.get(name) for name in ("key", "trust", "rich")):
        raise TargetError(
            "for a notebook, the protection of the link must be in targets.toml: save the server "
            "(jupyter flame targets add) and name it with -t"
        )
    target = command.target()  # so that a wrong target is reported before a kernel is started
    where = command.where
    if where is None and target.location is not None:
        where = target.name or str(target.location)
    environ = {f"FLAME_{name.upper()}": options.get(name) for name in ("place", "session", "shell")}
    environ["FLAME_TARGET"] = where
    if options.get("key_file"):
        environ["FLAME_KEY_FILE"] = os.path.abspath(os.path.expanduser(options["key_file"]))
    elif os.environ.get("FLAME_KEY_FILE"):
        environ["FLAME_KEY_FILE"] = os.environ["FLAME_KEY_FILE"]
    return {name: value or "" for name, value in environ.items()}


def manager(folder: Path, environ: dict[str, str], log: logging.Logger) -> AsyncKernelManager:
    """A kernel manager whose only kernel is ours, for this server; it needs no installed kernelspec."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    name = kernelspec.PLAIN_NAME
    content: dict[str, Any] = kernelspec.kernel_json(name, "Remote Flame", environ)
    place = folder / name
    place.mkdir()
    kernelspec.write(place, content)
    specs = KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name=name, kernel_spec_manager=specs, log=log)
