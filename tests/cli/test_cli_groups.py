"""``jupyter flame groups``, and ``-t web``: commands on several servers, folded, as JSON, and by exit code."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill  # noqa: F401  # before its engine, which it loads itself
import pytest
import tomllib
from farside import FlameServer
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from shell import flame

from flame_kernel.cli.papermill_engine import environ
from flame_kernel.cli.subcommands.notebook import _execute
from flame_kernel.errors import TargetError

WARM = ("flame_kernel.group.group", "nbclient", "nbformat", "jupyter_client.kernelspec")
pytestmark = pytest.mark.usefixtures("warm_commands")

HOSTS = ("web1", "web2", "web3")


@pytest.fixture(autouse=True)
def saved(servers: dict[str, FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A targets.toml of the three servers and one that is dead; the user's folder is empty."""
    path = tmp_path / "targets.toml"
    path.touch(mode=0o600)
    text = "".join(
        f'[targets.{name}]\nlocation = "{one.location}"\nplace = "process"\nshell = "mini"\n'
        for name, one in servers.items()
    )
    path.write_text(text + '[targets.dead]\nlocation = "127.0.0.1:9"\n[groups.web]\nmembers = ["web*"]\n')
    monkeypatch.setenv("FLAME_CONFIG", str(path))
    return path


def test_groups_are_saved_listed_and_removed(saved: Path) -> None:
    assert flame("groups", "add", "some", "web1", "dead", "--default").out.endswith(": web1, dead\n")
    listed = flame("groups", "list").out.splitlines()
    assert listed[0].split() == ["group", "members", "servers"]
    assert listed[1].split() == ["web", "web*", "web[1-3]"]
    assert listed[2].startswith("some (default)")
    assert json.loads(flame("groups", "list", "--json").out)["some"] == {"members": ["web1", "dead"], "default": True}
    shown = flame("groups", "show", "web,-web2").out.splitlines()
    assert [line.split()[0] for line in shown] == ["host", "web1", "web3"]
    assert flame("groups", "default").out == "the default group is some\n"
    assert flame("groups", "default", "--none").out == "there is no default group\n"
    assert flame("groups", "remove", "some").out == "removed group 'some'\n"
    for words in (("groups", "remove", "some"), ("groups", "default", "some"), ("groups", "show", "some")):
        done = flame(*words)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "'some'" in done.err
    done = flame("groups", "add", "bad name", "web1")
    assert (done.code, "no usable name" in done.err) == (1, True)
    assert "bad name" not in saved.read_text()


def test_statements_on_all_are_told_once() -> None:
    done = flame("exec", "-t", "web", "print('hello'); 6 * 7")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("hello") == 1
    assert "all 3 hosts: web[1-3]" in done.out
    assert flame("eval", "-t", "web1,web2", "6 * 7").out.splitlines()[1] == "42"


def test_those_that_fail_are_told_apart() -> None:
    done = flame("exec", "-t", "web1,dead", "print('hello')")
    assert done.code == 1
    assert "hello" in done.out
    assert "dead" not in done.out.replace("1 of 2 hosts", "")
    assert "not reachable: dead" in done.err
    done = flame("exec", "-t", "web", "1 / 0")
    assert done.code == 1
    assert done.err.count("ZeroDivisionError: division by zero") == 1
    assert flame("exec", "-t", "dead,127.0.0.1:10", "1").code == 4
    done = flame("exec", "-t", "web,nobody", "1")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_a_line_of_json_for_each() -> None:
    done = flame("exec", "-t", "web1,dead", "--json", "print('x'); 3")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(line["host"], line["status"], line["value"]) for line in lines] == [
        ("web1", "ok", "3"),
        ("dead", "unreachable", None),
    ]
    assert lines[0]["stdout"] == "x\n3\n"
    assert "connection refused" in lines[1]["error"]
    lines = [json.loads(line) for line in flame("eval", "-t", "web", "--json", "[1, None]").out.splitlines()]
    assert [line["value"] for line in lines] == [[1, None]] * 3
    assert flame("exec", "-t", "web1", "--json", "1").code == 1


