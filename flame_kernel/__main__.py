"""``python -m flame_kernel -f FILE`` runs the kernel; Jupyter does so by the kernelspec."""

from __future__ import annotations

from ipykernel.kernelapp import IPKernelApp

from .kernel import FlameKernel


class FlameKernelApp(IPKernelApp):
    """ipykernel's application (channels, heartbeat, encryption, parent poller) around our kernel."""

    name = "flame-kernel"
    kernel_class = FlameKernel
    outstream_class = None  # type: ignore[assignment]  # no code of the user's runs here: what this process prints is for its terminal
    description = "The Remote Flame kernel: cells run on a Pyro4 Flame server."

    def init_path(self) -> None:
        """The notebook's folder stays off the import path: a file there must not run inside the client."""

    def init_pdb(self) -> None:
        """No debugger of ours: cells do not run here."""


def main() -> None:
    """Run the kernel until it is shut down."""
    FlameKernelApp.launch_instance()


if __name__ == "__main__":
    main()
