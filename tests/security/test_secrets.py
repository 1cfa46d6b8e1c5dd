"""Keys: in nothing that we start, whatever the name of the variable; in nothing that is shown, kept or logged."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from farside import FlameServer
from hostile import READY, FakeAgent
from kernels import Kernel, remote_flame

from flame_kernel.agent.wire.launch import without_secrets
from flame_kernel.commands.parsing import parse
from flame_kernel.connect import installation, keys, settings, ssh
from flame_kernel.connect.keys import from_source, keyless, store_in_keyring, without_key
from flame_kernel.connect.target import Secret, load_target
from flame_kernel.connect.targets_file import TargetsFile
from flame_kernel.errors import FlameError, TargetError
from flame_kernel.kernel.debugger import Debugger

KEY = "3" * 30 + "c0ffee" * 5


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(do: Callable[[], Any]) -> str:
    with pytest.raises(TargetError) as caught:
        do()
    return str(caught.value)


# --- the environment

SEEN = "import os\n[name for name, value in os.environ.items() if {!r} in value]"


@pytest.mark.parametrize("place", ["auto", "process"])
def test_no_cell_of_our_own_server_sees_a_key(place: str, tmp_path: Path) -> None:
    """Those that targets.toml names, of whichever target, and those that are always one."""
    names = ["PLANT", "my_pin", "PYRO_HMAC_KEY", "FLAME_KEY", "FLAME_KEY_FILE", "FLAME_NS_KEY_FILE", "X9"]
    file = write(
        tmp_path / "targets.toml",
        "".join(f'[targets.t{n}]\nlocation = "h:{n}"\nkey = "env:{n0}"\n' for n, n0 in ((1, "PLANT"), (2, "my_pin")))
        + '# [targets.old]\n# key = "env:X9"\n',
    )
    environ: dict[str, str | None] = dict.fromkeys(names, KEY)
    with remote_flame(env={**environ, "FLAME_CONFIG": str(file), "FLAME_PLACE": place, "OTHER": KEY}) as kernel:
        assert kernel.execute(SEEN.format(KEY)).result == "['OTHER']"
        assert kernel.execute("%%local\n" + SEEN.format(KEY)).result == "['OTHER']"


def test_a_broken_file_still_says_which_variables_hold_keys(tmp_path: Path) -> None:
    file = write(tmp_path / "targets.toml", 'x = [\nkey = "env:BROKEN_KEY"\n')
    refused(lambda: TargetsFile(file))
    assert keyless({"BROKEN_KEY": KEY, "PATH": "x"}) == {"PATH": "x"}


def test_a_variable_that_is_named_once_is_a_key_from_then_on() -> None:
    assert keyless({"ONCE": KEY}) == {"ONCE": KEY}
    load_target("localhost:1", environ={"ONCE": KEY}, overrides={"key": "env:ONCE"})
    assert keyless({"ONCE": KEY}) == {}
    assert "ONCE" not in ssh._environ()


@pytest.mark.parametrize("name", ["PYRO_HMAC_KEY", "FLAME_KEY", "FLAME_KEY_FILE", "FLAME_KEY_OLD", "FLAME_NS_KEY_FILE"])
def test_what_is_always_a_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_secrets({name: KEY, "FLAME_PLACE": "child"}) == {"FLAME_PLACE": "child"}
    monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("SSH_ASKPASS", "/bin/evil")
    assert not {name, "SSH_ASKPASS"} & ssh._environ().keys()


def test_a_child_of_somebodys_server_does_not_see_its_key(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server(key=KEY, env={"FLAME_KEY_FILE": KEY})
    with remote_flame(env={**server.environ(), "FLAME_PLACE": "child"}) as kernel:
        assert kernel.execute(SEEN.format(KEY)).result == "[]"


# --- a key that is typed where it should not be

TYPED = [
    f"%flame connect localhost:1 --key {KEY}",
    f"%flame connect localhost:1 --key={KEY}",
    f"%flame connect localhost:1 --key '{KEY}' --nonsense",
    f"%flame connect --key {KEY}",
    f"%flame connect localhost:1 --key {KEY} 'unbalanced",
    f"%flame nonsense --key {KEY}",
    f"%flame status --key {KEY}",
    f"%flame watch x --key {KEY}",
    f"   %flame doctor --key {KEY}",
    f"x = 1\n%flame connect localhost:1 --key {KEY}",
]


def shown(kernel: Kernel) -> str:
    return repr([(run.reply, run.messages) for run in kernel.runs.values()]) + repr(kernel.strays)


def test_a_key_typed_in_a_cell_is_nowhere(tmp_path: Path) -> None:
    """Not in an error, a reply, the echo to other front ends, the history and its file, or the most talkative log."""
    ipython = tmp_path / "ipython"
    write(tmp_path / f"{settings.CONFIG_NAME}.py", "c.IPKernelApp.log_level = 10\n")
    with remote_flame(env={"IPYTHONDIR": str(ipython), "JUPYTER_CONFIG_DIR": str(tmp_path)}) as kernel:
        kernel.execute("1")
        for code in TYPED:
            assert kernel.execute(code).error is not None, code
            kernel.complete(code)
            kernel.inspect(code, 3)
            kernel.is_complete(code)
        assert KEY not in json.dumps(kernel.history(n=100))
        kernel.execute("%history -n")
        assert KEY not in kernel.execute("In, _i, _ii, _ih").result or ""
        assert KEY not in shown(kernel)
        assert "%flame connect localhost:1 --key …" in json.dumps(kernel.history(n=100), ensure_ascii=False)
        log = kernel.log_text()
        assert "execute_request" in log  # it does say much
    assert KEY not in log
    files = list(ipython.rglob("history.sqlite*"))
    assert files
    for file in files:
        assert KEY.encode() not in file.read_bytes()
    (database,) = [file for file in files if file.suffix == ".sqlite"]
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM history").fetchone()[0] >= len(TYPED)
    connection.close()


# … in a line that is ours, and stands where it cannot.
MISPLACED = [
    f"if True:\n    %flame connect localhost:1 --key {KEY}",
    f"% flame connect localhost:1 --key {KEY}",
    f"%%flame --key {KEY}\n1",
    f"x = %flame connect localhost:1 --key {KEY}",
    f"%time 1\n  %flame connect localhost:1 '--key={KEY}'",
    f"for x in y:\n\tz = %flame connect localhost:1 --KEY {KEY}",
    f"%Flame connect localhost:1 --key {KEY}",
]


def test_a_key_in_a_cell_does_not_go_to_the_server() -> None:
    """Neither with a cell that is run, nor with those that a debugger of a front end hands over."""
    with contextlib.closing(FakeAgent()) as agent:
        agent.say(READY)
        with remote_flame(env={"FLAME_TARGET": agent.location}) as kernel:
            kernel.execute("1")
            for code in (*TYPED, *MISPLACED):
                assert kernel.execute(code).error is not None, code
            assert KEY not in shown(kernel)
        assert "'1'" in repr(agent.requests)
        assert KEY not in repr(agent.requests)


def test_a_debugger_does_not_hand_over_a_key() -> None:
    asked: list[dict[str, Any]] = []

    def request(kind: str, request_id: str, message: dict[str, Any]) -> Future[Any]:
        asked.append(message)
        return done({"type": "response", "success": True})

    def done(value: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(value)
        return future

    session = SimpleNamespace(request=request, ready=done({}))
    rendering = SimpleNamespace(debug=lambda reply: reply)
    publisher: Any = SimpleNamespace(
        remember=lambda *_, **__: None, belongs=lambda *_: None, rendering=lambda _: rendering
    )
    far: Any = SimpleNamespace(session=lambda: done(session), group=None)

    async def ask() -> None:
        debugger = Debugger(far, publisher, logging.getLogger("debugger"))
        for name in ("code", "expression"):
            content = {"command": "dumpCell", "arguments": {name: TYPED[0], "frameId": 3}}
            await debugger._reply({"header": {"msg_id": "m"}, "content": content}, b"")

    asyncio.run(ask())
    assert [one["arguments"].get("frameId") for one in asked] == [3, 3]
    assert KEY not in repr(asked)


# Odd ways to type the same: some are read as a key, all hold one.
ODDLY = [
    '"--key" {}',
    "'--key={}'",
    "'--key=two {}'",
    '--k"ey" {}',
    "--key\\ {}",
    '--key "two {}',
    "--key two\\ {}",
    '--key two"more {}"',
    "--key 'two'{}",
    '--key "two\\" {}"',
    "--key = {}",
    "--key= {}",
    "--key: {}",
    "--key '' {}",
    "--KEY {}",
    "--Key={}",
    "--key\n{}",
    "--key \\\n {}",
    "--key\u00a0{}",
]


@pytest.mark.parametrize("written", ODDLY)
def test_a_key_is_known_however_it_is_typed(written: str) -> None:
    line = "connect localhost:1 " + written.format(KEY)
    text = f"%flame {line}"
    assert KEY not in without_key(text)
    hidden = without_key(text, same_length=True)
    assert KEY not in hidden
    assert len(hidden) == len(text)
    assert hidden.count("\n") == text.count("\n")
    with pytest.raises(FlameError, match="--key-file") as caught:
        parse(line, "kernel")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("line", [line.split("\n")[-1].strip() for line in TYPED])
def test_no_error_repeats_a_key(line: str) -> None:
    with pytest.raises(FlameError, match="--key-file") as caught:
        parse(line.removeprefix("%flame"), "kernel")
    assert KEY not in str(caught.value)


def test_only_keys_are_hidden() -> None:
    for text in ("%flame connect x --key-file a.key", "sort --key 2 x", "a --keys b flame", "flame", "--key"):
        assert without_key(text) == text
    text = f"%flame connect x --key {KEY} --place child"
    assert without_key(text) == "%flame connect x --key … --place child"
    assert len(without_key(text, same_length=True)) == len(text)


# --- whose files they are


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o664, 0o622])
def test_a_configuration_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    file = write(tmp_path / "targets.toml", '[targets.a]\nlocation = "h:1"\n', mode)
    said = refused(lambda: TargetsFile(file))
    assert "can be written by others" in said
    assert f"chmod go-w {file}" in said


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o775, 0o773])
@pytest.mark.parametrize("link", [False, True])
def test_a_configuration_in_a_folder_that_others_can_write_is_refused(mode: int, link: bool, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    file = write(folder / "targets.toml", '[targets.a]\nlocation = "h:1"\n')
    folder.chmod(mode)
    if link:
        (tmp_path / "link.toml").symlink_to(file)
        file = tmp_path / "link.toml"
    assert "can be written by others" in refused(lambda: TargetsFile(file))
    folder.chmod(0o755)
    assert set(TargetsFile(file).tables) == {"a"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder", "key"])
def test_what_belongs_to_another_user_is_refused(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    key = write(folder / "key", KEY)
    file = write(folder / "targets.toml", '[targets.a]\nlocation = "h:1"\n')
    os.chown({"file": file, "folder": folder, "key": key}[what], 65534, 65534)
    said = refused(lambda: keys.read_key(key) if what == "key" else TargetsFile(file))
    assert "belongs to another user (65534)" in said
    assert KEY not in said


def test_a_configuration_in_the_folder_for_temporary_files_may_be_ones_own(tmp_path: Path) -> None:
    """Its sticky bit keeps others from taking it away."""
    if os.getuid() != 0 and os.stat("/tmp").st_uid != 0:
        pytest.skip("/tmp is not root's")
    file = Path("/tmp") / f"flame-targets-{os.getpid()}.toml"
    try:
        write(file, '[targets.a]\nlocation = "h:1"\n')
        assert set(TargetsFile(file).tables) == {"a"}
    finally:
        file.unlink()


def test_a_kernel_says_what_is_wrong_with_its_configuration(tmp_path: Path) -> None:
    file = write(tmp_path / "targets.toml", 'default = "a"\n[targets.a]\nlocation = "localhost:1"\n', 0o666)
    with remote_flame(env={"FLAME_CONFIG": str(file)}) as kernel:
        run = kernel.execute("1")
        assert run.error is not None
        assert "can be written by others" in run.error["evalue"]


def test_settings_that_others_can_write_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "jupyter_config_path", lambda: [str(tmp_path)])
    file = write(tmp_path / f"{settings.CONFIG_NAME}.py", "c.FlameSettings.place = 'child'\n")
    assert settings.file_config().FlameSettings.place == "child"
    file.chmod(0o666)
    assert "FlameSettings" not in settings.file_config()
    assert "can be written by others" in capsys.readouterr().err


def test_what_we_write_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = TargetsFile(tmp_path / "made" / "targets.toml")
        file.add("a", {"location": "h:1", "key": "env:X"})
        from flame_kernel.serve.plan import KeyFile, Plan

        key = KeyFile.get(tmp_path / "made.key")
        Plan(unix=tmp_path / "sockets" / "s")
        own = KeyFile.get(None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o700
    assert stat.S_IMODE(own.path.stat().st_mode) == 0o600
    own.remove()


# --- the keyring, by its backends

ASK = """
import sys
from flame_kernel.connect.keys import Secret, from_source, store_in_keyring
from flame_kernel.errors import TargetError
for do in (lambda: from_source("keyring", "x", environ={}, ask=None), lambda: store_in_keyring("x", Secret(b"k" * 32))):
    try:
        do(); print("kept")
    except TargetError as error:
        print(error)
