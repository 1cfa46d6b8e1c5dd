"""What cells print and show, through the kernel: as it happens, complete, in order, few messages, in its own cell."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from kernels import Kernel, Message, Run
from places import Site, kernel_at, kernel_on, ok, server_at

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="  # one pixel


# Where the shell makes no difference.
with_ipython = pytest.mark.parametrize("site", ["child", "process"], indirect=True)
in_a_child = pytest.mark.parametrize("site", ["child", "child-bare"], indirect=True)


def waits_for(go: Path) -> str:
    """Code that waits until the test lets it go on."""
    return f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.001)\n"


# -- streams ---------------------------------------------------------------------------------------------------------


def test_stdout_and_stderr_are_kept_apart_and_in_order(kernel: Kernel) -> None:
    code = "import sys\nfor n in range(300):\n    print('out', n)\n    print('err', n, file=sys.stderr)\nprint('end')"
    run = ok(kernel.execute(code))
    assert run.stdout == "".join(f"out {n}\n" for n in range(300)) + "end\n"
    assert run.stderr == "".join(f"err {n}\n" for n in range(300))


def test_text_stays_in_its_place_among_displays(kernel: Kernel) -> None:
    code = "for n in range(5):\n    print('before', n)\n    display(n)\nprint('after')\n'the end'"
    run = ok(kernel.execute(code))
    shown: list[str] = []
    for message in run.output:
        content = message.content
        shown.append(content["text"] if message.type == "stream" else content["data"]["text/plain"])
    assert shown == [*(text for n in range(5) for text in (f"before {n}\n", str(n))), "after\n", "'the end'"]


def test_the_first_output_comes_before_the_cell_ends(kernel: Kernel, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = kernel.submit(f"print('first', flush=True)\n{waits_for(go)}print('last')")
    kernel.wait_for_output(run, "first")
    assert run.reply is None
    go.touch()
    assert ok(kernel.wait(run)).stdout == "first\nlast\n"
    # The same for text without an end of line and without a flush.
    go.unlink()
    run = kernel.submit(f"print('partial ', end='')\n{waits_for(go)}print('whole')")
    kernel.wait_for_output(run, "partial")
    go.touch()
    assert ok(kernel.wait(run)).stdout == "partial whole\n"


def most_in_a_second(messages: list[Message]) -> int:
    """The largest number of these messages that arrived within one second."""
    times = [message.at for message in messages]
    return max(sum(1 for t in times if start <= t < start + 1) for start in times)


FLOODS: dict[str, tuple[str, str, str]] = {
    "lines": (
        "for n in range(100000):\n    print('line', n, flush=True)",
        "".join(f"line {n}\n" for n in range(100000)),
        "",
    ),
    "characters": (
        "import sys\nfor n in range(100000):\n    sys.stdout.write('0123456789'[n % 10])\n    sys.stdout.flush()",
        "0123456789" * 10000,
        "",
    ),
    "both": (
        "import sys\nfor n in range(30000):\n    sys.stdout.write('o%d ' % n)\n    sys.stderr.write('e%d ' % n)",
        "".join(f"o{n} " for n in range(30000)),
        "".join(f"e{n} " for n in range(30000)),
    ),
    "drip": (
        "import sys, time\nfor n in range(1200):\n    print('o', n)\n    print('e', n, file=sys.stderr)\n"
        "    time.sleep(0.001)",
        "".join(f"o {n}\n" for n in range(1200)),
        "".join(f"e {n}\n" for n in range(1200)),
    ),
    "long": (
        "for n in range(6000):\n    print('%5d' % n * 1000)",
        "".join(f"{n:5d}" * 1000 + "\n" for n in range(6000)),
        "",
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
@with_ipython
def test_a_flood_is_complete_in_few_messages_a_second(site: Site, flood: str) -> None:
    code, stdout, stderr = FLOODS[flood]
    run = ok(site.kernel.execute(code))
    assert run.stdout == stdout
    assert run.stderr == stderr
    # Streams that take turns keep their order, at once for 240 turns and then for 60 a second.
    assert most_in_a_second(run.of_type("stream")) <= (400 if stderr else 100)


@with_ipython
def test_50_megabytes_in_one_print(site: Site) -> None:
    run = ok(site.kernel.execute("import sys\nprint('0123456789' * 5000000)\nprint('end', file=sys.stderr)"))
    assert len(run.stdout) == 50_000_001
    assert run.stdout == "0123456789" * 5_000_000 + "\n"
    assert run.stderr == "end\n"
    assert ok(site.kernel.execute("1")).result == "1"


def test_carriage_returns_reach_the_front_end(kernel: Kernel, tmp_path: Path) -> None:
    code = "import sys\nfor n in range(101):\n    sys.stdout.write('\\r%3d%%' % n)\n"
    code += "print(' done\\b\\b\\x1b[1mbold\\x1b[0m')"
    run = ok(kernel.execute(code))
    assert run.stdout == "".join(f"\r{n:3d}%" for n in range(101)) + " done\b\b\x1b[1mbold\x1b[0m\n"


@with_ipython
def test_tqdm_draws_its_bar(site: Site) -> None:
    run = ok(site.kernel.execute("from tqdm import tqdm\nfor n in tqdm(range(20), desc='work', ncols=60): pass"))
    states = run.stderr.split("\r")
    assert states[0] == ""
    assert states[1].startswith("work:   0%|")
    assert states[-1].startswith("work: 100%|██")
    assert "20/20" in states[-1]
    assert states[-1].endswith("\n")
    assert run.stdout == ""


def test_sys_stdout_buffer(kernel: Kernel) -> None:
    code = "import sys\nb, e = sys.stdout.buffer, 'é'.encode()\nb.write(e[:1])\nb.write(e[1:])\n"
    code += "b.write(b'\\xff!\\n')\nb.flush()\n"
    run = ok(kernel.execute(code + "\nprint('text', file=sys.stdout)\nsys.stderr.buffer.write(b'bytes\\n');"))
    assert run.stdout == "é\ufffd!\ntext\n"
    assert run.stderr == "bytes\n"


def test_what_a_cell_may_ask_its_stdout(kernel: Kernel) -> None:
    code = (
        "import sys, os, io\no = sys.stdout\n"
        "(o.encoding, o.isatty(), o.writable(), o.readable(), o.closed, isinstance(o, io.TextIOBase), o.errors, "
        "isinstance(o.fileno(), int), o.name)"
    )
    run = ok(kernel.execute(code))
    assert run.result == "('utf-8', False, True, False, False, True, 'replace', True, '<stdout>')"
    run = kernel.execute("sys.stdout.write(b'bytes')")
    assert run.error is not None
    assert run.error["ename"] == "TypeError"
    assert ok(kernel.execute("sys.stdout.close(); print('still there')")).stdout == "still there\n"


def test_a_lone_surrogate_breaks_nothing(kernel: Kernel) -> None:
    run = ok(kernel.execute("import sys\nprint('a\\ud800b')\nprint('\\udcff', file=sys.stderr)\n'\\udfff c'"))
    assert run.stdout == "a?b\n"
    assert run.stderr == "?\n"
    assert run.result is not None
    for message in run.iopub:
        json.dumps(message.content, ensure_ascii=False).encode("utf-8")
    run = ok(kernel.execute("display({'text/plain': '\\ud800 shown'}, raw=True)"))
    assert run.displays[0]["text/plain"].endswith(" shown")
    run.displays[0]["text/plain"].encode("utf-8")
    run = kernel.execute("raise ValueError('\\ud83d')")
    assert run.error is not None
    assert run.error["ename"] == "ValueError"
    assert ok(kernel.execute("1")).result == "1"


def test_print_in_del(kernel: Kernel) -> None:
    code = "class Loud:\n    def __del__(self):\n        print('deleted')\nloud = Loud()\ndel loud\n"
    code += "cycle = Loud()\ncycle.me = cycle\ndel cycle\nimport gc\ngc.collect();"
    assert ok(kernel.execute(code)).stdout == "deleted\n" * 2


def test_a_warning_is_shown_with_its_line(kernel: Kernel) -> None:
    code = "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('always')\n"
    run = ok(kernel.execute(code + "    warnings.warn('beware of it')"))
    assert "UserWarning: beware of it" in run.stderr
    assert "warnings.warn('beware of it')" in run.stderr


def test_logging_to_stderr(kernel: Kernel) -> None:
    code = "import logging, sys\nh = logging.StreamHandler(sys.stderr)\nlog = logging.getLogger('of.the.cell')\n"
    code += "log.addHandler(h)\nlog.warning('logged')\nlog.removeHandler(h)"
    assert ok(kernel.execute(code)).stderr == "logged\n"


# -- whose output it is ----------------------------------------------------------------------------------------------

LATER = """
import asyncio, threading, time
go = threading.Event()
def later(name):
    go.wait()
    print('from', name)
