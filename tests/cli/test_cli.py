"""``jupyter flame``: its words, its exit codes (0 done, 1 not possible, 2 no such command), certificates, targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jupyter_core.application import JupyterApp
from traitlets.config import Application

from flame_kernel import __version__
from flame_kernel.cli import application, index
from flame_kernel.cli.subcommands import sessions, targets
from flame_kernel.connect.keys import Secret
from flame_kernel.connect.target import load_target

ROOT = Path(__file__).parents[2]

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def flame(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``flame("targets list")`` runs a command in this process: ``(exit code, stdout, stderr)``."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            application.FlameApp.launch_instance(line.split())
        Application._instance = None
        _forget(JupyterApp)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    return run


def _forget(kind: type) -> None:
    """A process has one application; here it has one after the other."""
    kind._instance = None  # type: ignore[attr-defined]
    for sub in kind.__subclasses__():
        _forget(sub)


def test_the_console_script() -> None:
    """The script's entry in pyproject.toml is that function; and it starts nothing heavy to show its help."""
    assert 'jupyter-flame = "flame_kernel.cli.__main__:main"' in (ROOT / "pyproject.toml").read_text()
    script = "import sys; from flame_kernel.cli.__main__ import main; sys.argv = ['jupyter-flame', '--help']; main()"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert "usage: jupyter flame COMMAND" in done.stdout
    for library in ("Pyro4", "ipykernel", "IPython", "cryptography", "zmq"):
        assert f" {library}\n" not in done.stderr


