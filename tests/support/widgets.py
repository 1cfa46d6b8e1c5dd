"""The widget side of a front end, by messages: what models it would have, and what its user does to them.

front = Front(kernel)
front.made(kernel.execute("import ipywidgets; ipywidgets.IntSlider()"))   # the models that the run opened
front.move(comm_id, value=7)                                             # as by hand; until the kernel is idle
"""

from __future__ import annotations

import uuid
from typing import Any

from kernels import Kernel, Message, Run

VIEW = "application/vnd.jupyter.widget-view+json"


def opened(run: Run) -> dict[str, dict[str, Any]]:
    """The models that a run opened: their states by comm id, in order."""
    return {m.content["comm_id"]: m.content["data"]["state"] for m in run.of_type("comm_open")}


def of_model(run: Run, name: str) -> str:
    """The comm id of the one model of that name that a run opened."""
    (found,) = [comm_id for comm_id, state in opened(run).items() if state.get("_model_name") == name]
    return found


def updates(run: Run, comm_id: str) -> list[dict[str, Any]]:
    """The states that a run sent for a model, without echoes."""
    data = [m.content["data"] for m in run.of_type("comm_msg") if m.content["comm_id"] == comm_id]
    return [one["state"] for one in data if one.get("method") == "update"]


def kinds(run: Run) -> list[str]:
    """The types of a run's iopub messages, with what matters of each, in order."""

    def kind(m: Message) -> str:
        if m.type == "stream":
            return f"{m.content['name']} {m.content['text']}"
        if m.type == "comm_msg":
            return f"comm_msg {m.content['data'].get('method')} {m.content['data'].get('state')}"
        if m.type == "status":
            return str(m.content["execution_state"])
        return m.type

    return [kind(m) for m in run.iopub if m.type != "execute_input"]


class Front:
    """Sends what a user's hands make a front end send."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        kernel.client.session.copy_threshold = 1 << 30  # without a copy pyzmq keeps a thread for ever

    def send(
        self,
        msg_type: str,
        comm_id: str,
        data: dict[str, Any] | None = None,
        *,
        wait: bool = True,
        target: str | None = None,
        buffers: list[bytes] | None = None,
        subshell: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Run:
        """A comm message; until the kernel says that all it causes is done, unless ``wait`` is false."""
        content = {"comm_id": comm_id, "data": data or {}, **({"target_name": target} if target else {})}
        run = self.kernel.request(msg_type, content, buffers=buffers, subshell=subshell, metadata=metadata)
        return self.done(run) if wait else run

    def done(self, run: Run) -> Run:
        self.kernel.wait_for(lambda: run.idle_at is not None, "idle of a comm message")
        return run

    def move(self, comm_id: str, **state: Any) -> Run:
        """The user changes a widget."""
        return self.send("comm_msg", comm_id, {"method": "update", "state": state, "buffer_paths": []})

    def click(self, comm_id: str, **options: Any) -> Run:
        """The user clicks a button."""
        data = {"method": "custom", "content": {"event": "click"}}
        return self.send("comm_msg", comm_id, data, **options)

    def states(self) -> dict[str, Any]:
        """All widgets as JupyterLab asks for them when a page is opened: by the control comm."""
        comm_id = uuid.uuid4().hex
        self.send("comm_open", comm_id, {}, target="jupyter.widget.control", metadata={"version": "1.0.0"})
        run = self.send("comm_msg", comm_id, {"method": "request_states"})
        (answer,) = [m for m in run.of_type("comm_msg") if m.content["comm_id"] == comm_id]
        self.send("comm_close", comm_id)
        assert answer.content["data"]["method"] == "update_states"
        return dict(answer.content["data"]["states"])

    def known(self, target: str | None = None) -> dict[str, Any]:
        """comm_info_reply."""
        return dict(self.kernel.ask("comm_info_request", {"target_name": target} if target else {})["comms"])

    def subshell(self) -> str:
        """As JupyterLab makes one for the comms of a target."""
        return str(self.kernel.ask("create_subshell_request", channel="control")["subshell_id"])