def test_files_to_all_and_from_all(servers: dict[str, FlameServer], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    done = flame("put", str(tmp_path / "a.txt"), "web:sent.txt")
    assert (done.code, done.err) == (0, "")
    assert "all 3 hosts" in done.out
    for one in servers.values():
        assert (Path(one.cwd) / "sent.txt").read_text() == "hello"
    done = flame("get", "-q", "web:sent.txt", str(tmp_path / "back"))
    assert (done.code, done.out) == (0, "")
    assert sorted(path.parent.name for path in (tmp_path / "back").rglob("sent.txt")) == list(HOSTS)
    done = flame("get", "web:no-such.txt", str(tmp_path / "back"))
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[1:] == ["TransferError: 'no-such.txt' not found there; check the path"]


def notebook(path: Path, *sources: str) -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    made.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(made, path)
    return path


def outputs(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [output.get("text", output.output_type) for cell in cells for output in cell.get("outputs", ())]


def test_a_notebook_on_every_host(servers: dict[str, FlameServer], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    path = notebook(
        tmp_path / "nb.ipynb",
        "alpha = 0\nword = ''",
        "import os\nprint(alpha * 2, word)",
        f"if os.getpid() == {servers['web2'].pid} and not os.path.exists({str(gate)!r}): raise ValueError('not yet')",
    )
    out = tmp_path / "out"
    options = ("run", "-t", "web", str(path), "-o", str(out), "-p", "alpha=21", "-p", "word=two words")
    done = flame(*options)
    assert done.code == 1
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert "done" in rows["web1"]
    assert "failed" in rows["web2"]
    assert done.err.splitlines()[1:] == ["a cell failed: ValueError: not yet"]
    assert sorted(one.name for one in out.iterdir()) == [f"nb.{name}.ipynb" for name in HOSTS]
    assert outputs(out / "nb.web1.ipynb") == ["42 two words\n"]
    assert outputs(out / "nb.web2.ipynb") == ["42 two words\n", "error"]
    gate.touch()
    again = flame(*options, "--failed")
    assert (again.code, [line.split()[0] for line in again.out.splitlines()]) == (0, ["host", "web2"])
    assert flame(*options, "--failed").out == "no run has failed: nothing to do\n"


def test_a_notebook_with_parameters_on_one(tmp_path: Path) -> None:
    path = notebook(tmp_path / "nb.ipynb", "alpha = 0", "print(alpha)")
    done = flame("run", "-t", "web1", str(path), "-o", str(tmp_path / "done.ipynb"), "-p", "alpha=[1, 'x']")
    assert done.code == 0, done.err
    assert outputs(tmp_path / "done.ipynb") == ["[1, 'x']\n"]
    for words, said in (
        (("-p", "3=4"), "3=4 is not a parameter"),
        (("--failed",), "--failed is for several servers"),
    ):
        done = flame("run", "-t", "web1", str(path), *words)
        assert (done.code, said in done.err, done.err.count("\n")) == (1, True, 1)
    done = flame("run", "-t", "web", str(path))
    assert (done.code, "-o FOLDER" in done.err) == (1, True)


def test_a_notebook_has_no_results_of_another_run(tmp_path: Path) -> None:
    path = notebook(tmp_path / "nb.ipynb", "print('mine')", "1 / 0", "print('never')")
    stale = nbformat.read(path, as_version=4)
    for cell in stale.cells:
        cell.execution_count = 7
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="of another run")]
    nbformat.write(stale, path)
    out = tmp_path / "out"
    assert flame("run", str(path), "-t", "web1,web2", "-o", str(out)).code == 1
    assert outputs(out / "nb.web2.ipynb") == ["mine\n", "error"]


def test_a_script_on_every_host(servers: dict[str, FlameServer], tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def word():\n    return 'helped'\n")
    script = tmp_path / "job.py"
    script.write_text(
        "import os, sys, helper\nprint(helper.word(), sys.argv[1:], repr(sys.stdin.read()))\n"
        f"if os.getpid() == {servers['web2'].pid} and 'fail' in sys.argv:\n    sys.exit(3)\n"
    )
    done = flame("run", "-t", "web", str(script), "--epochs", "3", stdin="never read")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("helped ['--epochs', '3'] ''") == 1
    assert "all 3 hosts: web[1-3]" in done.out
    done = flame("run", "-t", "web", str(script), "fail")
    assert done.code == 1
    assert "helped" in done.out
    assert "failed: web2" in done.err
    assert "exit status 3" in done.err
    lines = [json.loads(line) for line in flame("run", "-t", "web", "--json", str(script), "fail").out.splitlines()]
    assert [(one["host"], one["status"], one["exit_status"]) for one in lines] == [
        ("web1", "ok", 0),
        ("web2", "error", 3),
        ("web3", "ok", 0),
    ]
    script.write_text("import sys\nsys.exit(0)\n")
    assert flame("run", "-t", "web", str(script)).code == 0
    assert flame("run", "-t", "dead,127.0.0.1:10", str(script)).code == 4
    assert flame("run", "-t", "web,dead", str(script)).code == 1
    done = flame("run", "-t", "web1", "--json", str(script))
    assert (done.code, "--json is for several servers" in done.err) == (1, True)


def test_exit_in_statements_on_all() -> None:
    assert flame("exec", "-t", "web", "import sys; print('x'); sys.exit(0)").code == 0
    done = flame("exec", "-t", "web", "import sys; sys.exit('no luck')")
    assert (done.code, "SystemExit: no luck" in done.err) == (1, True)


def test_a_shell_command_where_there_is_no_ipython() -> None:
    done = flame("exec", "-t", "web", "!echo by the shell")
    assert (done.code, done.out.count("by the shell"), done.err) == (0, 1, "")


def test_a_folder_to_all_and_from_all(servers: dict[str, FlameServer], tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.txt").write_text("a")
    done = flame("sync", f"{source}/", "web:project", "--dry-run")
    assert (done.code, "would do" in done.out) == (0, True)
    assert not (Path(servers["web1"].cwd) / "project").exists()
    done = flame("sync", f"{source}/", "web:project")
    assert (done.code, done.err) == (0, "")
    assert "all 3 hosts" in done.out
    for name, one in servers.items():
        assert (Path(one.cwd) / "project" / "a.txt").read_text() == "a"
        (Path(one.cwd) / "project" / "who.txt").write_text(name)
    done = flame("sync", "-t", "web,dead", ":project/", str(tmp_path / "back"))
    assert (done.code, "not reachable: dead" in done.err) == (1, True)
    assert {name: (tmp_path / "back" / name / "who.txt").read_text() for name in HOSTS} == {n: n for n in HOSTS}


def test_pip_of_every_host() -> None:
    done = flame("pip", "-t", "web", "--", "--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("pip 2") == 1
    assert "all 3 hosts" in done.out
    done = flame("pip", "-t", "web", "no-such-command")
    assert (done.code, done.err.count("exit status 1")) == (1, 1)
    assert flame("pip", "-t", "web1", "--", "--version").out.startswith("pip ")
    assert flame("pip", "-t", "web1", "no-such-command").code == 1
    done = flame("pip", "-t", "dead,127.0.0.1:10", "list")
    assert (done.code, done.err.count("hosts failed")) == (4, 0)
    assert done.err.startswith("dead: cannot reach the flame server at 127.0.0.1:9: ")


def test_a_notebook_whose_kernel_never_answers(tmp_path: Path) -> None:
    spec = tmp_path / "kernels" / "mute"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["sleep", "60"], "display_name": "mute", "language": "-"}))
    specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    settings: dict[str, Any] = {
        "km": AsyncKernelManager(kernel_name="mute", kernel_spec_manager=specs),
        "startup_timeout": 1,
    }
    settings["log"] = logging.getLogger("flame.notebook")
    settings["log"].setLevel(logging.CRITICAL)  # as the command does: nbclient says in its log what it raises
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    said = _execute(made, settings, tmp_path / "log", None)
    assert said == "the kernel did not start: Kernel didn't respond in 1 seconds"


PAPERMILL = """
import importlib, sys, papermill
module, _, name = sys.argv[1].partition(":")
papermill.engines.papermill_engines.register("flame", getattr(importlib.import_module(module), name))
options = {"engine_name": "flame", "language": "python", "progress_bar": False}
papermill.execute_notebook(sys.argv[2], sys.argv[3], {"alpha": 21}, kernel_name=sys.argv[4], **options)
"""


@pytest.mark.timeout(240)  # two processes load much
def test_papermills_engine_on_a_member(tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    engine = project["project"]["entry-points"]["papermill.engine"]["flame"]
    path, out = notebook(tmp_path / "nb.ipynb", "alpha = 0", "print(alpha * 2)"), tmp_path / "done.ipynb"
    line = [sys.executable, "-c", PAPERMILL, engine, str(path), str(out)]
    done = subprocess.run([*line, "web1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert outputs(out) == ["42\n"]
    with pytest.raises(TargetError, match="there is no target or kernel 'web9'"):
        environ("web9")
    assert environ("web") == {"FLAME_TARGET": "web"}


@pytest.mark.timeout(240)  # two kernels start
def test_a_kernel_of_a_group_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    assert "Installed kernelspec flame-web" in flame("install", "web").out
    written = json.loads((tmp_path / "data" / "kernels" / "flame-web" / "kernel.json").read_text())
    assert (written["display_name"], written["env"]["FLAME_TARGET"]) == ("Remote Flame: web", "web")
    assert "flame-web1" in flame("install", "web1").out
    cells = [nbformat.v4.new_code_cell(source) for source in ("n = 21", "print(n * 2)")]
    for name, told in (("flame-web", "all 3 hosts: web[1-3]"), ("flame-web1", "42")):
        done_there = NotebookClient(nbformat.v4.new_notebook(cells=copy.deepcopy(cells)), kernel_name=name).execute()
        (output,) = done_there.cells[1].outputs
        assert told in output.text
        assert output.text.endswith("42\n")
    done = flame("install", "web,nobody")
    assert (done.code, "nobody" in done.err, done.err.count("\n")) == (1, True, 1)
