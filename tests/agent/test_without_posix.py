"""A far side that lacks what only POSIX has: the agent loads and works there, in the server's own process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from farside import HERE, FlameServer, bare_pyro
from kernels import remote_flame

import flame


def test_all_a_user_does(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE / "apps" / "without_posix"), bare_pyro()])
    server = flame_server(ipython=False, env={"PYTHONPATH": path}, key="0123456789abcdef")
    with remote_flame({**server.environ(), "FLAME_PLACE": "process"}) as kernel:
        run = kernel.execute("import os, sys\nprint(hasattr(os, 'fork'))\nprint('there', file=sys.stderr)\n6 * 7")
        assert (run.stdout, run.stderr, run.result) == ("False\n", "there\n", "42"), run
        run = kernel.submit("print('begun')\nwhile True: pass")
        kernel.wait_for_output(run, "begun")
        kernel.interrupt()
        assert kernel.wait(run).error is not None
        assert kernel.execute("os.write(sys.stdout.fileno(), b'raw\\n');").stdout == "raw\n"
        assert kernel.execute("x = input()", answers=("me",)).reply["status"] == "ok"  # type: ignore[index]
        assert kernel.complete("sys.plat")["matches"]
        assert "pid" in kernel.execute("%flame top").stdout
        assert "no cell" in kernel.execute("%flame where").stdout
        assert "Wall time" in kernel.execute("%time 1").stdout
        assert kernel.usage()["pid"] == server.pid
    with flame.connect(server.location, key=server.key, place="process") as remote:
        remote["x"] = b"x" * 3_000_000
        assert len(remote["x"]) == 3_000_000
        (tmp_path / "a.txt").write_text("one")
        remote.put(tmp_path / "a.txt", "there.txt")
        assert remote.getfile("there.txt") == b"one"
        remote.sendmodule("sent_there", "X = 5\n")
        assert remote.evaluate("__import__('sent_there').X") == 5
        assert remote.run(lambda n: n + 1, 4) == 5
