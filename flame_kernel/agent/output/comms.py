"""Comms of a session, for widgets and other code that talks to the front end; uses the ``comm`` package's two hooks.

The hooks, ``comm.create_comm`` and ``comm.get_comm_manager``, are shared by the whole process. Our versions find the
caller's session; for code of the app they call the previous hooks. Each session has its own manager, so sessions in one
process do not see each other's comms.

A message from the front end runs on a lane's loop, between the steps of a cell that awaits. An answer runs on the lane
that asked (https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages).
"""

import importlib.util
import os
import sys
import threading

from ..patches import Layer, is_layer
from . import kernel_object, streams, widgets


class Comms:
    """The comms of one session; made on its first thread. Does nothing without the ``comm`` package.

    widgets  ipywidgets' table of the session's widgets, by comm id
    """

    def __init__(self, host):
        self._host = host
        self._lanes = {}  # comm id -> name of the lane that sent last; (comm id, request id) -> lane that asked
        self.widgets = {}
        self.manager = None
        self._searched = None  # where ``comm`` was looked for in vain
        self.begin()

    def begin(self):
        """At the start of a cell: install our hooks, since ``comm`` may be new or others may have replaced them."""
        if self.manager is not None:
            _check()
            return
        places = _import_places()
        if places == self._searched:
            return
        self._searched = places
        try:
            if importlib.util.find_spec("comm") is None:
                return
            from comm.base_comm import CommManager
        except Exception:  # another package named comm, which may raise anything
            return
        self.manager = CommManager()
        _install()

    def info(self):
        """The content of a comm_info_reply for all targets."""
        comms = {} if self.manager is None else dict(self.manager.comms)
        return {"status": "ok", "comms": {k: {"target_name": c.target_name} for k, c in comms.items()}}

    def announce(self):
        """Open all widgets with their current state in a front end that has just connected; returns how many."""
        count = 0
        for comm, message in widgets.announcements(self.widgets):
            count += 1
            comm.publish_msg("comm_open", target_name=comm.target_name, target_module=None, **message)
        return {"status": "ok", "widgets": count}

    def publish(self, comm, msg_type, data, metadata, buffers, keys):
        """Send a message of one of the session's comms."""
        if self.manager is not None:
            data = {} if data is None else data
            self.sent(msg_type, comm.comm_id, data)
            self._host.publish(msg_type, dict(keys, data=data, comm_id=comm.comm_id), metadata, buffers)

    def sent(self, msg_type, comm_id, data):
        """Remember the lane from which a comm of ours sent ``data``: the answer will run there."""
        if msg_type == "comm_close":
            self._lanes.pop(comm_id, None)
            return
        cell = streams.current()
        lane = "" if cell is None else cell.lane
        self._lanes[comm_id] = lane
        asked = _request_id(data)
        if asked is not None:
            self._lanes[comm_id, asked] = lane

    def home(self, request):
        """``(name of the home lane for a message of the front end, whether code there waits for it as an answer)``."""
        content = request["content"]
        comm_id = content.get("comm_id")
        asked = _request_id(content.get("data"))
        if asked is not None and (comm_id, asked) in self._lanes:
            return self._lanes.pop((comm_id, asked)), True
        return self._lanes.get(comm_id, request.get("lane") or ""), False

    def receive(self, request):
        """Deliver a comm_open, comm_msg or comm_close; called on the thread of its lane."""
        kind, content = request["msg_type"], request["content"]
        comm_id, target = content.get("comm_id"), content.get("target_name")
        manager = self.manager
        if kind == "comm_open":
            known = manager is not None and (target in manager.targets or self._take_target(target))
            if not known:
                self._host.publish("comm_close", {"comm_id": comm_id, "data": {}})
                if not str(target).startswith("jupyter.widget"):  # JupyterLab asks every kernel for this one
                    self._host.tell(request["id"], "No such comm target registered: %s\n" % target)
                return
        elif manager is None or comm_id not in manager.comms:
            if kind == "comm_msg":
                words = "This session has no widget with the comm %s, or not any more: run its cell again.\n"
                self._host.tell(request["id"], words % comm_id)
            return
        message = {
            "header": {"msg_id": request["id"], "msg_type": kind},
            "parent_header": {},
            "metadata": request.get("metadata") or {},
            "content": content,
            "buffers": [memoryview(b) for b in request.get("buffers") or ()],
        }
        getattr(manager, kind)(None, None, message)

    def _take_target(self, name):
        """Register ipywidgets' target ``name`` here; ipywidgets itself does so only where it is first imported."""
        callback = widgets.target(name)
        if callback is not None:
            self.manager.register_target(name, callback)
        return callback is not None

    def show_error(self):
        """Show the exception of a callback, which is being handled now, in the front end."""
        self._host.publish("error", self._host.shell.format_exception(sys.exc_info()))

    def close(self):
        if self.manager is not None:
            for one in list(self.manager.comms.values()):
                one._closed = True  # the front end is gone, so send it nothing
            self.manager.comms.clear()
            self.manager = None
            widgets.forget(self.widgets)
            _uninstall()


