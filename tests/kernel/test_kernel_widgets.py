"""ipywidgets on the far side, by the messages that a front end sends and gets: in a child, and in an app's process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import nbformat
import pytest
from farside import FlameServer
from flakylink import FlakyLink
from kernels import Kernel, remote_flame
from nbclient import NotebookClient
from needs import missing
from places import Site, kernel_at, kernel_on, ok, server_at, uncoloured
from traitlets.config import Config
from widgets import VIEW, Front, kinds, of_model, opened, updates

Start = Callable[..., FlameServer]

IMPORTS = "import ipywidgets as w, time, threading, asyncio\nfrom IPython.display import display"


@pytest.fixture(scope="module", params=["child", "process"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        ok(site.kernel.execute(IMPORTS))
        yield site


@pytest.fixture
def k(site: Site) -> Kernel:
    return site.kernel


@pytest.fixture
def front(site: Site) -> Front:
    return Front(site.kernel)


def test_a_slider_and_its_callback(k: Kernel, front: Front) -> None:
    run = ok(k.execute("s = w.IntSlider()\ns.observe(lambda c: print('now', c.new), 'value')\ns"))
    slider = of_model(run, "IntSliderModel")
    (shown,) = run.of_type("execute_result")
    assert shown.content["data"][VIEW]["model_id"] == slider
    moved = front.move(slider, value=7)
    assert kinds(moved) == ["busy", "comm_msg echo_update {'value': 7}", "stdout now 7\n", "idle"]
    assert k.execute("s.value").result == "7"
    assert updates(ok(k.execute("s.value = 42")), slider) == [{"value": 42}]
    closed = ok(k.execute("s.close()"))
    assert [m.content["comm_id"] for m in closed.of_type("comm_close")] == [slider]
    assert slider not in front.known()
    assert f"no widget with the comm {slider}" in front.move(slider, value=8).stderr


def test_what_an_output_widget_captures(k: Kernel, front: Front) -> None:
    run = ok(k.execute("out = w.Output()\nb = w.Button()\nout"))
    out, button = of_model(run, "OutputModel"), of_model(run, "ButtonModel")
    run = ok(k.execute("with out:\n    print('in')\n    display('shown')\nprint('not in')"))
    begins, ends = f"comm_msg update {{'msg_id': '{run.id}'}}", "comm_msg update {'msg_id': ''}"
    assert kinds(run) == ["busy", begins, "stdout in\n", "display_data", ends, "stdout not in\n", "idle"]
    clicked = "def clicked(_):\n    with out:\n        print('clicked')\n        1 / 0\n    print('on')\n"
    ok(k.execute(f"{clicked}b.on_click(clicked)"))
    run = front.click(button)
    begins = f"comm_msg update {{'msg_id': '{run.id}'}}"
    assert kinds(run) == ["busy", begins, "stdout clicked\n", "error", ends, "stdout on\n", "idle"]
    assert run.error
    assert run.error["ename"] == "ZeroDivisionError"
    run = ok(
        k.execute("out.append_stdout('appended')\n@out.capture(clear_output=True)\ndef f(): print('captured')\nf()")
    )
    assert {"outputs": [{"output_type": "stream", "name": "stdout", "text": "appended"}]} in updates(run, out)
    assert [kind for kind in kinds(run) if not kind.startswith("comm")] == [
        "busy", "clear_output", "stdout captured\n", "idle",
    ]  # fmt: skip


def test_interact(k: Kernel, front: Front) -> None:
    run = ok(k.execute("@w.interact(x=(0, 10))\ndef double(x=3):\n    print('x is', x)\n    return 2 * x"))
    assert run.stdout == "x is 3\n"
    assert [data["text/plain"] for data in run.displays if VIEW not in data] == ["6"]
    moved = front.move(of_model(run, "IntSliderModel"), value=4)
    assert moved.stdout == "x is 4\n"
    assert moved.displays == [{"text/plain": "8"}]
    assert len(moved.of_type("clear_output")) == 1


def test_a_callback_that_fails_says_so(k: Kernel, front: Front) -> None:
    ok(k.execute("s = w.IntSlider()\ns.observe(lambda c: 1 / 0, 'value')"))
    moved = front.move(str(k.execute("print(s.model_id, end='')").stdout), value=1)
    assert moved.error
    assert moved.error["ename"] == "ZeroDivisionError"
    assert "flame_agent" not in uncoloured(moved.traceback)


def test_tqdm(site: Site, k: Kernel) -> None:
    which = "auto" if site.in_child else "notebook"  # an app has one tqdm.auto for all that is in it
    run = ok(k.execute(f"from tqdm.{which} import tqdm\nfor i in tqdm(range(4), desc='four'): time.sleep(0.11)"))
    bar = of_model(run, "FloatProgressModel")
    assert opened(run)[bar]["max"] == 4.0
    assert [state["value"] for state in updates(run, bar) if "value" in state][-1] == 4.0
    assert {"bar_style": "success"} in updates(run, bar)
    assert run.stderr == ""


NUMPY_WIDGET = """
import numpy as np, traitlets
class Array(w.DOMWidget):
    _model_name = traitlets.Unicode("ArrayModel").tag(sync=True)
    value = traitlets.Any().tag(
        sync=True,
        to_json=lambda a, _: {"buffer": memoryview(a), "shape": a.shape, "type": str(a.dtype)},
        from_json=lambda v, _: np.frombuffer(v["buffer"], v["type"]).reshape(v["shape"]),
    )