def nested():
    inner = threading.Thread(target=later, args=('nested',))
    inner.start()
    inner.join()
class Own(threading.Thread):
    def run(self):
        later('subclass')
threads = [threading.Thread(target=later, args=('thread',)), threading.Thread(target=nested), Own(),
           threading.Timer(0, later, ['timer'])]
for t in threads:
    t.start()
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
jobs = [pool.submit(later, 'pool') for _ in range(2)]
async def work():
    while not go.is_set():
        await asyncio.sleep(0.001)
    print('from task')
    await asyncio.sleep(0.001)
    print('from task again')
task = asyncio.ensure_future(work())
def called_back():
    print('from a callback')
print('started')
"""


def test_threads_and_tasks_print_in_the_cell_that_began_them(kernel: Kernel) -> None:
    first = ok(kernel.execute(LATER))
    assert first.stdout == "started\n"
    second = ok(kernel.execute("print('second')\ngo.set()\nfor t in threads: t.join()\npool.shutdown()\nawait task"))
    names = ["thread", "nested", "subclass", "timer", "task", "task again"]
    wanted = sorted(f"from {name}" for name in names)
    kernel.wait_for(lambda: sorted(first.stdout.splitlines()) == sorted([*wanted, "started"]), "all in the first cell")
    # What a pool does once the cell that asked for it is over is seen where the user looks.
    assert second.stdout == "second\nfrom pool\nfrom pool\n"


def test_executors_of_asyncio_print_in_their_cell(kernel: Kernel) -> None:
    first = ok(kernel.execute("import asyncio\nloop = asyncio.get_event_loop()\nprint('first')"))
    run = ok(kernel.execute("await loop.run_in_executor(None, print, 'in an executor')\nprint('done')"))
    assert first.stdout == "first\n"
    assert run.stdout == "in an executor\ndone\n"


def test_an_uncaught_error_in_a_thread_is_shown_in_its_cell(kernel: Kernel) -> None:
    code = "import threading\ndef fail():\n    raise LookupError('in a thread')\nt = threading.Thread(target=fail)\n"
    run = ok(kernel.execute(code + "t.start()\nt.join()"))
    assert "LookupError" in run.stderr
    assert "in a thread" in run.stderr
    assert run.error is None


@pytest.mark.parametrize("place", ["process", "process-bare"])
def test_the_apps_threads_print_where_they_did(place: str, tmp_path: Path) -> None:
    with kernel_at(place) as site:
        app, kernel = site.app, site.kernel
        go = tmp_path / "go"
        code = f"import __main__\n__main__.device.raise_level()\n__main__.say('called by the cell')\n{waits_for(go)}"
        run = kernel.submit(code + "print('end')")
        kernel.wait_for_output(run, "called by the cell")
        app.say("by the app's main thread")
        app.say_in_thread("by a worker of the app")
        go.touch()
        assert ok(kernel.wait(run)).stdout == "called by the cell\nend\n"
        text = app.stdout_text()
        assert text.count("by the app's main thread\n") == text.count("by a worker of the app\n") == 1
        assert "called by the cell" not in text
        assert "end\n" not in text
        assert not [m for m in kernel.strays if m.type == "stream"]
        assert app.ask("evaluate", "device.level") == "2"


REDIRECT = """
import contextlib, io
def talk():
    for n in range(200):
        print('{0}', n)
        if n == 5:
            {1}
