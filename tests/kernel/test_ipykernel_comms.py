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


def test_ipykernel_is_there_to_look_for() -> None:
    with kernel_at("child") as site:
        k = site.kernel
        loaded = "'ipykernel.connect' in sys.modules"
        assert ok(k.execute(f"import sys; 'ipykernel' in sys.modules, {loaded}")).result == "(True, False)"
        found = "ipykernel.version_info >= (6,), ipykernel.__version__[:1].isdigit(), 'zmqshell' in dir(ipykernel)"
        assert ok(k.execute(f"import ipykernel; {found}, {loaded}")).result == "(True, True, True, False)"
        whole = "ipykernel.get_connection_file.__module__, ipykernel.comm.Comm.__name__, hasattr(ipykernel, 'nothing')"
        assert ok(k.execute(f"import ipykernel.comm; {whole}")).result == "('ipykernel.connect', 'Comm', False)"


def test_click_keeps_its_colours(kernel: Kernel) -> None:
    assert ok(kernel.execute("import click; click.secho('red', fg='red')")).stdout == "\x1b[31mred\x1b[0m\n"


def test_the_shells_module(site: Site) -> None:
    if not site.in_child:
        pytest.skip("in a process of somebody's own ipykernel is as its owner has it")
    code = "isinstance(get_ipython(), ipykernel.zmqshell.ZMQInteractiveShell)"
    with kernel_at("child") as fresh:
        assert ok(fresh.kernel.execute("import ipykernel.zmqshell; " + code)).result == "True"
    ok(site.kernel.execute("from ipykernel.zmqshell import ZMQDisplayPublisher, KernelMagics, ZMQInteractiveShell"))
    assert ok(site.kernel.execute("ZMQInteractiveShell is type(get_ipython()), KernelMagics.__module__")).result == (
        "(True, 'ipykernel.zmqshell')"
    )


def test_the_parent_of_a_cell(kernel: Kernel) -> None:
    code = "p = get_ipython().parent_header; print(*sorted(p), p['metadata'], p['header']['msg_type'])"
    keys = "buffers content header metadata msg_id msg_type parent_header"
    assert ok(kernel.execute(code)).stdout == f"{keys} {{}} execute_request\n"


def test_the_kernels_session_sends_output(kernel: Kernel) -> None:
    code = """
k = get_ipython().kernel
def send(kind, content, **more):
    k.session.send(k.iopub_socket, kind, content, parent=k.get_parent(), **more)
send('display_data', {'data': {'text/plain': 'one'}, 'metadata': {}, 'transient': {'display_id': 'd'}})
k.send_response(k.iopub_socket, 'update_display_data',
    {'data': {'text/plain': 'two'}, 'metadata': {}, 'transient': {'display_id': 'd'}})
send('stream', {'name': 'stderr', 'text': 'three'})
send('status', {'execution_state': 'idle'})
send('display_data', {'data': {'text/plain': 'four'}, 'metadata': {}}, metadata={'m': 1})
"""
    run = ok(kernel.execute(code))
    assert [m.content["data"]["text/plain"] for m in run.output if "data" in m.content] == ["one", "two", "four"]
    assert run.stderr == "three"
    assert run.output[-1].metadata["m"] == 1


def test_what_replaces_run_cell_is_called(kernel: Kernel) -> None:
    code = """
ip = get_ipython(); kept = ip.run_cell
def run_cell(raw, *args, **kwargs):
    kept("print('before')", store_history=False)
    return kept(raw, *args, **kwargs)
ip.run_cell = run_cell
"""
    ok(kernel.execute(code))
    run = ok(kernel.execute("1 + 1"))
    assert (run.stdout, run.result) == ("before\n", "2")
    assert kernel.execute("1 / 0").reply["ename"] == "ZeroDivisionError"  # type: ignore[index]
    ok(kernel.execute("import asyncio; await asyncio.sleep(0)"))
    ok(kernel.execute("ip.run_cell = kept"))
    run = ok(kernel.execute("2 + 1"))
    assert (run.stdout, run.result) == ("", "3")


def test_magics_of_ipykernel(kernel: Kernel) -> None:
    assert ok(kernel.execute("kept = [1]\n%store kept")).stdout == "Stored 'kept' (list)\n"
    ok(kernel.execute("del kept\n%store -r kept\n%rehashx"))
    assert ok(kernel.execute("kept")).result == "[1]"
    assert "%flame attach" in ok(kernel.execute("%connect_info")).stdout
    assert "thread count" in ok(kernel.execute("%subshell")).stdout
    assert "jupyter flame console" in ok(kernel.execute("%qtconsole")).stdout


def test_the_profile(kernel: Kernel) -> None:
    run = ok(kernel.execute("import os; p = get_ipython().profile_dir; os.path.isdir(p.startup_dir), p.location"))
    assert str(run.result).startswith("(True, ")


def test_bytes_of_stdin(kernel: Kernel) -> None:
    run = kernel.execute("import sys; b = sys.stdin.buffer; b.readline(), b.readline()", answers=("é", "two"))
    assert ok(run).result == repr(("é\n".encode(), b"two\n"))


def test_a_cell_that_shuts_the_kernel_down() -> None:
    with kernel_at("child") as site:
        run = site.kernel.execute("gone = 1; get_ipython().kernel.do_shutdown(True)")
        assert ok(run).result == "{'status': 'ok', 'restart': True}"
        site.kernel.wait_for(lambda: ok(site.kernel.execute("'gone' in globals()")).result == "False", "a new process")
    with kernel_at("process") as site:
        assert "restart the kernel" in site.kernel.execute("get_ipython().kernel.do_shutdown(True)").stderr
        ok(site.kernel.execute("1"))
