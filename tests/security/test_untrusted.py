"""A server that nobody vouches for, through the kernel: what the front end gets to see of it."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from farside import FlameServer
from hostile import OK, READY, FakeAgent
from kernels import Kernel, Run, remote_flame
from shown import ADVICE, HINT, SVG, jpeg, png

Start = Callable[..., FlameServer]


@pytest.fixture(scope="module")
def kernel(server: FlameServer) -> Iterator[Kernel]:
    """A kernel at that server."""
    with remote_flame({"FLAME_TARGET": server.location}) as made:
        made.execute("pass", silent=True)  # connected: its processes are no test's own
        yield made


def said(run: Run) -> list[str]:
    """What was withheld, in the kernel's words."""
    assert run.reply is not None
    assert run.reply["status"] == "ok", run
    return run.stderr.splitlines()


def test_text_and_pictures_are_shown(kernel: Kernel) -> None:
    picture = base64.b64encode(png()).decode()
    run = kernel.execute(
        "from IPython.display import display, Image\nimport base64\n"
        "print('\\x1b[31mred\\x1b[0m', end='')\n"
        "for n in range(3): print('\\r%d0%%' % n, end='', flush=True)\n"
        f"display(Image(data=base64.b64decode({picture!r}), width=40))\n"
        "6 * 7"
    )
    assert said(run) == []
    assert run.stdout == "\x1b[31mred\x1b[0m\r00%\r10%\r20%"
    (shown,) = run.of_type("display_data")
    assert shown.content["data"]["image/png"].replace("\n", "") == picture
    assert shown.content["metadata"] == {"image/png": {"width": 40}}
    assert run.result == "42"
    assert "Signature" in kernel.execute("print?").reply["payload"][0]["data"]["text/plain"]  # type: ignore[index]


def test_what_could_act_is_withheld_and_said_in_one_line(kernel: Kernel) -> None:
    run = kernel.execute(
        "from IPython.display import display\n"
        "for n in range(5):\n"
        "    display({'text/plain': 'a table', 'text/html': '<script>alert(1)</script>'}, raw=True)\n"
        f"display({{'image/svg+xml': {SVG.decode()!r}}}, raw=True)\n"
        "display({'application/javascript': 'alert(1)', 'text/plain': 'js'}, raw=True)\n"
        f"display({{'image/png': {base64.b64encode(SVG).decode()!r}}}, raw=True)\n"
        f"display({{'image/jpeg': {base64.b64encode(jpeg(60000, 60000)).decode()!r}}}, raw=True)\n"
        "print('\\x1b]52;c;ZXZpbA==\\x07clip\\x1b]0;title\\x07board\\x1b[2J')\n"
        "get_ipython().set_next_input('import os; os.system(\"rm -rf ~\")')\n"
    )
    hint, *lines = said(run)
    assert hint.startswith(HINT)
    assert sorted(lines) == sorted(
        [
            f"image/svg+xml {ADVICE}",
            "image/png not shown: it is not a PNG",
            "image/jpeg not shown: it has 60000 by 60000 pixels",
            f"terminal control sequences {ADVICE}",
            f"a payload (set_next_input) {ADVICE}",
        ]
    )
    assert run.displays == [{"text/plain": "a table"}] * 5 + [{"text/plain": "js"}]
    assert run.stdout == "clipboard\n"
    assert run.reply is not None
    assert run.reply["payload"] == []


def test_widgets_are_withheld(kernel: Kernel) -> None:
    run = kernel.execute("import ipywidgets\nw = ipywidgets.HTML('<img src=x onerror=alert(1)>')\ndisplay(w)")
    assert run.of_type("comm_open", "comm_msg") == []
    assert all(line.startswith(HINT) for line in said(run))
    # Nobody waits for what is not shown.
    assert kernel.ask("comm_info_request", {})["comms"] == {}


