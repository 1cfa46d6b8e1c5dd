"""``get_ipython().kernel`` in a session: the parts of ipykernel's kernel that libraries use.

The kernel that a front end talks to runs on the client's side, so there are no sockets here.  What is sent through this
object's ``session`` to its ``iopub_socket`` becomes output of the calling cell.
"""

import logging
import os
import sys
import threading

from . import streams

# What may be sent by ``session.send``.
_OUTPUT = ("display_data", "update_display_data", "execute_result", "clear_output", "error")
_COMMS = ("comm_open", "comm_msg", "comm_close")
# Seconds until the process ends after a cell has shut it down, so that the cell ends first.
LATER = 0.2


class Session:
    """``kernel.session``: sends messages that are output, and no others."""

    username = "username"

    @property
    def session(self):
        cell = streams.current()
        return "" if cell is None else cell.host.session_id

    def msg(self, msg_type, content=None, parent=None, header=None, metadata=None):
        """A message of this type, which ``send`` takes."""
        header = header or {"msg_type": msg_type, "msg_id": "", "session": self.session, "username": self.username}
        made = {"header": header, "msg_id": header.get("msg_id", ""), "msg_type": msg_type, "metadata": metadata or {}}
        parent = (parent or {}).get("header", parent or {})
        return dict(made, parent_header=parent, content={} if content is None else content)

    def send(self, stream, msg_or_type, content=None, parent=None, ident=None, buffers=None, *args, **options):
        """Publish a message as output of the calling cell; returns it, as jupyter_client's does."""
        if isinstance(msg_or_type, dict):
            message = msg_or_type
            buffers = buffers or message.get("buffers")
        else:
            message = self.msg(msg_or_type, content, parent, options.get("header"), options.get("metadata"))
        kind, content = message["msg_type"], message["content"]
        cell = streams.current()
        if cell is None or not isinstance(stream, IOPub):
            return message
        if kind == "stream":
            cell.host.write(cell, str(content.get("name")), str(content.get("text", "")))
        elif kind in _OUTPUT + _COMMS:
            clean = getattr(cell.host.shell.ip, "clean", None)
            cell.host.publish(kind, dict(content), message["metadata"] or None, buffers, clean)
        return message


class IOPub:
    """``kernel.iopub_socket``: a name for where output goes."""


class Kernel:
    """Stands in for ipykernel's kernel."""

    implementation = "ipython"
    language = "python"
    banner = "Remote Flame"
    iopub_socket = IOPub()
    session = Session()
    log = logging.getLogger("flame_kernel.session")

    def __init__(self, shell=None):
        self.shell = shell
        self.shell_handlers = {}  # libraries that replace the handler of a request find none here
        self.control_handlers = {}

    @property
    def ident(self):
        return self.session.session

    @property
    def language_info(self):
        version = {"name": "ipython", "version": sys.version_info[0]}
        info = {"name": "python", "version": sys.version.split()[0], "mimetype": "text/x-python"}
        return dict(info, codemirror_mode=version, file_extension=".py", pygments_lexer="ipython3")

    @property
    def user_ns(self):
        return None if self.shell is None else self.shell.user_ns

    @property
    def user_module(self):
        return None if self.shell is None else self.shell.user_module

    @property
    def execution_count(self):
        return None if self.shell is None else self.shell.execution_count

    def get_parent(self, channel=None):
        """The request for which the calling code runs, as far as the far side knows it."""
        cell = streams.current()
        if cell is None or cell.request_id is None:
            return {}
        header = {"msg_id": cell.request_id, "msg_type": "execute_request", "session": cell.host.session_id}
        header.update(username=self.session.username, version="5.3")
        more = {"parent_header": {}, "metadata": {}, "content": {}, "buffers": []}
        return dict(more, header=header, msg_id=cell.request_id, msg_type="execute_request")

    def set_parent(self, ident, parent, channel="shell"):
        """Let what the calling thread shows belong to that request from now on."""
        if self.shell is not None:
            self.shell.set_parent(parent)

    @property
    def _parent_header(self):
        return self.get_parent()

    @property
    def comm_manager(self):
        """The session's comm manager, for libraries older than the ``comm`` package; None if that is not installed."""
        cell = streams.current()
        comms = None if cell is None else cell.host.comms
        return None if comms is None else comms.manager

    def send_response(self, stream, msg_or_type, content=None, ident=None, buffers=None, *args, **options):
        """Publish a message as output of the calling cell."""
        return self.session.send(stream, msg_or_type, content, None, ident, buffers, *args, **options)

    def raw_input(self, prompt=""):
        return streams.current().host.input(str(prompt))

    def getpass(self, prompt="", stream=None):
        return streams.current().host.input(str(prompt), True)

    def do_shutdown(self, restart=False):
        """End the session's process, where it has one of its own; the next cell begins a new one."""
        cell = streams.current()
        host = None if cell is None else cell.host
        if host is not None and host.place.owns_process and os.getpid() == host.pid:
            timer = threading.Timer(LATER, os._exit, (0,))
            timer.daemon = True
            timer.start()
        elif host is not None:
            host.tell(cell.request_id, "This process is not the notebook's own, so it goes on: restart the kernel.\n")
        return {"status": "ok", "restart": restart}
