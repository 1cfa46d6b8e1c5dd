"""The folder of a notebook holds files with the names of what we import: none of them ever runs for us.

Every name of the standard library, and of what is installed here, lies there as a module that says that it ran.  What
the user's own cells import comes from the folder, as with ipykernel.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from debugging import front
from farside import LiveApp, Python, clean_environ, wait_until
from kernels import Kernel, remote_flame

from flame_kernel.agent.wire import launch
from flame_kernel.cli import kernelspec

SAYS = "open({log!r}, 'a').write(__name__ + ' ')\n"
# In the kernel's own process, and in a child that has no IPython, there is less of it; these are always tried.
NAMED = frozenset(
    """
    jedi parso typing_extensions IPython traitlets decorator psutil numpy sitecustomize
    usercustomize flame flame_kernel Pyro4 serpent json stack_data executing asttokens
    pure_eval pygments matplotlib_inline comm debugpy pydevd pydevd_plugins ipywidgets cloudpickle
    zoneinfo opcode runpy keyring hypno tomlkit tqdm zmq
    """.split()  # noqa: SIM905
)


PYTHONS_OWN = {"sitecustomize", "usercustomize", "runpy", "zoneinfo", "opcode", "json"}


class Planted:
    """A folder full of such files; ``ran`` is what has run of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.parent / "ran"
        folder.mkdir()
        names = {*NAMED, *getattr(sys, "stdlib_module_names", ())}
        for name, packages in importlib.metadata.packages_distributions().items():
            if name.isidentifier() and packages:
                names.add(name)
        says = SAYS.format(log=str(self.log))
        for name in sorted(names - {"__main__"}):
            (folder / f"{name}.py").write_text(says + "raise ImportError('from the folder')\n")
        for name in ("debugpy", "pydevd_plugins/extensions", "psutil", "_pydevd_bundle"):  # packages, and parts of them
            (folder / name).mkdir(parents=True)
            for part in (Path(name), *Path(name).parents[:-1]):
                (folder / part / "__init__.py").write_text(says)
            (folder / name / "types").mkdir()
            (folder / name / "types" / "__init__.py").write_text(says)
            (folder / name / "pydevd_plugin_evil.py").write_text(says)
        for name in ("ipython_config", "jupyter_flame_config", "jupyter_config", "ipython_kernel_config"):
            (folder / f"{name}.py").write_text(SAYS.format(log=str(self.log)).replace("__name__", repr(name)))
        (folder / "profile_default").mkdir()
        (folder / "profile_default" / "ipython_config.py").write_text(says.replace("__name__", "'profile'"))
        (folder / "evil.pth").write_text(f"import sys; open({str(self.log)!r}, 'a').write('pth ')\n")
        (folder / "targets.toml").write_text('default = "x"\n[targets.x]\nlocation = "localhost:1"\n')
        (folder / "__pycache__").mkdir()
        made = subprocess.run(
            [sys.executable, "-c", "import py_compile; py_compile.compile('jedi.py', 'jedi.pyc')"],
            cwd=folder,
            env={"PYTHONSAFEPATH": "1"} if sys.version_info >= (3, 11) else None,
            capture_output=True,
        )
        assert made.returncode == 0 or sys.version_info < (3, 11), made.stderr
        self.log.unlink(missing_ok=True)
        (folder / "mymodule.py").write_text("import mysecond\nvalue = 42 + mysecond.value\n")
        (folder / "mysecond.py").write_text("value = 0\n")
        (folder / "mypackage").mkdir()
        (folder / "mypackage" / "__init__.py").write_text("from .inner import value\n")
        (folder / "mypackage" / "inner.py").write_text("value = 7\n")

    @property
    def ran(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "notebooks")


def warmed(folder: Path) -> bool:
    """Whether jedi has kept there what it has parsed: a child's preparation for the first Tab is over."""
    return any(folder.rglob("*.pkl"))