"""


@pytest.mark.parametrize(
    "backend",
    [
        "keyring.backends.null.Keyring",
        "keyring.backends.fail.Keyring",
        "keyring.backends.chainer.ChainerBackend",
        "evil_backend.Keyring",
        "nonsense",
        "..",
    ],
)
def test_a_keyring_that_keeps_nothing_says_so(backend: str, tmp_path: Path) -> None:
    """None of them loses a key in silence; one named in the environment never comes from the current folder."""
    ran = tmp_path / "ran"
    for name in ("evil_backend", "nonsense", "keyring"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemError('{KEY}')\n")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(ASK)
    environ = {**os.environ, "PYTHON_KEYRING_BACKEND": backend, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    environ.pop("DBUS_SESSION_BUS_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2, lines
    for line in lines:
        assert "key_file" in line or "keyring set" in line, line
        assert "pip install" not in line  # it is installed
        assert KEY not in line
    assert not ran.exists()


def test_a_key_that_a_keyring_does_not_keep_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring

    class Forgetful:
        __module__ = "somebody"

    monkeypatch.setattr(keyring, "get_keyring", Forgetful)
    monkeypatch.setattr(keyring, "set_password", lambda *words: None)
    monkeypatch.setattr(keyring, "get_password", lambda *words: None)
    assert "did not keep it" in refused(lambda: store_in_keyring("x", Secret(KEY.encode())))
    assert "has no key for x" in refused(lambda: from_source("keyring", "x", environ={}, ask=None))


# --- how to install what is missing


@pytest.mark.parametrize(
    ("direct", "words"),
    [
        (None, "pip install 'remote-flame[certs]'"),
        ({"url": "file:///home/me/rf", "dir_info": {"editable": True}}, "pip install -e '/home/me/rf[certs]'"),
        ({"url": "file:///home/m%20e/rf", "dir_info": {}}, "pip install '/home/m e/rf[certs]'"),
        (
            {"url": "https://x.example/rf.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'remote-flame[certs] @ git+https://x.example/rf.git@abc'",
        ),
        ({"url": "file:///a/rf.whl", "archive_info": {}}, "pip install 'remote-flame[certs] @ file:///a/rf.whl'"),
        ("nonsense", "pip install"),
        ({"url": "file:///x; rm -rf ~", "dir_info": {}}, "pip install '/x; rm -rf ~[certs]'"),
    ],
)
def test_how_to_install_is_true_for_how_it_was_installed(
    direct: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Found:
        def read_text(self, name: str) -> str | None:
            return direct if direct is None or isinstance(direct, str) else json.dumps(direct)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Found())
    assert words in installation.pip_install("certs")


def test_what_is_said_here_can_be_run() -> None:
    words = installation.pip_install("certs")
    assert words.startswith("pip install ")
    place = Path(installation.__file__).parents[2]
    assert str(place) in words or "remote-flame" in words
