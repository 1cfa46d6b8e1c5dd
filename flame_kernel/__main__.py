"""``python -m flame_kernel -f FILE`` runs the kernel; Jupyter does so by the kernelspec."""

from __future__ import annotations

import sys

from .agent.wire.launch import leave_folder

if __name__ == "__main__":
    leave_folder()


from .cli.install import Install
from .kernel.app import FlameKernelApp


def main() -> None:
    """Run the kernel until it is shut down; ``install …`` is ``jupyter flame install``."""
    leave_folder()
    if sys.argv[1:2] == ["install"]:
        Install.launch_instance(sys.argv[2:])
        return
    FlameKernelApp.launch_instance()


if __name__ == "__main__":
    main()