def use(kernel: Kernel) -> None:
    """What a user does all day: each of these imports something, of IPython's, jedi's or ours."""
    wait_until(lambda: kernel.complete("import os\nos.path.jo")["matches"], "a completion", 30)
    assert kernel.inspect("print")["found"]
    kernel.complete("from mypackage import ")
    for code in (
        "1 / 0",
        "def f(:",
        "from IPython.display import display, HTML, Markdown\ndisplay(HTML('<b>x</b>'), Markdown('x'))",
        "%timeit -n1 -r1 1",
        "%prun 1",
        "%who",
        "%history -n 1",
        "!true",
        "print?",
        "print??",
        "%matplotlib inline",
        "await __import__('asyncio').sleep(0)",
        "%lsmagic",
        "%%script cat\nx",
        "{'a': [1.5, 2j, b'x']}",
    ):
        kernel.execute(code)
    kernel.usage()


def test_opening_a_notebook_runs_nothing_of_its_folder(planted: Planted, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "jedi").mkdir(parents=True)
    with remote_flame(cwd=planted.folder, env={"XDG_CACHE_HOME": str(cache)}) as kernel:
        kernel.ask("comm_info_request")
        assert planted.ran == []
        kernel.execute("1")
        wait_until(lambda: warmed(cache), "the preparation for the first completion", 60)
        assert planted.ran == []


@pytest.mark.parametrize(("shell", "path"), [("ipython", None), ("mini", None), ("ipython", ":/nonexistent")])
def test_what_we_import_never_comes_from_the_folder(planted: Planted, shell: str, path: str | None) -> None:
    env: dict[str, str | None] = {"FLAME_SHELL": shell}
    if path is not None:  # with it Python itself imports from there, before any program begins: no more than these
        for file in planted.folder.glob("*.py"):
            if not file.stem.startswith("my") and file.stem not in NAMED - PYTHONS_OWN:
                file.unlink()
        env["PYTHONPATH"] = path
    with remote_flame(cwd=planted.folder, env=env) as kernel:
        use(kernel)
        assert planted.ran == []
        assert kernel.execute("import mymodule, mypackage\nmymodule.value, mypackage.value").result == "(42, 7)"
        assert kernel.execute("import sys; sys.path[0]").result == "''"
        # The user may mean those that lie there, where they are not loaded yet; he is asked for no other.
        assert kernel.execute("import flame").error
        assert planted.ran == ["flame"]


def test_the_debugger_never_comes_from_the_folder(planted: Planted) -> None:
    with remote_flame(cwd=planted.folder) as kernel:
        kernel.execute("import sys\nsys.path.append('.')\nx = 1")
        with front(kernel) as debugger:
            code = "y = 2\nz = y + 1"
            debugger.breakpoints(code, 2)
            run = debugger.run_to_stop(code)
            assert debugger.stack()[0][1] == 2
            debugger.go_on(run)
        assert planted.ran == []
        assert kernel.execute("import pydevd\npydevd.__file__").result == repr(_installed("pydevd"))


def _installed(name: str) -> str:
    code = f"import debugpy.server.api, {name}; print({name}.__file__)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_folder_that_cells_put_onto_the_path_holds_nothing_of_ours(planted: Planted) -> None:
    (planted.folder / "src").mkdir()
    for name in ("jedi", "debugpy", "stack_data"):
        (planted.folder / "src" / f"{name}.py").write_text(SAYS.format(log=str(planted.log)))
    with remote_flame(cwd=planted.folder) as kernel:
        kernel.execute(
            f"import sys, os\nsys.path[:0] = ['src', os.getcwd(), os.path.abspath('src'), {str(planted.folder)!r}]"
        )
        use(kernel)
        with front(kernel):
            pass
        assert planted.ran == []
        kernel.execute("%cd src")
        use(kernel)
        assert planted.ran == []