array = Array(value=np.arange(6.0).reshape(2, 3))
"""


def test_buffers_both_ways(k: Kernel, front: Front) -> None:
    run = ok(k.execute("image = w.Image(value=bytes(range(256)) * 1000)"))
    (message,) = [m for m in run.of_type("comm_open") if m.buffers]
    assert [bytes(b) for b in message.buffers] == [bytes(range(256)) * 1000]
    assert message.content["data"]["buffer_paths"] == [["value"]]
    new = os.urandom(3_000_000)
    data = {"method": "update", "state": {"format": "jpeg"}, "buffer_paths": [["value"]]}
    front.send("comm_msg", of_model(run, "ImageModel"), data, buffers=[new])
    assert k.execute("bytes(image.value).hex()[:20], len(image.value), image.format").result == repr(
        (new.hex()[:20], 3_000_000, "jpeg")
    )
    run = ok(k.execute(NUMPY_WIDGET))
    sent = run.of_type("comm_open")[-1]
    assert sent.content["data"]["state"]["value"] == {"shape": [2, 3], "type": "float64"}
    assert sent.content["data"]["buffer_paths"] == [["value", "buffer"]]
    assert bytes(sent.buffers[0]) == struct.pack("6d", *range(6))
    state = {"value": {"shape": [3], "type": "int16"}}
    data = {"method": "update", "state": state, "buffer_paths": [["value", "buffer"]]}
    front.send("comm_msg", of_model(run, "ArrayModel"), data, buffers=[struct.pack("3h", 1, -2, 3)])
    assert k.execute("array.value.tolist()").result == "[1, -2, 3]"


def test_a_message_that_is_too_large_is_left_out(k: Kernel) -> None:
    run = ok(k.execute("image = w.Image()\nimage.value = bytes(70_000_000)\nimage.width = '9'"))
    assert "[comm_msg of 66.8 MiB left out: more than the 60 MiB of one message]" in run.stderr
    assert updates(run, of_model(run, "ImageModel")) == [{"width": "9"}]


def test_while_a_cell_computes(k: Kernel, front: Front) -> None:
    """The subshell that the front end names runs callbacks, in order; without one they wait for the cell."""
    subshell = front.subshell()
    cell = "seen = []\ns = w.IntSlider()\ns.observe(lambda c: (seen.append(c.new), print('saw', c.new)), 'value')\n"
    slider = of_model(ok(k.execute(cell)), "IntSliderModel")
    busy = k.submit("print('go')\nwhile s.value < 20: time.sleep(0.01)\nthreading.current_thread().name, seen")
    k.wait_for_output(busy, "go")
    moves = []
    for value in range(1, 21):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        moves.append(front.send("comm_msg", slider, data, wait=False, subshell=subshell))
    k.wait(busy)
    assert str(list(range(1, 21))) in str(busy.result)
    for value, move in enumerate(moves, 1):
        echo = f"comm_msg echo_update {{'value': {value}}}"
        assert kinds(front.done(move)) == ["busy", echo, f"stdout saw {value}\n", "idle"]
    # What a cell awaits is woken by callbacks on its own loop: they have not moved away from there.
    ok(k.execute("at = asyncio.Event()\ns.observe(lambda c: at.set(), 'value')"))
    awaits = k.submit("print('go')\nawait asyncio.wait_for(at.wait(), 20)\ns.value")
    k.wait_for_output(awaits, "go")
    data = {"method": "update", "state": {"value": 33}, "buffer_paths": []}
    front.send("comm_msg", slider, data, subshell=subshell)
    assert k.wait(awaits).result == "33"
    k.ask("delete_subshell_request", {"subshell_id": subshell}, channel="control")


def test_stop_ends_a_callback(k: Kernel, front: Front) -> None:
    ok(
        k.execute(
            "b = w.Button()\ndef work(_):\n    print('begun')\n    while True: time.sleep(0.01)\nb.on_click(work)"
        )
    )
    run = front.click(str(k.execute("print(b.model_id, end='')").stdout), wait=False)
    k.wait_for_output(run, "begun")
    k.interrupt()
    front.done(run)
    assert run.error
    assert run.error["ename"] == "KeyboardInterrupt"
    assert k.execute("1 + 1").result == "2"


def test_a_callback_that_blocks_can_be_abandoned(site: Site, k: Kernel, front: Front) -> None:
    """In a process nothing ends a call that blocks in C; the session goes on without it, and so do other callbacks."""
    ok(k.execute("b = w.Button()\ndef work(_):\n    print('begun')\n    time.sleep(8)\nb.on_click(work)"))
    button = str(k.execute("print(b.model_id, end='')").stdout)
    run = front.click(button, wait=False)
    k.wait_for_output(run, "begun")
    k.interrupt()
    if not site.in_child:
        k.wait_for_output(run, "still in time.sleep")
        k.interrupt()
    front.done(run)
    assert kinds(front.move(button, tooltip="quick")) == ["busy", "comm_msg echo_update {'tooltip': 'quick'}", "idle"]
    assert k.execute("b.tooltip").result == "'quick'"


def test_targets_that_the_front_end_opens(k: Kernel, front: Front) -> None:
    ok(k.execute(
        "import comm\ndef target(c, message):\n"
        "    print('opened', message['content']['data'], message['metadata'])\n"
        "    c.on_msg(lambda m: c.send({'twice': 2 * m['content']['data']['n']}, buffers=[m['buffers'][0]]))\n"
        "    c.on_close(lambda m: print('closed'))\n"
        "comm.get_comm_manager().register_target('ours', target)\n"
        "assert get_ipython().kernel.comm_manager is comm.get_comm_manager()"
    ))  # fmt: skip
    name = uuid.uuid4().hex
    run = front.send("comm_open", name, {"a": 1}, target="ours", metadata={"b": 2})
    assert run.stdout == "opened {'a': 1} {'b': 2}\n"
    assert front.known("ours") == {name: {"target_name": "ours"}}
    (answer,) = front.send("comm_msg", name, {"n": 4}, buffers=[b"xyz"]).of_type("comm_msg")
    assert (answer.content["data"], bytes(answer.buffers[0])) == ({"twice": 8}, b"xyz")
    assert front.send("comm_close", name).stdout == "closed\n"
    assert front.known("ours") == {}
    run = front.send("comm_open", "x", target="nobody's")
    assert [m.content["comm_id"] for m in run.of_type("comm_close")] == ["x"]
    assert run.stderr == "No such comm target registered: nobody's\n"


def test_a_hook_that_ipykernel_replaces_is_put_back(k: Kernel) -> None:
    ok(k.execute("import ipykernel.ipkernel"))
    assert opened(ok(k.execute("w.IntSlider()")))


def test_a_library_that_is_missing_is_named(k: Kernel) -> None:
    run = k.execute("raise ModuleNotFoundError(\"No module named 'ipympl'\")")
    assert run.stderr.startswith("Widgets need ipympl, which is not installed on ")
    assert run.stderr.endswith("%pip install ipympl; without internet there: %flame pip install ipympl\n")
    assert k.execute("import nonsense_that_is_not").stderr == ""


def test_two_sessions_in_one_process() -> None:
    """Each has its own comms, targets and widgets, also for those who ask for all; and the app has what it had."""
    own = "import sys\ntable = sys.modules['ipywidgets.widgets.widget']._instances\n"
    with server_at("process") as server, kernel_on(server, "process") as one:
        ok(one.kernel.execute(f"{IMPORTS}\na = w.IntSlider(description='a')"))
        with kernel_on(server, "process") as two:
            ok(two.kernel.execute(f"{IMPORTS}\nb = w.IntSlider(description='b')"))
            fronts = Front(one.kernel), Front(two.kernel)
            states = [front.states() for front in fronts]
            assert [set(front.known("jupyter.widget")) for front in fronts] == [set(found) for found in states]
            assert not set(states[0]) & set(states[1])
            names = [[s["state"]["description"] for s in found.values() if "value" in s["state"]] for found in states]
            assert names == [["a"], ["b"]]
            ok(two.kernel.execute("w.Widget.close_all()"))
            assert fronts[1].states() == {}
            slider = str(one.kernel.execute("print(a.model_id, end='')").stdout)
            assert kinds(fronts[0].move(slider, value=5)) == ["busy", "comm_msg echo_update {'value': 5}", "idle"]
        assert one.kernel.execute(f"{own}len(table), a.value").result == "(3, 5)"


def test_after_a_healed_link(key_file: Callable[[str], Path], flame_server: Start) -> None:
    server = flame_server(key=(key := farside.random_key()))
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(FlakyLink(server.location))
        env: dict[str, str | None] = {"FLAME_TARGET": link.location, "FLAME_KEY_FILE": str(key_file(key))}
        k = stack.enter_context(remote_flame(env))
        front = Front(k)
        cell = f"{IMPORTS}\ns = w.IntSlider(max=1000)\ns.observe(lambda c: print(c.new), 'value')"
        slider = of_model(ok(k.execute(cell)), "IntSliderModel")
        assert front.move(slider, value=1).stdout == "1\n"
        link.cut()
        assert front.move(slider, value=2).stdout == "2\n"
        link.down()
        link.cut()
        data = {"method": "update", "state": {"value": 3}, "buffer_paths": []}
        run = front.send("comm_msg", slider, data, wait=False)
        link.up()
        assert front.done(run).stdout == "3\n"
        assert updates(ok(k.execute("s.value = 9")), slider) == [{"value": 9}]


def test_after_a_new_kernel_has_attached(key_file: Callable[[str], Path], flame_server: Start) -> None:
    """It opens the widgets in its front end, those first to which others refer, and they answer."""
    server = flame_server(key=(key := farside.random_key()))
    env: dict[str, str | None] = {"FLAME_TARGET": server.location, "FLAME_KEY_FILE": str(key_file(key))}
    with remote_flame(env) as k:
        ok(k.execute(
            f"{IMPORTS}\nbox = w.VBox()\ns = w.IntSlider()\nim = w.Image(value=b'png')\n"
            "box.children = [s, im]\ns.observe(lambda c: print('still', c.new), 'value')\ns.value = 3"
        ))  # fmt: skip
        name = k.execute("%flame status").stdout.partition("; session ")[2].partition(";")[0]
        os.kill(k.pid, signal.SIGKILL)
        k.kill()
    with remote_flame(env) as k:
        front = Front(k)
        run = ok(k.execute(f"%flame attach {name}"))
        models = opened(run)
        order = [state["_model_name"] for state in models.values()]
        assert sorted(order)[-4:] == ["LayoutModel", "LayoutModel", "SliderStyleModel", "VBoxModel"]
        assert order[-1] == "VBoxModel"
        slider = of_model(run, "IntSliderModel")
        assert models[slider]["value"] == 3
        assert [f"IPY_MODEL_{slider}"] == models[of_model(run, "VBoxModel")]["children"][:1]
        assert [bytes(m.buffers[0]) for m in run.of_type("comm_open") if m.buffers] == [b"png"]
        assert front.move(slider, value=8).stdout == "still 8\n"
        assert set(front.known()) == set(models) == set(front.states())
        shown = ok(k.execute("box")).of_type("execute_result")[0]
        assert shown.content["data"][VIEW]["model_id"] == of_model(run, "VBoxModel")


def test_without_ipython(tmp_path: Path) -> None:
    """Comms of one's own need the ``comm`` package only; what is missing is said in one sentence."""
    import comm

    with kernel_at("child-bare") as site:
        k, front = site.kernel, Front(site.kernel)
        run = k.execute("import ipywidgets")
        assert "Widgets need ipywidgets, which is not installed on " in run.stderr
        assert run.stderr.endswith(
            "%pip install ipywidgets, then restart the kernel (widgets need IPython there as well); "
            "without internet there: %flame pip install ipywidgets\n"
        )
        run = front.send("comm_open", "c", target="jupyter.widget.control")
        assert kinds(run) == ["busy", "comm_close", "idle"]
        assert front.known() == {}
        (tmp_path / "comm").symlink_to(Path(comm.__file__).parent)
        ok(k.execute(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})"))
        run = ok(k.execute(
            "import comm\nc = comm.create_comm(target_name='mine', data={'n': 1}, buffers=[b'abc'])\n"
            "c.on_msg(lambda m: print('got', m['content']['data'], bytes(m['buffers'][0])))"
        ))  # fmt: skip
        (message,) = run.of_type("comm_open")
        assert (message.content["target_name"], bytes(message.buffers[0])) == ("mine", b"abc")
        run = front.send("comm_msg", message.content["comm_id"], {"x": 2}, buffers=[b"def"])
        assert run.stdout == "got {'x': 2} b'def'\n"
        ok(k.execute("c.on_msg(lambda m: 1 / 0)"))
        run = front.send("comm_msg", message.content["comm_id"])
        assert run.error
        assert run.error["ename"] == "ZeroDivisionError"


