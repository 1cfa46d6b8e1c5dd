"""What others on the same machine or the same server can do, and what not: a session's neighbour, a debugger's port,
the steps of ignite, sockets, temporary files, what a name server answers, a module that is called as ours is."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debugging import front
from farside import FlameServer, pythons, stopped
from kernels import remote_flame

import flame
from flame_kernel.connect import installation
from flame_kernel.connect.name_server import _entry
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.errors import FlameError, TargetError
from flame_kernel.serve import ignite
from flame_kernel.session.agent_client import AgentClient

KEY = "k" * 64


@pytest.fixture(scope="module")
def keyed() -> Iterator[FlameServer]:
    with stopped(FlameServer(pythons()[-1], key=KEY)) as server:
        server.environ()  # writes the key's file, which stays as long as the server
        yield server


# --- two users of one server: what SECURITY.md says of them ("On the server")


@pytest.mark.parametrize("place", ["process", "child"])
def test_what_one_user_of_a_server_can_do_to_another(keyed: FlameServer, place: str) -> None:
    """B has the key as A has, so B may list, watch and end A's session and read A's names in the server's process.
    B cannot put anything into what A's client runs or shows as A's own, and one's output never reaches the other."""
    with (
        flame.connect(keyed.location, key=KEY, place=place) as a,
        flame.connect(keyed.location, key=KEY, place=place) as b,
        contextlib.closing(AgentClient(Target(Location.parse(keyed.location), Secret(KEY.encode())))) as client,
    ):
        a.execute("secret = 41")
        b.execute("secret = 1\nprint('only for b')")
        assert (a["secret"], b["secret"]) == (41, 1)
        names = {one["session"] for one in client.sessions()}
        assert {a.session.session_id, b.session.session_id} <= names
        a.execute("import sys, os\nwhere = os.getpid()")
        b.execute("import sys, os\nwhere = os.getpid()")
        assert (a["where"] == b["where"]) is (place == "process")
        b.execute(
            f"module = sys.modules.get('flame_session_{a.session.session_id}')\n"
            "found = getattr(module, 'secret', 'not there')"
        )
        assert b["found"] == (41 if place == "process" else "not there")
        b.execute(f"print = None\nos.environ['OF_B_{place}'] = '1'\nimport json\njson.of_b_{place} = 1")
        a.execute(
            f"import json\nreaches = (hasattr(json, 'of_b_{place}'), os.environ.get('OF_B_{place}'), callable(print))"
        )
        assert a["reaches"] == ((True, "1", True) if place == "process" else (False, None, True))
        assert client.kill(a.session.session_id)
        with pytest.raises(FlameError):
            a.execute("1")
        assert b["secret"] == 1


def test_without_the_key_another_user_has_nothing(keyed: FlameServer) -> None:
    with flame.connect(keyed.location, key=KEY) as a:
        for key in (None, Secret(b"x" * 64)):
            with pytest.raises(FlameError):
                AgentClient(Target(Location.parse(keyed.location), key)).sessions()
        a.execute("x = 1")
        assert a["x"] == 1


def test_a_child_keeps_nothing_from_the_code_in_it(keyed: FlameServer) -> None:
    """It is the same user: SECURITY.md says so, and does not advise a child for the server of others."""
    said = " ".join(Path(__file__).parents[2].joinpath("SECURITY.md").read_text().split())
    assert "A child is no protection from the code in it" in said
    assert "Run strangers' cells in a child" not in said
    with flame.connect(keyed.location, key=KEY, place="child") as a:
        a.execute("import os\nsame = os.getuid() == os.stat('/proc/%d' % os.getppid()).st_uid")
        assert a["same"]


# --- the debugger's port


def test_who_connects_to_the_debuggers_port_first_hears_nothing(keyed: FlameServer) -> None:
    """A neighbour is there before the tracer, and silent: he is not waited for, and is told no secret."""
    with remote_flame(env=keyed.environ()) as kernel:
        kernel.execute(
            "import socket\nfound, strangers = socket.socket.listen, []\n"
            "def listen(self, *words):\n"
            "    found(self, *words)\n"
            "    if self.family == socket.AF_INET:\n"
            "        strangers.extend(socket.create_connection(self.getsockname()) for _ in range(2))\n"
            "socket.socket.listen = listen"
        )
        with front(kernel) as debugger:
            code = "y = 2\nz = y + 1"
            debugger.breakpoints(code, 2)
            run = debugger.run_to_stop(code)
            assert debugger.stack()[0][1] == 2
            debugger.go_on(run)
            heard = "[s.settimeout(5) or s.recv(1000) for s in strangers], [s.close() for s in strangers]"
            assert kernel.execute(heard).result == "([b'', b''], [None, None])"
        kernel.execute("socket.socket.listen = found")


def test_nothing_listens_while_a_cell_is_debugged(keyed: FlameServer) -> None:
    import psutil

    with remote_flame(env={**keyed.environ(), "FLAME_PLACE": "child"}) as kernel, front(kernel) as debugger:
        pid = int(str(kernel.execute("import os; os.getpid()").result))
        code = "y = 2\nz = y + 1"
        debugger.breakpoints(code, 2)
        run = debugger.run_to_stop(code)
        listening = [one for one in psutil.Process(pid).net_connections("all") if one.status == psutil.CONN_LISTEN]
        assert listening == []
        debugger.go_on(run)


