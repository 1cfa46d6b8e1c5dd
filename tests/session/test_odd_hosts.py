"""Servers on odd hosts: locale, home, limits, masks, descriptors, 32 bits: a session works as elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import farside
import pytest
from farside import FlameServer, bare_pyro
from walk import walk

import flame

HOSTS = {
    "locale C": ("", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "no HOME": ("", {"HOME": None}),
    "HOME that is none": ("", {"HOME": "/proc/nowhere"}),
    "HOME that takes no files": ("", {"HOME": "/proc/sys"}),
    "no TMPDIR": ("", {"TMPDIR": "/proc/nowhere"}),
    "full disk": ("ulimit -f 16;", {}),
    "closed descriptors": ("", {}),
    "umask 077": ("umask 077;", {}),
    "umask 000": ("umask 000;", {}),
    "30 descriptors": ("ulimit -n 30;", {}),
    "from a zip": ("", {}),
    "32 bits": ("", {}),
}


def started(host: str, folder: Path) -> FlameServer:
    before, environ = HOSTS[host]
    python = next(one for one in reversed(farside.pythons()) if not one.pyro)
    if host == "32 bits":
        python = farside.of_32_bits() or python
    if host == "from a zip":
        environ = {"PYTHONPATH": shutil.make_archive(str(folder / "all"), "zip", bare_pyro())}
    closed = " <&- 2>&-" if host == "closed descriptors" else ""
    within = ("sh", "-c", f'{before} exec "$@"{closed}', "sh")
    return FlameServer(python, env=environ, within=within, unix=True)


# As 3.14 and PyPy, the Python of 32 bits is tested where it could be fetched; the whole check says if it could not.
HERE = [host for host in HOSTS if host != "32 bits" or farside.of_32_bits() is not None]


@pytest.mark.parametrize("host", HERE)
def test_a_session_there(host: str, tmp_path: Path) -> None:
    with farside.stopped(started(host, tmp_path)) as server:
        for place in ("child", "process"):
            with flame.connect(server.location, place=place) as pi:
                walk(pi, None if host == "full disk" else tmp_path)
