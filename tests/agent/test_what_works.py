"""What works where, as the table in notebooks/REFERENCE.md has it: a test for each of its cells.

``tests/support/what_works.py`` writes that table from a report of these tests.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
import walk
import what_works
import windows_far
from farside import HERE, FlameServer, Python, bare_pyro

import flame
from flame_kernel.remote.remote import Remote

# What a newer Python warns of is an error, but for what Pyro4 itself calls.
WARNINGS = "error,ignore:isSet() is deprecated"
BARE = [python for python in farside.every_python() if not python.pyro]


def _pythons(side: str, place: str) -> dict[str, Python | None]:
    if side == "linux":  # the other tests of this folder run on all between
        return {f"linux_{python.name}": python for python in (BARE[0], BARE[-1])[place == "main" :]}
    return {side: farside.pypy() if side == "pypy" else None}


def _far_sides() -> Iterator[object]:
    for side, place in what_works.COLUMNS:
        marks = [pytest.mark.windows, pytest.mark.timeout(180)] if side == "windows" else []
        for label, python in _pythons(side, place).items():
            yield pytest.param((side, place, python), id=f"{label}-{place}", marks=marks)


@contextlib.contextmanager
def _connected(side: str, place: str, python: Python | None) -> Iterator[Remote]:
    with contextlib.ExitStack() as stack:
        if side == "windows":
            server = stack.enter_context(windows_far.server(farside.random_key()))
        elif python is None:  # a CPython that lacks what PyPy lacks stands for it
            path = os.pathsep.join([str(HERE / "apps" / "like_pypy"), bare_pyro()])
            server = stack.enter_context(farside.stopped(FlameServer(BARE[-1], env={"PYTHONPATH": path})))
        else:
            env = (
                {"PYTHONWARNINGS": WARNINGS} if python.version >= (3, 14) and python.implementation == "cpython" else {}
            )
            server = stack.enter_context(farside.stopped(FlameServer(python, env=dict(env))))
        yield stack.enter_context(flame.connect(server.location, key=server.key, place=place))


@pytest.fixture(scope="module")
def far(request: pytest.FixtureRequest, nothing_is_left: None) -> Iterator[Remote]:
    with _connected(*request.param) as pi:
        walk.values(pi, Path())  # what a session makes when it is first used
        walk.printed(pi, "import sys\nsys.stdout.fileno();")
        yield pi


@pytest.mark.leaves("a session has a new child after a crash; what is left at the end of the module counts")
@pytest.mark.parametrize("row", walk.ROWS, ids=what_works.label)
@pytest.mark.parametrize("far", list(_far_sides()), indirect=True, scope="module")
def test_it_works(request: pytest.FixtureRequest, far: Remote, row: str, tmp_path: Path) -> None:
    side, place, _ = request.node.callspec.params["far"]
    step = what_works.expected(side, place, row)[1]
    if step is not None:
        step(far, tmp_path)


def test_the_page_has_what_was_found() -> None:
    """Each cell has its test above, and nothing stands there that none has found."""
    assert what_works.shown() == what_works.table()
