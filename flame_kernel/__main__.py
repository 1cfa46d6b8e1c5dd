"""``python -m flame_kernel -f FILE`` runs the kernel; Jupyter does so by the kernelspec."""

from __future__ import annotations

import gc
import os
import sys

from .agent.wire.launch import leave_folder

if __name__ == "__main__":
    leave_folder()


def main() -> None:
    """Run the kernel until it is shut down; ``install …`` is ``jupyter flame install``."""
    leave_folder()
    if sys.argv[1:2] == ["install"]:
        from .cli.subcommands.install import Install

        Install.launch_instance(sys.argv[2:])
        return
    if "-f" in sys.argv:  # else it is asked for its help, or its version
        from .serve import early
        from .session.bootstrap import agent_text

        early.begin(agent_text(), os.environ, sys.argv[1:])
    gc.disable()  # all that imports make stays: to look for garbage among it takes a tenth of their time
    from .kernel.app import FlameKernelApp

    gc.enable()
    FlameKernelApp.launch_instance()


if __name__ == "__main__":
    main()
