"""``jupyter flame completion``: Tab in real shells, and what is offered for each word."""

from __future__ import annotations

import os
import shutil
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


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["se"], ["sessions", "serve"]),
        (["sessions", "k"], ["kill"]),
        (["targets", ""], ["add", "list", "show", "edit", "remove", "default"]),
        (["console", ""], ["gpu-box", "gpu-lab"]),
        (["console", "gpu-b"], ["gpu-box"]),
        (["sessions", "gpu-l"], ["gpu-lab"]),
        (["exec", "-t", "gpu-l"], ["gpu-lab"]),
        (["exec", "--target", "gpu-l"], ["gpu-lab"]),
        (["install", "gpu-b"], ["gpu-box"]),
        (["targets", "show", "gpu-b"], ["gpu-box"]),
        (["exec", "--place", ""], ["auto", "process", "child", "main"]),
        (["exec", "--tls-p"], ["--tls-pin"]),
        (["run", ""], ["[files]"]),
        (["put", "-t", "gpu-box", "a"], ["[files]"]),
        (["completion", "z"], ["zsh"]),
        (["nonsense", ""], []),
    ],
)
def test_what_is_offered(words: list[str], found: list[str], config: dict[str, str]) -> None:
    done = flame("completion", "--words", *words, **config)
    assert (done.code, done.out.split()) == (0, found), done


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
    script = {
        "bash": 'eval "$(jupyter-flame completion bash)"',
        "zsh": 'autoload -Uz compinit; compinit -u; eval "$(jupyter-flame completion zsh)"',
        "fish": "jupyter-flame completion fish | source",
    }
    with terminal(program, *options[request.param], env=environ, cwd=home) as child:
        child.sendline(script[request.param] + "; echo rea''dy")
        child.expect_exact("ready")
        yield child


def test_tab(shell: pexpect.spawn[str]) -> None:
    shell.send("echo jupyter flame; : jupyter flame\x15")
    shell.send("jupyter flame comp\t")
    shell.expect_exact("letion")
    shell.send("b\t")
    shell.expect_exact("ash")
    shell.send("\x15jupyter-flame console gpu-b\t")
    shell.expect_exact("ox")
    shell.send("\x15\n")