def test_rich_output_and_no_pickles_by_the_users_word(server: FlameServer) -> None:
    """And what libraries draw follows: where there are no widgets, tqdm is told so, and draws text."""
    bar = "import importlib, tqdm.autonotebook as t\nt = importlib.reload(t)\nprint(t.tqdm.__module__)"
    table = "from IPython.display import HTML\nHTML('<b>1</b>')"
    with remote_flame() as k:
        for line, rich in (("", False), (" --rich", True), ("", False)):
            k.execute(f"%flame connect {server.location}{line}")
            first, second = k.execute(table), k.execute(table)
            assert ["text/html" in m.content["data"] for m in first.of_type("execute_result")] == [rich]
            assert [line[: len(HINT)] for line in said(first)] == ([] if rich else [HINT])
            assert said(second) == []
            assert k.execute(bar).stdout == ("tqdm.notebook\n" if rich else "tqdm.std\n")
            assert k.execute("%%local\nimport threading\nf = threading.Lock()").error is None
            assert k.execute("%flame push f").error is not None


def test_displays_of_its_own_can_change(kernel: Kernel) -> None:
    run = kernel.execute("h = display('one', display_id='mine'); h.update('two')")
    made, changed = run.of_type("display_data", "update_display_data")
    assert changed.content["data"] == {"text/plain": "'two'"}
    assert made.content["transient"] == changed.content["transient"]
    assert made.content["transient"]["display_id"] != "mine"  # but of this server
    assert said(kernel.execute("h.update('three')")) == []
    foreign = kernel.execute(
        "from IPython.display import update_display\nupdate_display('forged', display_id='theirs')"
    )
    assert foreign.of_type("update_display_data") == []
    assert "a change of a display that is not its own" in said(foreign)[0]


def test_prompts_carry_the_servers_name(kernel: Kernel, server: FlameServer) -> None:
    run = kernel.execute(
        "import getpass\na = input('name? ')\nb = getpass.getpass('\\x1b[2JPassword for jupyter: ')\n(a, b)",
        answers=("Ada", "secret"),
    )
    asked = [message.content["prompt"] for message in run.of_type("input_request")]
    assert asked == [f"[{server.location}] name? ", f"[{server.location}] Password for jupyter: "]
    assert run.result == "('Ada', 'secret')"


def test_words_of_an_error_are_text(kernel: Kernel) -> None:
    run = kernel.execute("raise ValueError('\\x1b]0;evil\\x07\\x1b[2Jwrong')")
    assert run.error is not None
    assert run.error["evalue"] == "wrong"
    assert "\x1b]" not in run.traceback
    assert "\x1b[0;31m" in run.traceback or "\x1b[31m" in run.traceback  # colours are meant
    found = kernel.execute("class evil:\n    '\\x1b]0;evil\\x07docs'\nx_evil = evil")
    assert found.error is None
    assert "\x1b]" not in str(kernel.inspect("x_evil"))
    assert kernel.inspect("x_evil")["data"].keys() <= {"text/plain"}


def test_with_a_key_all_is_shown_but_prompts_name_the_server(flame_server: Start) -> None:
    server = flame_server(key="k" * 32)
    with remote_flame(env={**server.environ()}) as k:
        run = k.execute(
            "display({'text/html': '<b>'}, raw=True)\n"
            "print('\\x1b[2J')\nget_ipython().set_next_input('next')\ninput('name? ')",
            answers=("x",),
        )
        assert run.displays == [{"text/html": "<b>"}]
        assert run.stdout == "\x1b[2J\n"
        assert run.reply is not None
        assert run.reply["payload"][0]["text"] == "next"
        assert run.of_type("input_request")[0].content["prompt"] == f"[{server.location}] name? "
        assert k.execute("import ipywidgets; ipywidgets.IntSlider()").of_type("comm_open") != []
        # … and by the user's word, without one.
        keyless = flame_server()
        assert k.execute(f"%flame connect {keyless.location} --trust").error is None
        assert k.execute("display({'text/html': '<b>'}, raw=True)").displays == [{"text/html": "<b>"}]
        assert k.execute("%%local\ninput('name? ')", answers=("x",)).prompts == [("name? ", False)]


# --- an agent that lies


def _agent(events: Callable[[str], list[dict[str, Any]]]) -> FakeAgent:
    def submit(agent: FakeAgent, request: dict[str, Any]) -> Any:
        one = request["request"]
        if one["kind"] == "execute":
            agent.say(*events(one["id"]))
            agent.reply(one["id"])
        else:
            agent.answer(one)
        return {"new": True}

    agent = FakeAgent({"submit": submit})
    agent.say(READY)
    return agent


