"""The notebooks are documentation that lives: each runs as it stands, and gives outputs of the kinds that it shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dasked  # noqa: F401  what dask leaves in the folder for temporary files counts for no test
import nbformat
import pytest
from kernels import remote_flame

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# The kernels of those that are not for ours.
KERNELS = dict.fromkeys(
    ("02-mixed-local-and-remote", "04-files-and-modules", "06-security", "07-many-machines", "08-dask"), "python3"
)


def kinds(outputs: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Any]:
    """What a cell shows, without what differs from run to run; text of a stream may come in any number of pieces."""
    shown: list[Any] = []
    for output_type, content in outputs:
        if output_type == "stream":
            kind: Any = ("stream", content["name"])
        elif output_type == "error":
            kind = ("error", content["ename"])
        else:
            kind = (output_type, *sorted(content["data"]))
        if kind not in shown:
            shown.append(kind)
    return sorted(shown)


def test_the_first_notebook_asks_whoever_sits_there() -> None:
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    with remote_flame() as k:
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            asks = "input(" in cell.source
            run = k.execute(cell.source, answers=("190",) if asks else ())
            if asks:
                assert run.prompts == [("Warn above how many degrees? (Enter: 150) ", False)]
                assert re.fullmatch(r"\(\d+, 'minutes above', 190.0\)", run.result or "")
            assert run.reply is not None
            assert run.reply["status"] == ("error" if "raises-exception" in cell.metadata.get("tags", []) else "ok")


# Those that take long run twice at the most.
LONG = ("03-inside-a-live-app", "05-sessions-that-survive", "08-dask")


def runs_of(name: str) -> tuple[str, ...]:
    """How often a notebook runs, and where. A restarted kernel of Python's own is as a fresh one."""
    again = () if name in LONG else ("in the same kernel",)
    return ("at first", *again, *(() if name in KERNELS else ("after a restart",)))


@pytest.mark.timeout(600)  # of a busy machine: each runs up to three times
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(path: Path, tmp_path: Path) -> None:
    """Its cells are sent at once, as by Run All, and each runs in its turn, orders too. It does once more, when all of
    it is there already."""
    stored = nbformat.read(path, as_version=4)
    assert stored.metadata.kernelspec.name == KERNELS.get(path.stem, "flame")
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    beside = [shutil.copy(script, tmp_path) for script in path.parent.glob("*.py")]
    with remote_flame(cwd=tmp_path, name=KERNELS.get(path.stem)) as k:
        for which in runs_of(path.stem):
            if which == "after a restart":
                k.restart()
            raising = ["raises-exception" in cell.metadata.get("tags", []) for cell in cells]
            runs = [k.submit(cell.source, stop_on_error=not may) for cell, may in zip(cells, raising, strict=True)]
            begun: list[float] = []
            for cell, may, run in zip(cells, raising, runs, strict=True):
                k.wait_for(lambda run=run: run.done or run.prompts, "its end, or a question", 120)  # type: ignore[misc]
                if run.prompts:
                    k.answer_input("190")
                k.wait(run)
                assert run.reply is not None
                assert run.reply["status"] == ("error" if may else "ok"), cell.source
                expected = kinds((output.output_type, output) for output in cell.outputs)
                if which == "in the same kernel" and cell.source.startswith("%load_ext"):
                    expected = [("stream", "stdout")]  # IPython says that it is loaded already
                shown = [one for one in run.output if one.type not in ("update_display_data", "clear_output")]
                found = kinds((one.type, one.content) for one in shown)
                # Of a kind more may come than is stored: what a widget captures is stored in the widget.
                assert set(found) >= set(expected), (which, cell.source)
                assert {kind[0] for kind in found} == {kind[0] for kind in expected}, (which, cell.source)
                begun.append(run.sent + run.of_type("execute_input")[0].at)
            assert begun == sorted(begun)
    assert sorted(map(str, tmp_path.iterdir())) == sorted(beside)
