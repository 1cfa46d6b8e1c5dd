"""Kernelspecs: writes, finds and removes them. Each is a tile for one far side in JupyterLab's launcher.

A kernelspec is a folder with ``kernel.json`` and logos.  The ``env`` of ours has the server's name or address, by which
the kernel finds it (``connect/target.py``).  It holds no secret, because whoever can list kernels can read it.

https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

from ..agent.wire.launch import interpreter
from ..errors import TargetError

# The kernelspec that comes with the package, for the kernel's own server. In a checkout it lies beside the package.
_PACKAGED = Path(__file__).parents[1] / "kernels" / "flame"
PLAIN = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "kernelspec"
PLAIN_NAME = "flame"

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SECRET = re.compile(r"(^|_)(KEY|HMAC|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)($|_)", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{\w+\}")


@dataclass(frozen=True)
class Installed:
    """A kernelspec of ours: its ``name``, its ``title`` for people, its folder, and the ``environ`` of its kernel."""

    name: str
    title: str
    folder: Path
    environ: Mapping[str, str]

    @property
    def target(self) -> str:
        """Its server; empty for the kernel's own."""
        return self.environ.get("FLAME_TARGET", "")


def name_for(where: str) -> str:
    """A kernel's name for a target or a location: ``flame-gpu-box``."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", where.removeprefix("ssh://")).strip("-.")
    return f"{PLAIN_NAME}-{plain}".lower() if plain else PLAIN_NAME


def kernel_json(name: str, title: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``kernel.json``. It names this interpreter, so it does not matter in which environment Jupyter
    runs. TargetError if ``environ`` holds a secret."""
    for variable, value in environ.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", variable):
            raise TargetError(f"{variable!r} is not the name of an environment variable; write --env NAME VALUE")
        of_file = variable.upper().endswith(("_FILE", "_PATH"))
        if _SECRET.search(variable) and not of_file and not _REFERENCE.fullmatch(value):
            raise TargetError(
                f"{variable} would stand in kernel.json for all to read; put it in a file of mode 0600 (--key-file), "
                f"or refer to the environment of Jupyter: --env {variable} '${{{variable}}}'"
            )
    content: dict[str, Any] = json.loads((PLAIN / "kernel.json").read_text("utf-8"))
    content["argv"][:1] = interpreter(sys.executable)
    del content["env"]  # it does what -P does, for a Python of unknown version
    content["display_name"] = title
    if environ:
        content["env"] = {"FLAME_KERNELSPEC": name, **environ}
    return content


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write kernel.json and the logos into an existing folder."""
    (folder / "kernel.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    for logo in PLAIN.glob("logo-*"):
        shutil.copyfile(logo, folder / logo.name)


def destination(name: str, prefix: str | None) -> Path:
    """The folder of a kernelspec: below ``prefix``, or the user's own."""
    if prefix:
        return Path(os.path.abspath(os.path.expanduser(prefix)), "share", "jupyter", "kernels", name)
    return Path(jupyter_data_dir(), "kernels", name)


def install(name: str, content: Mapping[str, Any], place: Path, *, replace: bool = False) -> None:
    """Write a kernelspec to ``place``, whole or not at all; TargetError if one with this name exists already."""
    if not _NAME.fullmatch(name):
        raise TargetError(f"{name!r} is not a usable name for a kernel; use ASCII letters, digits and - . _")
    if place.exists() and not replace:
        raise TargetError(f"there is a kernel {name} already in {place}; say --replace, or choose another --name")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flame-", dir=place.parent) as making:
            made = Path(making, "spec")
            made.mkdir(mode=0o755)
            write(made, content)
            if place.is_symlink() or place.is_file():
                place.unlink()
            elif place.exists():
                os.rename(place, Path(making, "old"))
            os.rename(made, place)
    except OSError as e:
        raise TargetError(f"cannot write {place}: {e.strerror}; perhaps you want --user, or --sys-prefix") from e


def installed() -> list[Installed]:
    """Our kernelspecs that Jupyter finds, by name."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager  # takes long to load

    found = []
    manager = KernelSpecManager()
    for name, folder in sorted(manager.find_kernel_specs().items()):
        try:
            spec = KernelSpec.from_resource_dir(folder)
        except (OSError, ValueError, TypeError, KeyError):
            continue  # a broken kernelspec of another kernel
        if any("flame_kernel" in str(word) for word in spec.argv):
            found.append(Installed(name, spec.display_name, Path(folder), dict(spec.env)))
    return found


def remove(one: Installed) -> None:
    """Delete a kernelspec's folder."""
    try:
        if one.folder.is_symlink():
            one.folder.unlink()
        else:
            shutil.rmtree(one.folder)
    except OSError as e:
        raise TargetError(f"cannot remove {one.folder}: {e.strerror}") from e
