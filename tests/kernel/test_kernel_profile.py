"""``%%profile`` and ``%flame profile`` in the kernel: of one cell, beside a cell, live, and ended by a Stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Run
from places import Site, kernel_at, ok

SPIN = "import time\ndef spin(seconds):\n    until = time.time() + seconds\n    while time.time() < until: pass\n"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with kernel_at("child") as site:
        ok(site.kernel.execute(SPIN))
        yield site


def shown(run: Run) -> tuple[str, str]:
    """The words and the page of the only display."""
    (data,) = run.displays
    return data["text/plain"], data["text/html"]


def test_one_cell(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    run = ok(site.kernel.execute(f"%%profile -o {path}\nspin(0.5)\n6 * 7"))
    assert run.result == "42"
    words, page = shown(run)
    assert "spin" in words
    assert "while time.time() < until: pass" in words
    assert "taking them cost" in words
    assert page.count('<svg class="own"') == 2  # the cell, and what it calls
    assert json.loads(path.read_text())["profiles"][0]["name"] == "MainThread"
    assert f"saved in {path}; speedscope and VS Code open it" in run.stdout
    changed, _ = shown(ok(site.kernel.execute(f"%flame profile --all --seconds 0.1 --against {path}")))
    assert "nothing to show" in changed
    # An error is shown, and the profile too.
    run = site.kernel.execute("%%flame --profile\nspin(0.1); 1/0")
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"
    assert "spin" in shown(run)[0]
    for code, words in (
        ("%%profile --fast\n1", "%%profile has no option --fast"),
        ("%%profile --rate 0\n1", "--rate is from 1 to 1000"),
        ("%flame profile --cpu --gil", "exclude each other"),
        ("%flame profile --against nothing.json --seconds 0.1", "cannot read nothing.json"),
        ("%flame profile --cell", "no cell runs; --all profiles the whole process"),
    ):
        error = site.kernel.execute(code).error
        assert error is not None, code
        assert words in error["evalue"], error["evalue"]


def test_beside_a_cell_and_until_a_stop(site: Site) -> None:
    k = site.kernel
    run = k.submit("print('go', flush=True)\nspin(600)")
    k.wait_for_output(run, "go")
    words, _ = shown(ok(k.execute("%flame profile --seconds 0.3")))
    assert "spin" in words
    live = ok(k.execute("%flame profile --live"))
    assert "spin" in shown(live)[0]
    k.wait_for(lambda: live.of_type("update_display_data"), "the live profile grows")
    assert "stopped watching profile" in ok(k.execute("%flame profile --end")).stdout
    last = live.of_type("update_display_data")[-1].content["data"]
    assert "(ended)" in last["text/plain"]
    assert "<svg" in last["text/html"]
    k.interrupt()
    k.wait(run)
    assert run.error is not None
    # What was taken until a Stop is shown.
    run = k.submit("%flame profile --all --idle --seconds 600")
    k.wait_for(lambda: run.of_type("execute_input"), "the profile begins")
    ok(k.execute("%flame where"))  # answered there after the request before it: the profile has begun
    k.interrupt()
    k.wait(run)
    assert "samples" in shown(run)[0]
    assert run.error is None


def test_memory(site: Site) -> None:
    k = site.kernel
    assert "noted from now on" in ok(k.execute("%flame memory --start")).stdout
    ok(k.execute("grown = [bytearray(1000) for _ in range(1000)]"))
    text = ok(k.execute("%flame memory")).stdout
    assert "grown = [bytearray(1000) for _ in range(1000)]" in text
    words, page = shown(ok(k.execute("%flame memory --of grown[0]")))
    assert "  held by list of 1000" in words
    assert page.count("<rect") == words.count("held by") + 1
    assert "not noted any more" in ok(k.execute("%flame memory --stop")).stdout
    error = k.execute("%flame memory").error
    assert error is not None
    assert "start that with %flame memory --start" in error["evalue"]