def _request_id(data):
    """The id that links an answer to its question, in messages that have one."""
    content = data.get("content") if isinstance(data, dict) else None
    found = content.get("id") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def _session_comms():
    cell = streams.current()
    comms = None if cell is None else cell.host.comms
    return comms if comms is not None and comms.manager is not None else None


def comm_class():
    """The class of the comms that ``create_comm`` makes; None without the ``comm`` package."""
    global _comm_class
    if _comm_class is None and _has_package():
        _comm_class = _make_comm_class()
    return _comm_class


def _has_package():
    try:
        return importlib.util.find_spec("comm") is not None
    except (ImportError, ValueError):
        return False


def _make_comm_class():
    from comm.base_comm import BaseComm

    class Comm(BaseComm):
        """A comm whose messages are events of the session that made it."""

        kernel = kernel_object.Kernel()

        def __init__(self, *args, **kwargs):
            self._comms = _session_comms()
            super(Comm, self).__init__(*args, **kwargs)

        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            if self._comms is not None:
                self._comms.publish(self, msg_type, data, metadata, buffers, keys)

        def handle_msg(self, msg):
            # Like the base class, but that needs IPython and sends errors to the app's log.
            if self._msg_callback is None or self._comms is None:
                return
            host = self._comms._host
            trigger = getattr(getattr(host.shell.ip, "events", None), "trigger", None)
            alone = not _within_cell(host)  # figures that a cell has only begun are shown when it ends
            try:
                if alone and trigger is not None:
                    trigger("pre_execute")
                with widgets.answering(self):
                    self._msg_callback(msg)
                if alone and trigger is not None:
                    trigger("post_execute")
                elif alone:
                    host.shell.figures.flush()
            except Exception:  # from the user's callback
                self._comms.show_error()

        def handle_close(self, msg):
            try:
                super(Comm, self).handle_close(msg)
            except Exception:  # from the user's callback
                self._comms.show_error()

    return Comm


def _within_cell(host):
    """Whether a cell runs on the lane of the comm whose message is handled here."""
    cell = streams.current()
    lane = None if cell is None else host.lanes.get(cell.lane) or host.lanes.get("")
    request = None if lane is None else lane.request
    return request is not None and request["id"] != cell.request_id


def _make_create_comm(found):
    def create_comm(*args, **kwargs):
        if _session_comms() is None:
            return found(*args, **kwargs)
        widgets.share()
        return comm_class()(*args, **kwargs)

    return create_comm


def _make_publish_msg(found):
    """For ``ipykernel.comm.Comm``, which Bokeh, matplotlib's nbagg and pyviz_comms use: without an ipykernel kernel it
    sends nothing."""

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        comms = _session_comms()
        if comms is None:
            return found(self, msg_type, data, metadata, buffers, **keys)
        return comms.publish(self, msg_type, data, metadata, buffers, keys)

    return publish_msg


def _make_base_init(found):
    """Check for ipykernel when any comm is made, before it sends: ipykernel may have been imported a moment ago."""

    def __init__(self, *args, **kwargs):  # noqa: N807
        _check_ipykernel()
        found(self, *args, **kwargs)

    return __init__


def _check_ipykernel():
    module = sys.modules.get("ipykernel.comm.comm")
    base = getattr(module, "BaseComm", None)
    if base is None or "publish_msg" not in vars(base) or is_layer(vars(base)["publish_msg"]):
        return
    with _lock:
        if _users[0] and not is_layer(vars(base)["publish_msg"]):
            _layers.append(Layer(base, "publish_msg", _make_publish_msg))


def _make_get_comm_manager(found):
    def get_comm_manager(*args, **kwargs):
        comms = _session_comms()
        return found(*args, **kwargs) if comms is None else comms.manager

    return get_comm_manager


_comm_class = None
_lock = threading.Lock()
_layers = []
_users = [0]
_NAMES = (("create_comm", _make_create_comm), ("get_comm_manager", _make_get_comm_manager))


def _import_places():
    """What decides whether ``comm`` can be imported: while it is the same, so is the answer. A search takes longer."""
    found = ["comm" in sys.modules, len(sys.meta_path)]
    for entry in list(sys.path):
        try:
            found.append((entry, os.stat(entry or ".").st_mtime_ns))
        except (OSError, TypeError, ValueError):  # a folder that is not there, or no path at all
            found.append((entry, None))
    return found


def _install():
    with _lock:
        _users[0] += 1
    _check()


def _check():
    """Install our hooks again if they were replaced: ipykernel does that when it is imported here."""
    import comm.base_comm

    _check_ipykernel()
    mine = [layer.value for layer in _layers]
    if all(vars(comm).get(name) in mine for name, _ in _NAMES):
        return
    with _lock:
        if _users[0]:
            for name, make in _NAMES:
                found = vars(comm).get(name)
                if not is_layer(found):
                    _layers.append(Layer(comm, name, make))
            if not is_layer(vars(comm.base_comm.BaseComm).get("__init__")):
                _layers.append(Layer(comm.base_comm.BaseComm, "__init__", _make_base_init))


def _uninstall():
    with _lock:
        _users[0] -= 1
        if _users[0] == 0:
            while _layers:
                _layers.pop().remove()
            widgets.unshare()