# --- the steps of ignite


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ignite is for Linux")
def test_ignite_answers_nobody_but_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is in a folder of mode 0700, and one who calls there with another pid is sent away unheard."""
    seen: list[tuple[int, bytes]] = []

    def lines(pid: int, text: str, force: bool) -> subprocess.Popen[str]:
        found = re.search(r"'(/[^']*/s)'", text.replace("\\\\", "").replace("\\'", "'"))
        assert found is not None
        path = Path(found[1])
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as caller:  # of this process, and not of the one that is asked
            caller.connect(str(path))
            caller.settimeout(10)
            waiting.append(caller.dup())
        seen.append((mode, text.encode()))
        return subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    waiting: list[socket.socket] = []
    helpers: list[subprocess.Popen[str]] = []

    def by_hypno(pid: int, text: str, force: bool) -> subprocess.Popen[str]:
        helpers.append(lines(pid, text, force))
        return helpers[-1]

    monkeypatch.setattr(ignite, "check", lambda pid: None)
    monkeypatch.setattr(ignite, "_by_script", lambda *words: "")
    monkeypatch.setattr(ignite, "_has_hypno", lambda: True)
    monkeypatch.setattr(ignite, "_by_hypno", by_hypno)
    monkeypatch.setattr(ignite, "_see_off", lambda helper: None)
    try:
        with pytest.raises(TargetError, match="did not respond in time"):
            ignite.ignite(os.getppid(), KEY, patience=0.5)
        ((mode, text),) = seen
        assert mode == 0o700
        assert KEY.encode() not in text  # only what the process proves itself to is told the key
        assert waiting[0].recv(100) == b""
    finally:
        for helper in helpers:
            helper.communicate("\n")
        for one in waiting:
            one.close()


def test_the_helper_of_ignite_sees_no_keys_and_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLAME_KEY_FILE", KEY)
    monkeypatch.chdir(tmp_path)
    for name in ("hypno", "flame_kernel", "linecache"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(
        ignite, "_HELPER", "import os, sys; sys.exit(repr(('FLAME_KEY_FILE' in os.environ, sys.path[:1])))"
    )
    helper = ignite._by_hypno(1, "", False)
    assert helper.stderr is not None
    with helper.stderr:
        said = helper.stderr.read()
    helper.wait(30)
    assert said.startswith("(False, ")
    assert "''" not in said
    assert not (tmp_path / "ran").exists()


# --- temporary files and umask


@pytest.mark.parametrize("place", ["process", "child"])
def test_nothing_that_a_session_writes_is_for_others(
    flame_server: Callable[..., FlameServer], tmp_path: Path, place: str
) -> None:
    """Spilled output, cells that are debugged, the caches of jedi: private under the loosest umask."""
    folder = tmp_path / "t"
    folder.mkdir()
    before = os.umask(0)
    try:
        server = flame_server(env={"TMPDIR": str(folder), "XDG_CACHE_HOME": str(tmp_path / "none")})
    finally:
        os.umask(before)
    with remote_flame(env={"FLAME_TARGET": server.location, "FLAME_PLACE": place}) as kernel:
        kernel.complete("import os\nos.path.jo")
        with front(kernel) as debugger:
            code = "y = 2\nz = y + 1"
            debugger.breakpoints(code, 2)
            run = debugger.run_to_stop(code)
            found = list(folder.rglob("*"))
            assert found
            for path in found:
                mode = stat.S_IMODE(path.stat().st_mode)
                private = [above for above in (path, *path.parents) if folder in above.parents]
                assert any(stat.S_IMODE(one.stat().st_mode) & 0o077 == 0 for one in private), (path, oct(mode))
            debugger.go_on(run)


# --- what a name server answers


@pytest.mark.parametrize(
    "uri",
    [
        "PYRO:Pyro.Flame@-oProxyCommand=id:1",
        "PYRO:Pyro.Flame@$(id):1",
        "PYRO:Pyro.Flame@[fe80::1%;id]:1",
        "PYRO:Pyro.Flame@ssh://evil/1",
        "PYRO:Pyro.Flame@ns:other@evil:9090",
        "PYRO:Pyro.Flame@./u:/run/\x1b[2Js",
        "PYRO:Pyro.Flame@host:99999",
        "PYRO:Pyro.Flame@h\u202eost:1",
        "PYROMETA:x",
        "",
    ],
)
def test_a_name_server_names_no_place_that_a_user_could_not_type(uri: str) -> None:
    place = _entry("x", uri, here=True).place
    assert place is None


# --- somebody else's module flame


@pytest.mark.parametrize("kind", ["module", "package", "folder", "none"])
def test_another_module_flame_is_named_and_not_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "module":
        (tmp_path / "flame.py").write_text("raise SystemExit('it ran')")
    elif kind != "none":
        (tmp_path / "flame").mkdir()
    if kind == "package":
        (tmp_path / "flame" / "__init__.py").write_text("raise SystemExit('it ran')")
    monkeypatch.delitem(sys.modules, "flame")
    assert installation.another_flame() == ""
    monkeypatch.setattr(sys, "path", [str(tmp_path)] + ([] if kind == "none" else sys.path))
    if kind == "none":
        monkeypatch.setattr(sys, "meta_path", sys.meta_path[:3])
    words = installation.another_flame()
    if kind == "folder":  # without a module in it: ours comes first, as for Python
        assert words == ""
    else:
        assert "%load_ext flame_kernel" in words
