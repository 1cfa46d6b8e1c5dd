"""A short chaos run, by the command that a maintainer has for an hour of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = 0.3


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", [(), ("--group",)], ids=["kernel", "group"])
def test_some_chaos(options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--minutes", str(MINUTES), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "no violation" in done.stdout
    assert done.stdout.startswith("seed ")