"""


@pytest.mark.parametrize("place", ["process", "process-bare"])
def test_one_session_redirects_while_another_prints(place: str, tmp_path: Path) -> None:
    """Inside one process: ``redirect_stdout``, ``%%capture`` and an assignment are for one's own session."""
    with server_at(place) as app, kernel_on(app, place) as one, kernel_on(app, place) as other:
        ways = {
            "redirect": "with contextlib.redirect_stdout(io.StringIO()) as kept:\n    talk()\ntext = kept.getvalue()",
            "capture": "%%capture kept\ntalk()",
            "assign": "import sys\nbefore, sys.stdout = sys.stdout, io.StringIO()\ntalk()\n"
            "text, sys.stdout = sys.stdout.getvalue(), before",
        }
        for way, code in ways.items():
            here, there, go = tmp_path / f"{way}-here", tmp_path / f"{way}-there", tmp_path / f"{way}-go"
            for kernel, name, mark in ((one.kernel, "hidden", here), (other.kernel, "seen", there)):
                body = f"open({str(mark)!r}, 'w').close()\n{waits_for(go)}".replace("\n", "\n            ")
                ok(kernel.execute(REDIRECT.format(name, body)))
            hiding = one.kernel.submit(code)
            while not here.exists():
                one.kernel.take_all(0.01)
            printing = other.kernel.submit("talk()")
            while not there.exists():
                other.kernel.take_all(0.01)
            assert isinstance(one.server.location, str)
            app.say(f"the app, while {way}")  # type: ignore[union-attr]
            go.touch()
            assert ok(one.kernel.wait(hiding)).stdout == ""
            assert ok(other.kernel.wait(printing)).stdout == "".join(f"seen {n}\n" for n in range(200))
            kept = one.kernel.execute("print(kept.stdout if hasattr(kept, 'stdout') else text, end='')")
            assert ok(kept).stdout == "".join(f"hidden {n}\n" for n in range(200))
            assert f"the app, while {way}\n" in app.stdout_text()
            one.kernel.execute("kept = None")


