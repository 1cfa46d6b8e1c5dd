"""testbook, with which people test notebooks: it runs cells, reads values, puts code and mocks into the kernel."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import nbformat
import pytest
import upstream
from nbformat.v4 import new_code_cell, new_notebook

KERNELSPEC = Path(__file__).parents[2] / "kernelspec" / "kernel.json"
CELLS = """
import os, subprocess
def add(a, b): return a + b
%
class Box:
    def __init__(self): self.held = []
    def put(self, one): self.held.append(one); return self
box = Box()
%
print("table"); [1, {"two": (3,)}]
%
raise KeyError("no")
"""


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_notebook_is_tested(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbook import testbook
    from testbook.exceptions import TestbookRuntimeError

    monkeypatch.setenv("JUPYTER_PATH", str(upstream.shadow(KERNELSPEC, tmp_path / "jupyter")))
    monkeypatch.setenv("FLAME_PLACE", place)
    cells = [new_code_cell(code.strip(), metadata={"tags": [f"t{n}"]}) for n, code in enumerate(CELLS.split("%\n"))]
    path = tmp_path / "tested.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what testbook's own age brings
        with testbook(str(path), execute=["t0", "t1", "t2"]) as tb:
            assert tb.ref("add")(1, b=2) == 3
            assert tb.cell_output_text("t2").startswith("table")
            box = tb.ref("box")
            box.put("x").put("y")
            assert box.held == ["x", "y"]
            tb.inject("kept = add(20, 22)")
            assert tb.value("kept") == 42
            with tb.patch("os.getcwd", return_value="nowhere"):
                assert tb.value("os.getcwd()") == "nowhere"
            assert tb.value("os.getpid()") != os.getpid()
            with pytest.raises(TestbookRuntimeError, match="no"):
                tb.execute_cell("t3")
            assert tb.value("kept + 1") == 43
