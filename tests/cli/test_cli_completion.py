"""``jupyter flame completion``: Tab in real shells, and what is offered for each word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from needs import missing
from shell import COMMAND, flame, terminal

pytestmark = pytest.mark.usefixtures("warm_commands")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, str]:
    environ = {"FLAME_CONFIG": str(tmp_path / "targets.toml")}
    for name in ("gpu-box", "gpu-lab"):
        assert flame("targets", "add", name, "localhost:9999", **environ).code == 0
    return environ


def offered(line: str, tmp_path: Path, **environ: str) -> list[str]:
    """What is offered at the end of ``line``, asked for as argcomplete's scripts do."""
    answer = tmp_path / "answer"
    answer.unlink(missing_ok=True)
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
    assert flame(cwd=tmp_path, **(asked | environ)).code == 0
    return [word.rstrip() for word in answer.read_text().splitlines()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flame se", ["sessions", "serve"]),
        ("flame sessions k", ["kill"]),
        ("flame targets ", ["add", "list", "show", "edit", "remove", "default"]),
        ("flame console ", ["gpu-box", "gpu-lab"]),
        ("flame console gpu-b", ["gpu-box"]),
        ("flame sessions gpu-l", ["gpu-lab"]),
        ("flame exec -t gpu-l", ["gpu-lab"]),
        ("flame exec --target gpu-l", ["gpu-lab"]),
        ("flame exec --target=gpu-l", ["--target=gpu-lab"]),
        ("flame install gpu-b", ["gpu-box"]),
        ("flame targets show gpu-b", ["gpu-box"]),
        ("flame exec --place ", ["auto", "process", "child", "main"]),
        ("flame exec --key k", ["keyring"]),
        ("flame exec --tls-p", ["--tls-pin"]),
        ("flame exec --key-file x --ke", ["--key-file"]),  # --key beside it is refused
        ("flame exec --FlameSettings.pl", ["--FlameSettings.place"]),
        ("flame run scr", ["script.py"]),
        ("flame run script.py scr", ["script.py"]),
        ("flame put -t gpu-box scr", ["script.py"]),
        ("flame sync fol", ["folder/"]),
        ("flame sync folder gpu-b", ["gpu-box:"]),
        ("flame completion z", ["zsh"]),
        ("flame remove flame-lab", ["flame-lab"]),
        ("flame nonsense ", []),
        ("flame exec -t gpu-nowhere", []),
        ("-flame targets sh", ["show"]),
        ("lab; /somewhere/jupyter flame targets sh", ["show"]),
    ],
)
def test_what_is_offered(line: str, found: list[str], config: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script.py").touch()
    (tmp_path / "folder").mkdir()
    data = {"JUPYTER_DATA_DIR": str(tmp_path / "data")}
    if "remove" in line:
        assert flame("install", "gpu-lab", "--name", "flame-lab", **config, **data).code == 0
    assert sorted(offered(f"jupyter{line}", tmp_path, **config, **data)) == sorted(found)


def test_jupyter_asks_us(config: dict[str, str], tmp_path: Path) -> None:
    """Where `jupyter` itself is completed by argcomplete, it runs us with its own name taken off."""
    assert offered("jupyter flame targets sh", tmp_path, **config, _ARGCOMPLETE="2") == ["show"]


def test_who_completes_by_argcomplete_alone_finds_us() -> None:
    """`activate-global-python-argcomplete` asks this of a script before it completes it."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "argcomplete._check_console_script", COMMAND], timeout=60
    )
    assert found.returncode == 0


def test_tab_runs_nothing(tmp_path: Path, config: dict[str, str]) -> None:
    """The words of a line that is not finished come with the question; they are not obeyed."""
    line = "jupyter flame targets remove gpu-box "
    answer = str(tmp_path / "answer")
    asked = {
        "_ARGCOMPLETE": "2",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": answer,
    }
    assert flame("targets", "remove", "gpu-box", **asked, **config).code == 0
    assert "gpu-box" in flame("targets", "list", **config).out


def test_what_cannot_be() -> None:
    assert flame("completion").code == 2
    assert flame("completion", "csh").code == 2


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, config: dict[str, str], tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    """A shell at its prompt, with our completion."""
    program = shutil.which(request.param)
    if program is None:
        missing(f"{request.param} (apt-get install {request.param})")
    options = {
        "bash": ["--noprofile", "--norc", "-i"],
        "zsh": ["-f", "-i"],
        "fish": ["--no-config", "-i"],
    }
    home = tmp_path / "home"
    home.mkdir()
    environ = {**os.environ, **config, "HOME": str(home), "TERM": "dumb", "PS1": "$ ", "INPUTRC": os.devnull}
    environ |= {"TMPDIR": str(home), "XDG_RUNTIME_DIR": str(home)}
    environ["PATH"] = os.pathsep.join((str(Path(COMMAND).parent), environ["PATH"]))
    (home / "script-1.py").touch()
    # A completion that `jupyter` has already: it is asked for all but `jupyter flame`.
    script = {
        "bash": "_before() { COMPREPLY=(labyrinth); }; complete -F _before jupyter; "
        'eval "$(jupyter-flame completion bash)"',
        "zsh": "autoload -Uz compinit; compinit -u; _before() { compadd labyrinth }; compdef _before jupyter; "
        'eval "$(jupyter-flame completion zsh)"',
        "fish": "complete -c jupyter -f -n 'not __fish_seen_subcommand_from flame' -a labyrinth; "
        "jupyter-flame completion fish | source",
    }
    with terminal(program, *options[request.param], env=environ, cwd=home) as child:
        child.sendline(script[request.param] + "; echo rea''dy")
        child.expect_exact("ready")
        yield child


TABS = {
    "jupyter flame comp": "letion",
    "jupyter-flame console gpu-b": "ox",
    "true; jupyter flame exec --target=gpu-b": "ox",
    "jupyter flame exec --tls-no": "-verify",
    "jupyter flame sync folder gpu-b": "ox:",
    "jupyter flame run scr": "ipt-1.py",
    "jupyter lab": "yrinth",  # what completed `jupyter` before still does
}


def test_tab(shell: pexpect.spawn[str]) -> None:
    for line, shown in TABS.items():
        shell.send(line + "\t")
        shell.expect_exact(shown)
        shell.send("\x15")  # the line is taken away