def test_the_shell_of_ours_beside_ipython() -> None:
    """FLAME_SHELL=mini where IPython could be had: widgets, callbacks and Output work."""
    with kernel_at("child-mini") as site:
        k, front = site.kernel, Front(site.kernel)
        run = ok(k.execute("import ipywidgets as w\nout = w.Output()\ns = w.IntSlider()\ns"))
        assert VIEW in run.of_type("execute_result")[0].content["data"]
        run = ok(k.execute("with out:\n    print('in')\ns.observe(lambda c: print('now', c.new), 'value')"))
        assert updates(run, str(k.execute("print(out.model_id, end='')").stdout)) == [
            {"msg_id": run.id},
            {"msg_id": ""},
        ]
        assert front.move(str(k.execute("print(s.model_id, end='')").stdout), value=2).stdout == "now 2\n"
        assert len(front.states()) == 5


def test_ipympl(tmp_path: Path) -> None:
    """A figure that can be turned and zoomed: its pictures come as buffers, its mouse goes to the far side."""
    if importlib.util.find_spec("ipympl") is None:
        missing("ipympl")
    with kernel_at("child") as site:
        k, front = site.kernel, Front(site.kernel)
        code = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2, 3])\nplt.show()"
        run = ok(k.execute(f"%matplotlib widget\n{code}"))
        canvas = of_model(run, "MPLCanvasModel")
        assert [data[VIEW]["model_id"] for data in run.displays if VIEW in data] == [canvas]
        for kind in ("send_image_mode", "initialized", "draw"):
            drawn = front.send("comm_msg", canvas, {"method": "custom", "content": {"type": kind}})
        assert [bytes(m.buffers[0])[:4] for m in drawn.of_type("comm_msg") if m.buffers] == [b"\x89PNG"]
        pressed = "fig.canvas.mpl_connect('button_press_event', lambda e: print('pressed', e.inaxes is ax))"
        ok(k.execute(f"number = {pressed}"))
        event = {"type": "button_press", "x": 300, "y": 200, "button": 0, "buttons": 1, "modifiers": [], "guiEvent": {}}
        assert front.send("comm_msg", canvas, {"method": "custom", "content": event}).stdout == "pressed True\n"
        # A cell is busy with a new figure while the front end draws the one before: the new one is shown by its cell.
        flag = tmp_path / "flag"
        wait = f"while not os.path.exists({str(flag)!r}): time.sleep(0.01)"
        busy = k.submit(f"import os, time\nnew = plt.figure()\nprint('go')\n{wait}")
        k.wait_for_output(busy, "go")
        refresh = {"method": "custom", "content": {"type": "refresh"}}
        asked = front.send("comm_msg", canvas, refresh, subshell=front.subshell())
        flag.touch()
        assert not [data for data in asked.displays if VIEW in data]
        assert [VIEW in data for data in k.wait(busy).displays] == [True]


