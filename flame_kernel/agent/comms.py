"""Comms of a session, by the two hooks of the ``comm`` package: widgets, and whatever else talks to the front end.

``comm.create_comm`` and ``comm.get_comm_manager`` belong to the whole process: ours find the caller's session, and fall
through to what was there. Each session has a manager, so two sessions in one process keep their comms apart.

A message of the front end runs on the loop of a lane, between the steps of a cell that awaits. If it answers what a
certain lane has sent, it runs there (https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages).
"""

import importlib.util
import threading

from . import streams
from .layers import Layer


class Comms:
    """The comms of one session; made on its first thread. Without the ``comm`` package there is nothing to do."""

    def __init__(self, host):
        self._host = host
        self._lanes = {}  # comm id -> name of the lane that sent last; (comm id, request id) -> lane that asked
        self.manager = None
        if importlib.util.find_spec("comm") is not None:
            from comm.base_comm import CommManager

            self.manager = CommManager()
            _install()

    def info(self):
        """The content of a comm_info_reply, all targets."""
        comms = {} if self.manager is None else dict(self.manager.comms)
        return {"status": "ok", "comms": {k: {"target_name": c.target_name} for k, c in comms.items()}}

    def sent(self, comm_id, data):
        """A comm of ours has sent ``data``: what answers it runs on the same lane."""
        cell = streams.current()
        lane = "" if cell is None else cell.lane
        self._lanes[comm_id] = lane
        asked = _request_id(data)
        if asked is not None:
            self._lanes[comm_id, asked] = lane

    def lane_for(self, request):
        """The name of the lane on which a message of the front end is to run."""
        content = request["content"]
        comm_id = content.get("comm_id")
        asked = _request_id(content.get("data"))
        if asked is not None and (comm_id, asked) in self._lanes:
            return self._lanes.pop((comm_id, asked))
        return self._lanes.get(comm_id, request.get("lane") or "")

    def receive(self, request):
        """Deliver a comm_open, comm_msg or comm_close; on the thread of its lane."""
        if self.manager is None:
            return
        message = {
            "header": {"msg_id": request["id"], "msg_type": request["msg_type"]},
            "parent_header": {},
            "metadata": request.get("metadata") or {},
            "content": request["content"],
            "buffers": [memoryview(b) for b in request.get("buffers") or ()],
        }
        getattr(self.manager, request["msg_type"])(None, None, message)

    def close(self):
        if self.manager is not None:
            for one in list(self.manager.comms.values()):
                one._closed = True  # the front end is gone: nothing to tell it
            self.manager.comms.clear()
            self.manager = None
            _uninstall()


def _request_id(data):
    """The id by which an answer names its question, in messages that have one."""
    content = data.get("content") if isinstance(data, dict) else None
    found = content.get("id") if isinstance(content, dict) else None
    return found if isinstance(found, str) else None


def _session_comms():
    cell = streams.current()
    comms = None if cell is None else cell.host.comms
    return comms if comms is not None and comms.manager is not None else None


def _make_create_comm(found):
    from comm.base_comm import BaseComm

    class Comm(BaseComm):
        """A comm whose messages are events of the session that made it."""

        def __init__(self, *args, **kwargs):
            self._comms = _session_comms()
            super(Comm, self).__init__(*args, **kwargs)

        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
            comms = self._comms
            if comms is None or comms.manager is None:
                return
            data = {} if data is None else data
            comms.sent(self.comm_id, data)
            comms._host.publish(msg_type, dict(keys, data=data, comm_id=self.comm_id), metadata, buffers)

    def create_comm(*args, **kwargs):
        if _session_comms() is None:
            return found(*args, **kwargs)
        return Comm(*args, **kwargs)

    return create_comm


def _make_get_comm_manager(found):
    def get_comm_manager(*args, **kwargs):
        comms = _session_comms()
        return found(*args, **kwargs) if comms is None else comms.manager

    return get_comm_manager


_lock = threading.Lock()
_layers = []
_users = [0]


def _install():
    import comm

    with _lock:
        _users[0] += 1
        if not _layers:
            _layers.append(Layer(comm, "create_comm", _make_create_comm))
            _layers.append(Layer(comm, "get_comm_manager", _make_get_comm_manager))


def _uninstall():
    with _lock:
        _users[0] -= 1
        if _users[0] == 0:
            while _layers:
                _layers.pop().remove()
