"""Machines on this one, for the notebooks 07 and 08: stock Flame servers on loopback, with a key, that end with the
notebook."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_servers: dict[str, subprocess.Popen[bytes]] = {}
_folder = Path(tempfile.mkdtemp(prefix="machines-"))


def start(*names: str) -> Path:
    """Start a server of each name; the path of a targets.toml that has them, and the group web of all of them."""
    key = _folder / "key"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32))
    environ = {**os.environ, "PYRO_FLAME_ENABLED": "true", "PYRO_HMAC_KEY": key.read_text()}
    text = '[groups.web]\nmembers = ["web*"]\n'
    for name in names:
        path = _folder / name
        line = [sys.executable, "-m", "Pyro4.utils.flameserver", "-q", "-u", str(path)]
        _servers[name] = subprocess.Popen(line, env=environ, cwd=_folder)
        text += f'[targets.{name}]\nlocation = "./u:{path}"\nkey_file = "{key}"\n'
    targets = _folder / "targets.toml"
    targets.touch(mode=0o600)
    targets.write_text(text)
    for name in names:
        while not (_folder / name).exists():
            time.sleep(0.05)
    return targets


def kill(name: str) -> None:
    """The end of one of them, without a word."""
    server = _servers.pop(name)
    server.kill()
    server.wait()


@atexit.register
def stop() -> None:
    """End all of them."""
    for name in list(_servers):
        kill(name)
    shutil.rmtree(_folder, ignore_errors=True)
