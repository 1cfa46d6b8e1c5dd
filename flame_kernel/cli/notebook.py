"""A notebook run from a shell: nbclient, and our kernel on the server that is meant."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.options import protection
from ..connect.installation import pip_install
from ..errors import TargetError
from ..terminal import plain_text
from . import kernelspec
from .command import FAILED
from .connecting import Connecting
from .parser import Parser

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode


def run(command: Connecting, file: str, words: list[str]) -> int | None:
    """Run the notebook ``file`` with the options ``words`` behind it; the exit code."""
    options = _parser().parse_args(words)
    _check_libraries()
    path = Path(file).expanduser()
    notebook = _read(path)
    output = path if options.inplace else Path(options.output).expanduser() if options.output else None
    if output is not None and not output.absolute().parent.is_dir():
        raise TargetError(f"the folder {output.absolute().parent} for the result does not exist; create it first")
    cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    environ = _environ(command)
    log = logging.getLogger("flame.notebook")
    log.setLevel(command.log_level if command.log_level == logging.DEBUG else logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="flame-") as folder, _progress(path.name, cells) as begun:
        settings = {
            "km": _manager(Path(folder), environ, log),
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
    except Exception as e:  # nbformat's own, json's, and what a file that is none may bring about
        raise TargetError(f"{path} is not a notebook: {str(e).splitlines()[0]}") from None
    return notebook


def _execute(notebook: NotebookNode, settings: dict[str, Any], log: Path, output: Path | None) -> str:
    """Run the cells, and write the notebook to ``output`` whatever becomes of them; what failed, in words, or "".

    ``log`` takes what the kernel itself says, which is no output of cells.
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
    finally:
        if output is not None:
            nbformat.write(notebook, output)
    return ""


@contextlib.contextmanager
def _progress(name: str, cells: int) -> Iterator[Callable[[], None]]:
    """Tell a terminal which of the cells runs; gives what is called when one begins."""
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
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", metavar="FILE", help="where to write it with its outputs")
    where.add_argument("--inplace", action="store_true", help="write it back")
    parser.add_argument("--allow-errors", action="store_true", help="go on behind a cell that fails")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds that a cell may take")
    return parser


def _environ(command: Connecting) -> dict[str, str]:
    """What tells the kernel where to go, as an installed kernelspec does."""
    options = vars(command.options)
    if protection(options) or options.get("key") or options.get("trust"):
        raise TargetError(
            "for a notebook, the protection of the link must be in targets.toml: save the server "
            "(jupyter flame targets add) and name it with -t"
        )
    target = command.target()  # says what is wrong with it before a kernel is started
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


def _manager(folder: Path, environ: dict[str, str], log: logging.Logger) -> AsyncKernelManager:
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
