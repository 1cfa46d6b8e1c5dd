"""Default settings, as traits of the kernel, the magics and the command line.

They are read from ``jupyter_flame_config.py`` (or ``.json``) in Jupyter's configuration folders::

    c.FlameSettings.place = "child"                     # everywhere
    c.FlameKernel.FlameSettings.target = "gpu-box"      # in notebooks of the Remote Flame kernel

``jupyter flame --generate-config`` writes such a file. Keys and the protection of a connection belong to a server, so
they are in ``targets.toml`` instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path
from traitlets import Bool, Unicode
from traitlets.config import Application, Config, Configurable

from ..errors import TargetError
from .keys import check_folder, check_owned

CONFIG_NAME = "jupyter_flame_config"


class FlameSettings(Configurable):
    """Defaults for what no command, kernelspec, targets.toml or environment variable sets."""

    target = Unicode("", help="The server for those who name none: a target's name, or host:port.").tag(config=True)
    place = Unicode(
        "", help="Where cells run: process (in the server's own), child (in a fresh child of it), or auto."
    ).tag(config=True)
    shell = Unicode("", help="auto, ipython, or mini (the agent's own, without IPython).").tag(config=True)
    linger = Unicode("", help='How long a session lives without a client, such as "24 h".').tag(config=True)
    journal = Unicode("", help='How much unread output is kept there, such as "256 MB".').tag(config=True)
    when_full = Unicode("", help="Beyond that: drop its middle with a mark, or block the cell.").tag(config=True)
    fast = Bool(False, help="Detect a dead link within 15 s instead of 45.").tag(config=True)

    def values(self) -> dict[str, Any]:
        """The settings that are set, for ``load_target``."""
        names = ("target", "place", "shell", "linger", "journal", "when_full", "fast")
        return {name: value for name in names if (value := getattr(self, name))}


def file_config() -> Config:
    """The content of the configuration files; the user's files win over the system's."""
    config = Config()
    folders = [folder for folder in jupyter_config_path() if _is_ours(Path(folder))]
    for one, _ in Application._load_config_files(CONFIG_NAME, path=folders, log=None):
        config.merge(one)
    return config


def _is_ours(folder: Path) -> bool:
    """Whether the configuration in a folder may be run: only we, root or the owner of this Python can write it.

    A file that others can write is skipped with a warning on stderr.
    """
    for path in (folder / f"{CONFIG_NAME}{suffix}" for suffix in (".py", ".json")):
        try:
            status = path.stat()
        except OSError:
            continue
        try:
            if status.st_uid != os.stat(sys.prefix).st_uid or status.st_mode & 0o022:
                check_owned(path, "the configuration file", status)
                check_folder(path, "the configuration file")
        except TargetError as error:
            print(f"Warning: {error}; it is not used", file=sys.stderr)
            return False
    return True
