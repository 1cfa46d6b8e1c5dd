"""Mutants of values, arrays and tables: read or refused, in bounded memory and time, and never the end of the process.

``FLAME_FUZZ=full`` makes 300,000 of each; a usual run makes some thousand, in a few seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = os.environ.get("FLAME_FUZZ") == "full"
COUNT = 300_000 if FULL else 5_000


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("kind", ["values", "arrow"])
def test_mutants_are_read_or_refused(kind: str) -> None:
    script = Path(__file__).parents[1] / "support" / "fuzzing.py"
    command = [sys.executable, "-W", "ignore", str(script), kind, str(COUNT), "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout)
    print(told)
    assert set(told["outcomes"]) == {"read", "refused"}, run.stderr[-2000:]
    assert min(told["outcomes"].values()) > COUNT // 100
    assert told["grown"] < 400 << 20
    assert told["slowest"] < 10  # of the processor