def _stream(text: str, request: str | None, name: str = "stdout") -> dict[str, Any]:
    return {"type": "stream", "request": request, "content": {"name": name, "text": text}}


def test_cells_of_others_are_out_of_reach() -> None:
    """Requests are numbered, so an agent can guess those of ``%%local``'s cells, before and after its own."""

    def guess(mine: str) -> list[dict[str, Any]]:
        head, _, number = mine.rpartition("_")
        found: list[dict[str, Any]] = []
        for other in (f"{head}_{int(number) - 1}", f"{head}_{int(number) + 1}", "none", None):
            found += [
                _stream(f"forged for {other}\n", other),
                {"type": "clear_output", "request": other, "content": {"wait": False}},
                {"type": "error", "request": other, "content": {"ename": "E", "evalue": "forged", "traceback": []}},
                {"type": "execute_reply", "request": other, "content": {**OK, "payload": [{"source": "ask_exit"}]}},
                {"type": "input_request", "request": other, "content": {"input_id": 7, "prompt": "Password: "}},
            ]
        return found

    with contextlib.closing(_agent(guess)) as agent, remote_flame(env={"FLAME_TARGET": agent.location}) as k:
        k.execute("%flame status")
        before = k.execute("%%local\nprint('local')")
        waiting = k.submit("1")
        after = k.submit("%%local\nprint('local')")
        k.wait(waiting)
        k.wait(after)
        for local in (before, after):
            assert local.stdout == "local\n"
            assert [message.type for message in local.output] == ["stream"]
            assert local.prompts == []
        assert waiting.stdout.count("forged for") == 4
        assert waiting.prompts == []
        assert waiting.stdout.endswith("ran\n")


FLOOD = 100_000


@pytest.mark.timeout(120)
def test_floods_end(flame_server: Start) -> None:
    """100,000 comm messages, displays, updates and prompts: dropped or bounded, and the next cell is at once."""

    def flood(mine: str) -> list[dict[str, Any]]:
        comm = {"type": "comm_msg", "request": mine, "content": {"comm_id": "x", "data": {}}}
        show = {"type": "display_data", "request": mine, "content": {"data": {"text/plain": "x"}}}
        odd = {"type": "update_display_data", "request": mine, "content": {"transient": {"display_id": "y"}}}
        mimes = [
            {"type": "display_data", "request": mine, "content": {"data": {f"text/x{n}": "x"}}} for n in range(1000)
        ]
        return [comm] * FLOOD + [show] * 10_000 + [odd] * 10_000 + mimes

    with contextlib.closing(_agent(flood)) as agent, remote_flame(env={"FLAME_TARGET": agent.location}) as k:
        k.execute("%flame status")
        process = psutil.Process(k.pid)
        size = process.memory_info().rss
        began = time.monotonic()
        run = k.execute("1", timeout=60)
        assert run.of_type("comm_msg") == []
        assert len(run.of_type("display_data")) <= 3000 + 1000 * (time.monotonic() - began)
        assert len(said(run)) <= 10
        assert process.memory_info().rss - size < 300 * 2**20
        began = time.monotonic()
        k.execute(f"%flame connect {flame_server().location}\n1")
        assert time.monotonic() - began < 10


def test_a_hundred_megabytes_of_a_type() -> None:
    """What is too large for one message never comes; what fits is withheld, or shown where it is text."""

    def large(mine: str) -> list[dict[str, Any]]:
        html = {"type": "display_data", "request": mine, "content": {"data": {"text/html": "x" * 20_000_000}}}
        text = {"type": "display_data", "request": mine, "content": {"data": {"text/plain": "x" * 40_000_000}}}
        return [html, text]

    with contextlib.closing(_agent(large)) as agent, remote_flame(env={"FLAME_TARGET": agent.location}) as k:
        run = k.execute("1")
        assert run.displays == []
        hint, *lines = said(run)
        assert hint.startswith(HINT)
        assert [line.split(" not shown")[0] for line in lines] == [
            "text/html",
            "a text of more than 32 million characters",
        ]
