"""The engine ``flame`` for papermill: runs a notebook with parameters on a far side.

    papermill --engine flame -k web1 in.ipynb out.ipynb -p alpha 1

The kernel's name is a target or group of ``targets.toml``, a location, or an installed kernel of ours.  Any other name,
such as python3 in the notebook, stands for the default target.

https://papermill.readthedocs.io/en/latest/extending-entry-points.html
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import jupyter_config_dir
from papermill.engines import NBClientEngine  # type: ignore[import-untyped, unused-ignore]

from ..connect.selection import is_group
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import TargetError
from . import kernelspec
from .subcommands.notebook import manager

_LOG = logging.getLogger("flame.notebook")


class FlameEngine(NBClientEngine):  # type: ignore[misc, unused-ignore]  # papermill is not typed
    """Runs the cells as papermill's own engine does, with our kernel."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Called by papermill."""
        with tempfile.TemporaryDirectory(prefix="flame-") as folder:
            km = manager(Path(folder), environ(kernel_name), _LOG)
            km.connection_file = str(Path(folder, "connection.json"))  # nbclient would leave it behind
            return super().execute_managed_notebook(nb_man, kernelspec.PLAIN_NAME, km=km, **options)


def environ(kernel_name: str) -> dict[str, str]:
    """The variables that tell the kernel where to connect. Raises TargetError."""
    file = TargetsFile(targets_path(os.environ, Path(jupyter_config_dir())))
    for name in (kernel_name, kernel_name.removeprefix(f"{kernelspec.PLAIN_NAME}-")):
        if name in file.tables or is_group(name, file) or ":" in name:
            return {"FLAME_TARGET": name}
    for one in kernelspec.installed():
        if one.name == kernel_name:
            return dict(one.environ)
    if kernel_name != kernelspec.PLAIN_NAME and kernel_name not in KernelSpecManager().find_kernel_specs():
        known = ", ".join([*file.tables, *(f"@{name}" for name in file.groups)]) or "none"
        raise TargetError(f"there is no target or kernel {kernel_name!r} (targets: {known}); name one by -k")
    return {}
