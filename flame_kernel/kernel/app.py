"""The kernel's application: ipykernel's, around our kernel."""

from __future__ import annotations

from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets.config import Config

from ..connect.settings import file_config
from . import outgoing
from .kernel import FlameKernel
from .subshells import Subshells


class FlameKernelApp(IPKernelApp):
    """ipykernel's application (channels, heartbeat, encryption, parent poller) around our kernel."""

    name = "flame-kernel"
    kernel_class = FlameKernel
    outstream_class = None  # type: ignore[assignment]  # no code of the user's runs here: what this process prints is for its terminal
    description = "The Remote Flame kernel: cells run on a Pyro4 Flame server."

    def load_config_file(self, *args: Any, **options: Any) -> None:
        """IPython's configuration files, and ``jupyter_flame_config``."""
        super().load_config_file(*args, **options)  # type: ignore[no-untyped-call]
        written = file_config()
        written.merge(Config(self.config))
        self.update_config(written)

    def initialize(self, *args: Any, **options: Any) -> None:
        """As ipykernel's, but messages below the log's level are not formatted."""
        super().initialize(*args, **options)  # type: ignore[no-untyped-call]
        self.log.setLevel(self.log_level)

    def init_sockets(self) -> None:
        """As ipykernel's, but the shells are on our own loop."""
        super().init_sockets()  # type: ignore[no-untyped-call]
        self.shell_channel_thread.io_loop.close()  # of a thread that has not been started
        self.shell_channel_thread = Subshells()

    def init_iopub(self, context: Any) -> None:
        """As ipykernel's, but on our own loop, and with a limit on what a front end has not taken yet; nothing is
        dropped."""
        socket = context.socket(zmq.XPUB)
        socket.linger = 1000
        outgoing.prepare(socket)
        self._apply_curve_server_options(socket)
        self.iopub_port = self._bind_socket(socket, self.iopub_port)  # type: ignore[no-untyped-call]
        self.configure_tornado_logger()  # type: ignore[no-untyped-call]
        self.iopub_thread = outgoing.Outgoing(socket, IOLoop.current(), self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_path(self) -> None:
        """The notebook's folder stays off the import path: a file there must not run inside the client."""

    def init_pdb(self) -> None:
        """No debugger of ours: cells do not run here."""
