"""The notebooks are documentation that lives: each runs as it stands, and gives outputs of the kinds that it shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from kernels import remote_flame
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# The kernels of those that are not for ours.
KERNELS = dict.fromkeys(
    ("02-mixed-local-and-remote", "04-files-and-modules", "06-security", "07-many-machines", "08-dask"), "python3"
)


def kinds(cell: Any) -> list[Any]:
    """What a cell shows, without what differs from run to run; text of a stream may come in any number of pieces."""
    shown: list[Any] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            kind: Any = ("stream", output.name)
        elif output.output_type == "error":
            kind = ("error", output.ename)
        else:
            kind = (output.output_type, *sorted(output.data))
        if kind not in shown:
            shown.append(kind)
    return sorted(shown)


@pytest.mark.timeout(400)  # of a busy machine: 08 starts eight processes
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    kernel = stored.metadata.kernelspec.name
    assert kernel == KERNELS.get(path.stem, "flame")
    fresh = nbformat.read(path, as_version=4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    beside = [shutil.copy(script, tmp_path) for script in path.parent.glob("*.py")]
    NotebookClient(fresh, kernel_name=kernel, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        if before.cell_type == "code":
            assert kinds(after) == kinds(before), before.source
    assert sorted(map(str, tmp_path.iterdir())) == sorted(beside)


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


@pytest.mark.timeout(900)  # three times each
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_whose_cells_are_sent_at_once(path: Path, tmp_path: Path) -> None:
    """As by Run All: each cell in its turn, orders too; and once more, when all of it is there already."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    beside = [shutil.copy(script, tmp_path) for script in path.parent.glob("*.py")]
    with remote_flame(cwd=tmp_path, name=KERNELS.get(path.stem)) as k:
        for again in ("", "in the same kernel", "after a restart"):
            if again.endswith("restart"):
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
                shown = {output.output_type for output in cell.outputs}
                if again == "in the same kernel" and cell.source.startswith("%load_ext"):
                    shown.add("stream")  # IPython says that it is loaded already
                assert {one.type for one in run.output} - {"update_display_data", "clear_output"} == shown, run
                begun.append(run.sent + run.of_type("execute_input")[0].at)
            assert begun == sorted(begun)
    assert sorted(map(str, tmp_path.iterdir())) == sorted(beside)
