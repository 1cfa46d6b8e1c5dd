"""Comms made by ``ipykernel.comm.Comm``, and what libraries look at to know that a notebook is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel, Run
from places import Site, kernel_at, ok


@pytest.fixture(scope="module", params=["child", "process"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        quiet = "import warnings\nwarnings.simplefilter('ignore')\nfrom ipykernel.comm import Comm"
        ok(site.kernel.execute(quiet))
        yield site


@pytest.fixture
def kernel(site: Site) -> Kernel:
    return site.kernel


def comms(run: Run) -> list[tuple[str, object]]:
    return [(m.type, m.content.get("data")) for m in run.of_type("comm_open", "comm_msg", "comm_close")]


def test_it_opens_sends_and_closes(kernel: Kernel) -> None:
    run = ok(kernel.execute("c = Comm('target', data={'a': 1}); c.send({'b': 2}, buffers=[b'xyz']); c.close({'d': 3})"))
    assert comms(run) == [("comm_open", {"a": 1}), ("comm_msg", {"b": 2}), ("comm_close", {"d": 3})]
    (sent,) = run.of_type("comm_msg")
    assert [bytes(one) for one in sent.buffers] == [b"xyz"]


def test_a_message_of_the_front_end_arrives(kernel: Kernel) -> None:
    ok(kernel.execute("got = []\nc = Comm(target_name='target'); c.on_msg(lambda m: got.append(m['content']['data']))"))
    comm_id = str(ok(kernel.execute("c.comm_id")).result).strip("'")
    sent = kernel.request("comm_msg", {"comm_id": comm_id, "data": {"x": 1}})
    kernel.wait_for(lambda: sent.idle_at, "the end of a comm message")
    assert ok(kernel.execute("got")).result == "[{'x': 1}]"


def test_a_subclass_and_a_thread(kernel: Kernel) -> None:
    code = """
import threading
class Mine(Comm):
    pass
def work():
    Mine(target_name='threaded', data={'n': 5})
thread = threading.Thread(target=work); thread.start(); thread.join()
"""
    assert comms(ok(kernel.execute(code))) == [("comm_open", {"n": 5})]


def test_targets_of_the_kernels_comm_manager(kernel: Kernel) -> None:
    code = (
        "opened = []\nget_ipython().kernel.comm_manager.register_target('mine', lambda comm, msg: opened.append(comm))"
    )
    ok(kernel.execute(code))
    sent = kernel.request("comm_open", {"comm_id": "abc", "target_name": "mine", "data": {}})
    kernel.wait_for(lambda: sent.idle_at, "the end of a comm message")
    assert comms(ok(kernel.execute("opened[0].send({'y': 2})"))) == [("comm_msg", {"y": 2})]


def test_nbagg(kernel: Kernel) -> None:
    code = "%matplotlib notebook\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"
    run = ok(kernel.execute(code))
    assert [m.content["target_name"] for m in run.of_type("comm_open")] == ["matplotlib"]
    assert run.of_type("comm_msg")
    ok(kernel.execute("plt.close('all')\n%matplotlib inline"))


def test_what_libraries_look_at(kernel: Kernel) -> None:
    code = """
import sys, ipykernel.iostream
shell, stream = type(get_ipython()), sys.stdout.__class__
print(shell.__module__, shell.__name__, stream.__module__, stream.__name__,
 isinstance(sys.stdout, ipykernel.iostream.OutStream), isinstance(sys.stderr, ipykernel.iostream.OutStream))
"""
    wanted = "ipykernel.zmqshell ZMQInteractiveShell ipykernel.iostream OutStream True True\n"
    assert ok(kernel.execute(code)).stdout == wanted


def test_click_keeps_its_colours(kernel: Kernel) -> None:
    assert ok(kernel.execute("import click; click.secho('red', fg='red')")).stdout == "\x1b[31mred\x1b[0m\n"


def test_the_shells_module(site: Site) -> None:
    if not site.in_child:
        pytest.skip("in a process of somebody's own ipykernel is as its owner has it")
    ok(site.kernel.execute("import ipykernel.zmqshell"))
    ok(site.kernel.execute("from ipykernel.zmqshell import ZMQDisplayPublisher"))
    code = "isinstance(get_ipython(), ipykernel.zmqshell.ZMQInteractiveShell)"
    assert ok(site.kernel.execute(code)).result == "True"