def test_nbclient_keeps_widgets_and_their_output(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in site.server.environ().items():
        monkeypatch.setenv(name, value)
    cells = [
        f"{IMPORTS}\nfrom tqdm.notebook import tqdm",
        "out = w.Output()\ns = w.IntSlider(value=5)\ndisplay(w.VBox([s, out]))\n"
        "with out:\n    print('captured')\nprint('not')",
        "for i in tqdm(range(3)): pass",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])  # type: ignore[no-untyped-call]
    # By files, not ports: another kernel may take a port that the manager has found free.
    by_files = Config({"KernelManager": {"transport": "ipc", "connection_file": str(tmp_path / "k.json")}})
    NotebookClient(nb, kernel_name="flame", timeout=50, config=by_files).execute()
    assert [o.get("text") for o in nb.cells[1].outputs if o.output_type == "stream"] == ["not\n"]
    (view,) = [o for o in nb.cells[1].outputs if o.output_type == "display_data"]
    saved: dict[str, Any] = nb.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    box = saved[view.data[VIEW]["model_id"]]["state"]
    inside = [saved[child[len("IPY_MODEL_") :]] for child in box["children"]]
    assert [one["model_name"] for one in inside] == ["IntSliderModel", "OutputModel"]
    assert inside[0]["state"]["value"] == 5
    assert inside[1]["state"]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "captured\n"}]
    assert [o.output_type for o in nb.cells[2].outputs] == ["display_data"]
