"""The IPython shell of the agent: ``ishell_cases`` in the interpreters of this machine that have IPython.

Here only the interpreter that runs the tests is asked, and what ``FLAME_TEST_PYTHONS`` names besides (paths, separated
by ``os.pathsep``): IPython's versions differ, and few machines have several.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import ishell_cases
import pytest

HERE = Path(__file__).parents[1]
AGENT = HERE.parent / "flame_kernel" / "agent"
PYTHONS = [sys.executable, *filter(None, os.environ.get("FLAME_TEST_PYTHONS", "").split(os.pathsep))]


@cache
def results(python: str, place: str) -> dict[str, dict[str, object]]:
    """What the cases came to in one process of their own."""
    done = subprocess.run(
        [python, str(HERE / "support" / "ishell_cases.py"), str(AGENT), place],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
        check=False,
    )
    found = {line["case"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert found, done.stderr
    found[""] = {"stderr": done.stderr, "status": done.returncode}
    return found


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).parent.parent.name)
@pytest.mark.parametrize(
    ("place", "name"),
    [(place, name) for place in ("process", "child") for name, _, places in ishell_cases.CASES if place in places],
)
def test_case(python: str, place: str, name: str) -> None:
    found = results(python, place)
    assert name in found, found[""]
    assert found[name]["failure"] is None, found[name]["failure"]