def test_every_command_teaches(flame: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    groups = {
        "": index.COMMANDS,
        "targets ": targets.Targets.commands,
        "sessions ": sessions.Sessions.commands,
    }
    for group, commands in groups.items():
        code, out, _ = flame(f"{group}--help")
        assert code == 0
        for name, (_, about) in commands.items():
            assert f"  {name} " in out
            assert about in out
            code, text, _ = flame(f"{group}{name} --help")
            assert code == 0
            assert text.startswith(f"usage: jupyter flame {group}{name}")
            assert flame(f"help {group}{name}")[1] == text
            # What is typed comes first: the examples stand above the options, and what all share is one paragraph.
            lines = text.splitlines()
            assert max(map(len, lines)) <= 100
            assert len(lines) <= 60  # a screen
            assert "--config FILE " not in text
            if "examples:" in lines and "options:" in lines:
                assert lines.index("examples:") < lines.index("options:")
            if "COMMAND" in lines[0]:
                continue
            assert lines[-1] == f"jupyter flame {group}{name} --help-all explains every option."
            code, everything, _ = flame(f"{group}{name} --help-all")
            assert (code, "--config FILE " in everything) == (0, True)
            assert max(map(len, everything.splitlines())) <= 100
    code, out, _ = flame("serve --help")
    assert "examples:\n  jupyter flame serve\n" in out
    code, out, _ = flame("--version")
    assert (code, out) == (0, __version__ + "\n")


@pytest.mark.parametrize(
    ("line", "says"),
    {
        "": "commands:",
        "nonsense": "there is no command 'nonsense'; jupyter flame --help lists them",
        "consoel": "there is no command 'consoel'. Did you mean console?",
        "connect pi": "'connect': each command here connects to the server that -t names;",
        "where": "there is no command 'where': it is a notebook's, as %flame where; jupyter flame --help lists them",
        "conect": "there is no command 'conect'; jupyter flame --help lists them",
        "targets": "jupyter flame targets COMMAND",
        "targets nonsense": "there is no command 'nonsense'",
        "targets ad": "jupyter flame targets: there is no command 'ad'. Did you mean add?",
        "targets add": "required: NAME, WHERE",
        "targets add a h:1 --key-file x --key prompt": "not allowed with",
        "targets default": "required",
        "targets edit a --unset nonsense": "invalid choice",
        "serve --port x": "invalid int value",
        "serve --nonsense": "there is no option --nonsense; jupyter flame serve --help",
        "serve --nosuch": "there is no option --nosuch; jupyter flame serve --help",
        "serve --prot 7": "there is no option --prot. Did you mean --port?",
        "serve --prot=7": "there is no option --prot. Did you mean --port?",
        "serve more": "one word too many: 'more'; jupyter flame serve --help",
        "serve and more": "words too many: and more",
        "certs": "required: FOLDER",
    }.items(),
)
def test_what_is_not_well_formed(line: str, says: str, flame: Run) -> None:
    code, out, err = flame(line)
    assert code == 2
    assert says in err
    assert out == ""
    assert err.count("\n") == 1 or line in ("", "targets")  # one sentence, and no wall of usage


@pytest.mark.parametrize(
    ("line", "says"),
    {
        "targets show a": "there is no target 'a'",
        "targets edit a --trust": "there is no target 'a'",
        "targets remove a": "there is no target 'a'",
        "targets default a": "there is no target 'a'",
        "targets add a nonsense": "has no port",
        "targets add a h:99999": "no usable port",
        "targets add a h:1 --key sesame": "must say where the key is",
        "targets add a h:1 --linger often": "give a time such as",
        "certs there": "nothing to certify",
        "certs there --client a/b": "not a usable name",
        "certs there --client me --days 0": "0 is not a number of days",
        "serve --host 0.0.0.0": "others can reach 0.0.0.0, so TLS is needed there",
        "serve --tls nowhere": "there is no server.pem in",
        "serve --python /no/such": "no interpreter",
        "serve --key-file no/such/folder/key": "cannot write the key file",
    }.items(),
)
def test_what_cannot_be(line: str, says: str, flame: Run) -> None:
    code, _, err = flame(line)
    assert code == 1
    assert says in err
    assert err.count("\n") == 1
    command = line.split()[: 2 if line.startswith("targets") else 1]
    assert err.startswith(f"jupyter flame {' '.join(command)}: ")
    assert "sesame" not in err


def test_targets_from_the_first_to_the_last(flame: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flame("targets list")[1].startswith("no servers saved in ")
    key = tmp_path / "lab.key"
    key.touch(mode=0o600)
    key.write_text("k" * 64)
    typed = "add lab lab.example:9999 --key-file lab.key --tls-ca ca.pem --tls-cert me.pem --place child --default"
    code, out, _ = flame("targets " + typed)
    assert (code, out.splitlines()[-1].endswith("use it with: %flame connect lab")) == (0, True)
    file = tmp_path / "config" / "targets.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "k" * 64 not in file.read_text()
    target = load_target("lab", environ={}, config_dir=tmp_path / "config")
    assert (target.key, target.place) == (Secret(b"k" * 64), "child")
    assert target.tls is not None
    assert (target.tls.ca, target.tls.certificate) == (str(tmp_path / "ca.pem"), str(tmp_path / "me.pem"))

    assert flame("targets add lab h:1")[0] == 1
    assert flame("targets add gpu ssh://me@gpu/9999 --trust --key env:GPU_KEY --fast")[0] == 0
    listed = json.loads(flame("targets list --json")[1])
    assert [(one["name"], one["default"], one["location"]) for one in listed] == [
        ("lab", True, "lab.example:9999"),
        ("gpu", False, "ssh://me@gpu/9999"),
    ]
    out = flame("targets list")[1]
    assert out.splitlines() == [
        "  target  server             protected by",
        "* lab     lab.example:9999   TLS, key",
        "  gpu     ssh://me@gpu/9999  ssh, key, trusted",
    ]

    assert flame("targets edit lab --key prompt --unset tls --where other:1 --allow-plain")[0] == 0
    out = flame("targets show lab")[1]
    assert out.startswith("lab (default), in ")
    shown = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert shown == {"location": "other:1", "place": "child", "key": "prompt", "allow_plain": "True"}
    assert flame("targets edit lab")[0] == 1
    assert flame("targets default gpu")[0] == 0
    assert "* gpu" in flame("targets list")[1]
    assert flame("targets default --none")[0] == 0
    assert flame("targets remove gpu")[0] == flame("targets remove lab")[0] == 0
    assert flame("targets list")[1].startswith("no servers saved in ")


def test_a_key_for_the_keyring_is_asked_for(flame: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, bytes] = {}
    monkeypatch.setattr(targets, "store_in_keyring", lambda name, key: stored.update({name: key.reveal()}))
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed, unseen")
    code, out, err = flame("targets add a h:1 --key keyring")
    assert (code, stored) == (0, {"a": b"typed, unseen"})
    assert "typed" not in out + err + (tmp_path / "config" / "targets.toml").read_text()


def test_certificates_in_two_commands(flame: Run, tmp_path: Path) -> None:
    code, out, _ = flame("certs c --host lab.example --host 10.0.0.7 --client me --client you")
    assert code == 0
    assert "next: jupyter flame serve --host 0.0.0.0 --port 9999 --tls" in out
    folder = tmp_path / "c"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"ca.pem", "ca.key", "server.pem", "me.pem", "you.pem"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    code, _, err = flame("certs c --client me")
    assert code == 1
    assert "exists already" in err
    before = (folder / "me.pem").read_bytes()
    assert flame("certs c --client me --replace")[0] == 0
    assert (folder / "me.pem").read_bytes() != before


def test_what_every_application_of_jupyter_has(flame: Run, tmp_path: Path) -> None:
    code, out, _ = flame("--generate-config")
    config = tmp_path / "config" / "jupyter_flame_config.py"
    assert (code, str(config) in out) == (0, True)
    assert "# c.FlameSettings.place = ''" in config.read_text()
    config.write_text("c.FlameSettings.place = 'child'\nc.FlameSettings.linger = '2 h'\n")
    code, out, _ = flame("targets list --show-config --FlameSettings.linger=3h")
    assert code == 0
    assert "  .place = 'child'" in out
    assert "  .linger = '3h'" in out
    assert flame("--generate-config -y")[0] == 0
    assert "'2 h'" not in config.read_text()
    assert "Looking for jupyter_flame_config" in flame("targets list --debug")[2]
    other = tmp_path / "other.py"
    other.write_text("c.FlameSettings.place = 'main'\n")
    assert "'main'" in flame(f"targets list --config {other} --show-config")[1]


@pytest.mark.parametrize(
    ("written", "options", "code", "says"),
    [
        ("1 / 0", "", 1, "ZeroDivisionError: division by zero"),
        ("c.FlameSettings.place = 7", "", 1, "place"),
        ("", "--config nowhere.py", 1, "there is no configuration file nowhere.py"),
        ("", "--log-level loud", 2, "'loud' is not a log level"),
        ("", "--FlameSettings.place", 2, ""),
    ],
)
def test_a_configuration_that_cannot_be_used(
    written: str, options: str, code: int, says: str, flame: Run, tmp_path: Path
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_flame_config.py").write_text(written)
    found, _, err = flame(f"targets list {options}")
    assert (found, says in err) == (code, True), err