# -- what does not pass through Python -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        ("import os; os.system('echo shell; echo trouble >&2');", "shell\n", "trouble\n"),
        ("import os; os.write(1, b'fd one\\n'); os.write(2, b'fd two\\n');", "fd one\n", "fd two\n"),
        ("import subprocess; subprocess.run(['echo', 'inherited']).returncode;", "inherited\n", ""),
        ("import subprocess, sys; subprocess.run(['echo', 'given'], stdout=sys.stdout);", "given\n", ""),
        ("import ctypes; c = ctypes.CDLL(None); c.puts(b'from C'); c.fflush(None);", "from C\n", ""),
        ("import os; os.write(1, b'\\xff\\xfe caf\\xc3\\xa9\\n');", "\ufffd\ufffd café\n", ""),
        ("import os\nfor b in '漢\\n'.encode(): os.write(1, bytes([b]))", "漢\n", ""),
        ("import os\nfor n in range(2000): os.write(1, b'%d\\n' % n)", "".join(f"{n}\n" for n in range(2000)), ""),
        ("import os\nif os.fork() == 0:\n    print('of a fork'); os._exit(0)\nos.wait();", "of a fork\n", ""),
        (
            "import multiprocessing as m; c = m.get_context('fork')\n"
            "p = c.Process(target=print, args=('of a process',))\np.start(); p.join()",
            "of a process\n",
            "",
        ),
        ("import faulthandler, sys; faulthandler.dump_traceback(sys.stdout, all_threads=False)", "File", ""),
    ],
    ids=["system", "write", "inherit", "given", "C", "invalid", "bytes", "many", "fork", "process", "faulthandler"],
)
@in_a_child
def test_in_a_child_all_that_is_written_is_seen(site: Site, code: str, stdout: str, stderr: str) -> None:
    kernel = site.kernel
    run = ok(kernel.execute(code))
    after = ok(kernel.execute("print('next')"))
    if stdout == "File":
        assert "File " in run.stdout
    else:
        assert (run.stdout, run.stderr) == (stdout, stderr)
    assert after.stdout == "next\n"


@pytest.mark.parametrize("place", ["process", "process-bare"])
def test_in_a_process_descriptors_are_the_apps(place: str) -> None:
    with kernel_at(place) as site:
        kernel, app = site.kernel, site.app
        run = ok(kernel.execute("import os, subprocess, sys\nos.write(1, b'to the app\\n'); print('to the notebook')"))
        assert run.stdout == "to the notebook\n"
        assert "to the app\n" in app.stdout_text()
        # What names sys.stdout is led to the notebook.
        run = ok(kernel.execute("subprocess.run(['echo', 'given'], stdout=sys.stdout, check=True);"))
        assert run.stdout == "given\n"
        run = ok(
            kernel.execute(
                "pid = os.fork()\nif pid == 0:\n    print('of a fork')\n    os._exit(0)\nos.waitpid(pid, 0);"
            )
        )
        assert run.stdout == "of a fork\n"
        assert "given" not in app.stdout_text()
        assert "fork" not in app.stdout_text()


