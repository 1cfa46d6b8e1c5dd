"""Our profile beside py-spy's of the same seconds, from outside: the same functions, shares within 5 points."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest
from farside import LiveApp, pythons, stopped

import flame

# Ten functions that take 2 to 22 hundredths of each second, one behind the other.
SHARES = (2, 4, 5, 6, 8, 10, 12, 14, 17, 22)
WORK = """
import threading, time
over = threading.Event()
for number, share in enumerate({shares}):
    exec(
        "def part%d(clock=time.perf_counter):\\n"
        "    until = clock() + %r\\n"
        "    while clock() < until and not over.is_set(): sum(range(50))" % (number, share / 100)
    )
def work():
    while not over.is_set():
        {calls}
worker = threading.Thread(target=work, name="worker")
worker.start()
"""
SECONDS = 6
PART = re.compile(r"\bpart\d\b")


def shares(found: collections.Counter[str]) -> dict[str, float]:
    whole = sum(found.values())
    return {name: 100 * count / whole for name, count in found.items()}


def test_shares_are_those_of_py_spy(tmp_path: Path) -> None:
    spy, raw = Path(sys.executable).parent / "py-spy", tmp_path / "raw"
    calls = "; ".join(f"part{number}()" for number in range(len(SHARES)))
    with stopped(LiveApp(pythons()[-1])) as app, flame.connect(app.location, shell="mini") as pi:
        pi.execute(WORK.format(shares=SHARES, calls=calls))
        try:
            words = [
                spy,
                "record",
                "--nonblocking",
                "-p",
                app.process.pid,
                "-d",
                SECONDS,
                "-r",
                100,
                "-f",
                "raw",
                "-o",
                raw,
            ]
            beside = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            profile = pi.profile(SECONDS, thread="worker")
            said = beside.communicate(timeout=60)[0]
        finally:
            pi.execute("over.set(); worker.join()")
    if "ermission" in said or "ermitted" in said:
        pytest.skip(f"this system lets nobody look into a process: {said.strip()}")
    theirs: collections.Counter[str] = collections.Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        theirs.update({name: int(count) for name in PART.findall(stack)[:1]})
    ours: collections.Counter[str] = collections.Counter()
    for (_, stack), seconds in profile.stacks.items():
        ours.update({name: round(1000 * seconds) for name in PART.findall(" ".join(one.function for one in stack))[:1]})
    a, b = shares(theirs), shares(ours)
    assert set(a) == set(b) == {f"part{number}" for number in range(len(SHARES))}
    assert {name: (round(a[name]), round(b[name])) for name in a if abs(a[name] - b[name]) > 5} == {}
