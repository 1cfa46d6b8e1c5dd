"""Servers on odd hosts: locale, home, limits, masks, descriptors. Sessions, files and modules work as elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

import farside
import pytest
from farside import FlameServer, bare_pyro

import flame

HOSTS = {
    "locale C": ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "no HOME": ("", {"HOME": None}),
    "HOME that is none": ("", {"HOME": "/proc/nowhere"}),
    "no TMPDIR": ("", {"TMPDIR": "/proc/nowhere"}),
    "full disk": ("ulimit -f 16;", {}),
    "closed descriptors": ("", {}),
    "umask 077": ("umask 077;", {}),
    "umask 000": ("umask 000;", {}),
    "30 descriptors": ("ulimit -n 30;", {}),
    "from a zip": ("", {}),
}


def started(host: str, folder: Path) -> FlameServer:
    before, environ = HOSTS[host]
    python = next(one for one in reversed(farside.pythons()) if not one.pyro)
    if host == "from a zip":
        environ = {"PYTHONPATH": shutil.make_archive(str(folder / "all"), "zip", bare_pyro())}
    closed = " <&- 2>&-" if host == "closed descriptors" else ""
    within = ("sh", "-c", f'{before} exec "$@"{closed}', "sh")
    return FlameServer(python, env=environ, within=within, unix=True)


@pytest.mark.parametrize("host", HOSTS)
def test_a_session_there(host: str, tmp_path: Path) -> None:
    with farside.stopped(started(host, tmp_path)) as server:
        for place in ("child", "process"):
            with flame.connect(server.location, place=place) as pi:
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    pi.execute("print('\xe9 there')")
                assert out.getvalue() == "\xe9 there\n"
                pi["x"] = b"x" * 2_000_000
                assert len(pi["x"]) == 2_000_000
                pi.sendmodule("sent_there", "X = '\xe9'\n")
                assert pi.evaluate("__import__('sent_there').X") == "\xe9"
                assert pi.evaluate("__import__('subprocess').call('exit 3', shell=True)") == 3
                if host != "full disk":
                    name = os.fsdecode(f"{tmp_path}/{place}-".encode() + b"\xff")
                    (tmp_path / "a").write_text("one")
                    (tmp_path / "a").chmod(0o640)
                    pi.put(tmp_path / "a", name)
                    assert os.stat(name).st_mode & 0o777 == 0o640
                    pi.get(name, tmp_path / "b")
                    assert (tmp_path / "b").read_text() == "one"
