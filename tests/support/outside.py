"""The test suites of other projects that use kernels, fetched from their source distributions and run unchanged.

They start the kernel named ``python3``, which ``upstream.shadow`` gives to the kernel under test. Nothing of them is
kept in this tree.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import upstream


@dataclass(frozen=True)
class Suite:
    """A project's tests that start kernels.

    what     pytest's arguments for all of them
    quick    pytest's ``-k`` for those that CI runs; "" for none
    passed   how many of all, and of the quick ones, ipykernel passes
    """

    name: str
    version: str
    sha256: str
    what: tuple[str, ...]
    quick: str
    passed: tuple[int, int]

    def __str__(self) -> str:
        return self.name


def run(
    tests: Path, what: tuple[str, ...], environ: dict[str, str], folder: Path, timeout: float
) -> tuple[dict[str, str], str]:
    """Run a suite, or tests of it, in a process of its own: test name -> ``passed``, ``failed`` or ``skipped``; and
    pytest's output. ``folder`` takes the files that they write elsewhere than in ``tests``."""
    report = folder / "report.xml"
    places = {name: folder / name for name in ("t", "runtime", "ipython", "config", "data")}
    for one in places.values():
        one.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [
            # Their settings are taken, but for what makes any warning of any library a failure.
            *(sys.executable, "-m", "pytest", "-o", "addopts=", "-o", "filterwarnings=default", "-W", "ignore"),
            *("-o", "timeout_method=signal"),  # a test that hangs fails, and the others go on
            *("-p", "no:cacheprovider", "--tb=short", "-rfE", "-q", f"--junit-xml={report}", *what),
        ],
        cwd=tests,
        env={
            **os.environ,
            **environ,
            "TMPDIR": str(places["t"]),
            "PYTEST_DEBUG_TEMPROOT": str(places["t"]),
            "JUPYTER_RUNTIME_DIR": str(places["runtime"]),
            "JUPYTER_CONFIG_DIR": str(places["config"]),
            "JUPYTER_DATA_DIR": str(places["data"]),
            "IPYTHONDIR": str(places["ipython"]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    assert report.exists(), f"pytest ended with {done.returncode}:\n{done.stdout}"
    return upstream.outcomes(report), done.stdout