# -- rich output -----------------------------------------------------------------------------------------------------

REPRS = {
    "text/html": ("_repr_html_", "<b>h</b>"),
    "text/markdown": ("_repr_markdown_", "*m*"),
    "text/latex": ("_repr_latex_", "$x^2$"),
    "image/svg+xml": ("_repr_svg_", "<svg></svg>"),
    "application/javascript": ("_repr_javascript_", "alert(1)"),
    "application/json": ("_repr_json_", {"a": [1, None, "é"]}),
    "image/png": ("_repr_png_", base64.b64decode(PNG)),
    "image/jpeg": ("_repr_jpeg_", b"\xff\xd8\xff jpeg"),
    "application/pdf": ("_repr_pdf_", b"%PDF-1.4"),
}


@pytest.mark.parametrize("mime", REPRS)
def test_every_repr_is_shown(kernel: Kernel, mime: str) -> None:
    method, value = REPRS[mime]
    wanted: Any = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    code = f"class R:\n    def __repr__(self): return 'plain'\n    def {method}(self): return {value!r}\n"
    run = ok(kernel.execute(code + "display(R())\nR()"))
    for message in run.of_type("display_data", "execute_result"):
        data = message.content["data"]
        assert data["text/plain"] == "plain"
        found = data[mime]
        assert (found.strip() if isinstance(found, str) else found) == wanted
        assert set(data) == {"text/plain", mime}
    assert [message.type for message in run.output] == ["display_data", "execute_result"]
    # None means that there is no such representation; one that raises hides no other.
    code = f"class N:\n    def __repr__(self): return 'plain'\n    def {method}(self): return None\nN()"
    assert set(ok(kernel.execute(code)).output[0].content["data"]) == {"text/plain"}
    code = f"class B:\n    def __repr__(self): return 'plain'\n    def {method}(self): 1/0\nB()"
    run = kernel.execute(code)
    assert run.result == "plain"
    assert "ZeroDivisionError" in run.traceback + run.stderr


def test_metadata_of_a_repr(kernel: Kernel) -> None:
    code = "class M:\n    def _repr_html_(self): return '<i>', {'isolated': True}\nM()"
    run = ok(kernel.execute(code))
    assert run.output[-1].content["metadata"] == {"text/html": {"isolated": True}}


def test_mimebundles(kernel: Kernel) -> None:
    code = """
class Bundle:
    def __repr__(self): return 'plain'
    def _repr_html_(self): return 'not asked'
    def _repr_mimebundle_(self, include=None, exclude=None):
        return ({'text/html': '<u>b</u>', 'application/vnd.of.ours+json': {'x': 1}}, {'text/html': {'w': 3}})
class Loud:
    def _ipython_display_(self): print('displays itself')
display(Bundle()); display(Loud()); display({'text/plain': 'raw', 'text/html': '<raw>'}, raw=True, metadata={'k': 1})
display('several', 2)
Bundle()
"""
    run = ok(kernel.execute(code))
    bundle, raw, several, two = [m.content for m in run.of_type("display_data")]
    for content in (bundle, run.of_type("execute_result")[0].content):
        assert content["data"]["text/html"] == "<u>b</u>"
        assert content["data"]["application/vnd.of.ours+json"] == {"x": 1}
        assert content["data"]["text/plain"] == "plain"
        assert content["metadata"] == {"text/html": {"w": 3}}
    assert (raw["data"], raw["metadata"]) == ({"text/plain": "raw", "text/html": "<raw>"}, {"k": 1})
    assert (several["data"]["text/plain"], two["data"]["text/plain"]) == ("'several'", "2")
    assert run.stdout == "displays itself\n"


def test_display_ids_and_updates(kernel: Kernel) -> None:
    run = ok(
        kernel.execute("h = display('one', display_id='of-ours')\nh.update('two')\nh2 = display(1, display_id=True)")
    )
    first, update, third = run.of_type("display_data", "update_display_data")
    assert first.content["transient"] == update.content["transient"] == {"display_id": "of-ours"}
    assert (first.type, update.type, third.type) == ("display_data", "update_display_data", "display_data")
    assert update.content["data"]["text/plain"] == "'two'"
    assert third.content["transient"]["display_id"] not in ("", None, "of-ours")
    # From a later cell, and out of a thread.
    code = "import threading\nt = threading.Thread(target=h.update, args=('three',)); t.start(); t.join()"
    run = ok(kernel.execute(code))
    assert [m.content["data"]["text/plain"] for m in run.of_type("update_display_data")] == ["'three'"]
    # update_display of IPython, too.
    run = ok(kernel.execute("display('four', display_id='of-ours', update=True)"))
    assert [m.content["transient"] for m in run.of_type("update_display_data")] == [{"display_id": "of-ours"}]


