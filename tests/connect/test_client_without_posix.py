"""A client that lacks what only POSIX has, as on Windows: the library, files and commands work from there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from farside import HERE, FlameServer
from sshd import Sshd, through

# What other libraries need of it on this system they have imported before.
CLIENT = r"""
import os, pathlib, sys
import IPython, argcomplete, ipykernel.kernelapp, jupyter_client, jupyter_core.application, prompt_toolkit, tqdm
import multiprocessing.popen_spawn_posix, tornado.platform.asyncio
where, through, take_away, folder = sys.argv[1:]
nohang = os.WNOHANG
exec(pathlib.Path(take_away).read_text())
os.WNOHANG = nohang  # subprocess itself waits by it on this system
import flame, flame_kernel.serve.ignite, flame_kernel.serve.plan, flame_kernel.cli.subcommands.ignite
with flame.connect(where) as pi:
    pi["x"] = b"x" * 3_000_000
    assert len(pi["x"]) == 3_000_000
    here = pathlib.Path(folder)
    (here / "a").write_text("one")
    pi.put(here / "a", here / "there")
    pi.get(here / "there", here / "b")
    assert (here / "b").read_text() == "one"
    pi.execute("print('hi')")
import flame_kernel.kernel.app, flame_kernel.magics.extension, flame_kernel.serve.embedded
try:
    flame.connect("./u:" + folder + "/socket")
except flame.TargetError as e:
    print(e)
with flame.connect(through) as pi:
    print(pi.evaluate("'through ssh'"))
from flame_kernel.connect.keys import read_key
(here / "key").write_bytes(b"secret\r\n")
(here / "key").chmod(0o666)  # as all files have it on Windows
read_key(here / "key")
from flame_kernel.files.destination import plain_name
print(plain_name(r"C:\there\a.txt"))
from flame_kernel.cli.__main__ import main
sys.argv = ["jupyter-flame", "exec", "-t", where, "print(6 * 7)"]
main()
"""


def test_all_a_user_does(server: FlameServer, sshd: Sshd, tmp_path: Path) -> None:
    away = HERE / "apps" / "without_posix" / "sitecustomize.py"
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, server.location, through(server), away, tmp_path],
        capture_output=True,
        text=True,
        timeout=55,
    )
    sentence = f"Python has no unix sockets on this system, such as ./u:{tmp_path}/socket; give host:port"
    (warning,) = done.stderr.split("Warning: ")[2:]
    assert " ".join(warning.split()).startswith("every user of this machine can connect to ssh://far/")
    assert warning.endswith("a key\n")
    assert done.stdout.splitlines() == ["hi", sentence, "through ssh", "a.txt", "42"]