def test_users_modules_are_found_by_every_way_of_importing(planted: Planted) -> None:
    for name in ("timeit", "pickle", "runpy", "unittest", "importlib", "cProfile", "profile", "doctest"):
        (planted.folder / f"{name}.py").unlink()
    (planted.folder / "myscript.py").write_text("import mymodule\nprint(mymodule.value)\n")
    (planted.folder / "myext.py").write_text("def load_ipython_extension(ip): print('loaded')\n")
    fresh = "import sys; sys.modules.pop('mymodule', None)\n"
    with remote_flame(cwd=planted.folder) as kernel:
        for code, printed in {
            "import importlib; print(importlib.import_module('mymodule').value)": "42\n",
            "print(__import__('mymodule').value)": "42\n",
            "exec('import mymodule', {})\nprint(sys.modules['mymodule'].value)": "42\n",
            "import timeit; timeit.timeit('import mymodule; print(mymodule.value)', number=1)": "42\n",
            "import pickle; print(pickle.loads(b'cmymodule\\nvalue\\n.'))": "42\n",
            "import pickle; print(pickle._loads(b'cmymodule\\nvalue\\n.'))": "42\n",
            "%run myscript.py": "42\n",
            "%run -m myscript": "42\n",
            "import runpy; _ = runpy.run_module('myscript')": "42\n",
            "%load_ext myext": "loaded\n",
            "import threading; t = threading.Thread(target=__import__, args=('mymodule',)); t.start(); t.join()\n"
            "print(sys.modules['mymodule'].value)": "42\n",
            "import mymodule, importlib; open('mymodule.py', 'w').write('value = 5'); importlib.invalidate_caches()\n"
            "import os; os.utime('mymodule.py', (1, 1)); print(importlib.reload(mymodule).value)": "5\n",
        }.items():
            run = kernel.execute(code if code.startswith("%") else fresh + code)
            assert run.stdout.endswith(printed), run
        assert planted.ran == []


def test_a_child_of_every_python_keeps_its_imports_out_of_the_folder(
    each_python: Python, live_app: Callable[..., LiveApp], planted: Planted
) -> None:
    for name in ("sitecustomize", "usercustomize"):
        (planted.folder / f"{name}.py").unlink()
    server = live_app(each_python)
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_PLACE": "process"}) as kernel:
        kernel.execute(f"import os; os.chdir({str(planted.folder)!r})")
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_PLACE": "child"}) as kernel:
        kernel.complete("import os\nos.path.jo")
        kernel.inspect("print")
        for code in ("1 / 0", "%timeit -n1 -r1 1", "%who", "print?", "await __import__('asyncio').sleep(0)"):
            kernel.execute(code)
        if "debugger" in kernel.kernel_info()["supported_features"]:
            with front(kernel):
                pass
        assert planted.ran == []
        assert kernel.execute("import mymodule\nmymodule.value").result == "42"


@pytest.mark.parametrize("words", [["--help"], ["doctor"], ["sessions", "localhost:1"], ["run", "-"]], ids=" ".join)
@pytest.mark.parametrize("how", ["script", "module"])
def test_commands_import_nothing_of_the_folder(planted: Planted, words: list[str], how: str) -> None:
    if how == "module":
        for name in ("flame_kernel", "runpy", *getattr(sys, "stdlib_module_names", ())):
            (planted.folder / f"{name}.py").unlink(missing_ok=True)  # what Python itself takes for ``-m``
        start = [sys.executable, "-m", "flame_kernel.cli.__main__"]
    else:
        start = [str(Path(sys.executable).parent / "jupyter-flame")]
    subprocess.run([*start, *words], cwd=planted.folder, input="1", text=True, capture_output=True, timeout=60)
    assert planted.ran == []


def test_a_server_begins_without_the_folder(planted: Planted) -> None:
    command = [str(Path(sys.executable).parent / "jupyter-flame"), "serve"]
    environ = {**clean_environ(), "PYTHONPATH": str(planted.folder.parent / "elsewhere")}
    with subprocess.Popen(command, cwd=planted.folder, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert "Flame server at" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert planted.ran == []


def test_the_kernelspec_says_what_all_programs_of_ours_begin_with(planted: Planted) -> None:
    """``kernel.json`` cannot import it; run in the folder with it on PYTHONPATH, both leave the same path."""
    argv = json.loads((kernelspec.PLAIN / "kernel.json").read_text())["argv"]
    begins = argv[argv.index("-c") + 1].partition("from flame_kernel")[0]
    for name in ("sitecustomize", "usercustomize", *getattr(sys, "stdlib_module_names", ())):
        (planted.folder / f"{name}.py").unlink(missing_ok=True)
    paths = [
        subprocess.run(
            [sys.executable, "-c", start + "\nprint(sys.path)"],
            cwd=planted.folder,
            env={**os.environ, "PYTHONPATH": f":{planted.folder}:/else"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for start in (begins, launch.LEAVE_FOLDER)
    ]
    assert paths[0] == paths[1]
    assert str(planted.folder) not in paths[0]
    assert "/else" in paths[0]