@with_ipython
def test_clear_output(site: Site) -> None:
    code = "print('one')\nclear_output()\nprint('two')\nclear_output(wait=True)\nprint('three')"
    run = ok(site.kernel.execute("from IPython.display import clear_output\n" + code))
    shown = [m.content["wait"] if m.type == "clear_output" else m.content["text"] for m in run.output]
    assert shown == ["one\n", False, "two\n", True, "three\n"]


def test_display_in_place_of_what_was_there(kernel: Kernel) -> None:
    run = ok(kernel.execute("print('one')\nfor n in range(2):\n    display(n, clear=True)"))
    shown = [(m.type, m.content.get("wait", m.content.get("text"))) for m in run.output]
    assert shown == [("stream", "one\n"), *[("clear_output", True), ("display_data", None)] * 2]
    assert [data["text/plain"] for data in run.displays] == ["0", "1"]


@with_ipython
def test_ipythons_display_objects(site: Site) -> None:
    code = f"""
import base64
from IPython.display import *
display(HTML('<b>h</b>'), Markdown('*m*'), Latex('$x$'), Math('x'), JSON({{'a': 1}}), SVG('<svg></svg>'))
display(Image(base64.b64decode({PNG!r})), Javascript('1'), Pretty('p'))
display_html('<i>raw</i>', raw=True); display_png(base64.b64decode({PNG!r}), raw=True)
"""
    shown = ok(site.kernel.execute(code)).displays
    mimes = [mime for data in shown for mime in data if mime != "text/plain"]
    assert mimes == [
        *["text/html", "text/markdown", "text/latex", "text/latex", "application/json", "image/svg+xml", "image/png"],
        *["application/javascript", "text/html", "image/png"],
    ]
    assert shown[4]["application/json"] == {"a": 1}
    assert shown[6]["image/png"].strip() == PNG
    assert shown[-1]["image/png"].strip() == PNG
    run = ok(site.kernel.execute("update_display(HTML('new'), display_id='x')"))
    assert run.of_type("update_display_data")[0].content["data"]["text/html"] == "new"


PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('drawn')"


@pytest.mark.parametrize(
    ("place", "first"),
    [
        ("child", PLOT),  # inline without being asked, as with ipykernel
        ("child-mini", PLOT),
        ("process", "%matplotlib inline\n" + PLOT),
        ("process-mini", "%matplotlib inline\n" + PLOT),
    ],
    ids=["child", "child-mini", "process", "process-mini"],
)
def test_matplotlib_inline(place: str, first: str) -> None:
    with kernel_at(place) as site:
        for code in (first, PLOT, "plt.plot([2, 1]); plt.show(); print('drawn')"):
            run = ok(site.kernel.execute(code))
            assert run.stdout.endswith("drawn\n"), str(run)
            (image,) = [data["image/png"] for data in run.displays]
            assert base64.b64decode(image).startswith(b"\x89PNG")
        assert ok(site.kernel.execute("1")).displays == []  # closed, once shown
        run = ok(site.kernel.execute("f, axes = plt.subplots(); plt.close(f); f"))
        assert "image/png" in run.of_type("execute_result")[0].content["data"]


def test_two_sessions_of_a_process_show_their_own_figures() -> None:
    with server_at("process") as app, kernel_on(app, "process") as one, kernel_on(app, "process") as other:
        for kernel in (one.kernel, other.kernel):
            ok(
                kernel.execute(
                    "%matplotlib inline\nimport matplotlib.pyplot as plt\nfrom matplotlib import _pylab_helpers"
                )
            )
        figure = ok(
            one.kernel.execute("import threading\nf = plt.figure(); n = plt.get_fignums(); plt.plot([1, 2]); n")
        )
        assert len(figure.displays) == 1
        run: Run = ok(other.kernel.execute("print(plt.get_fignums())\nplt.figure();"))
        assert run.stdout == "[]\n"
        assert len(run.displays) == 1
