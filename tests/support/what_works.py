"""Writes the table "what works where" of notebooks/REFERENCE.md from what the tests have found.

    python -m pytest -n 0 tests/agent/test_what_works.py --junitxml=linux.xml
    python -m pytest -n 0 -m windows tests/agent/test_what_works.py --junitxml=windows.xml
    python tests/support/what_works.py linux.xml windows.xml

A column is a far side and a place, a row a step of ``walk.ROWS``. Where a test has found that it works the table has
"yes"; "no" where it has found what ``EXCEPT`` says instead. A cell whose test has failed, or did not run, stays out.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import walk

PAGE = Path(__file__).parents[2] / "notebooks" / "REFERENCE.md"
BEGIN, END = "<!-- what works: begin -->", "<!-- what works: end -->"

SIDES = {"linux": "CPython 3.6 to 3.15, Linux", "pypy": "PyPy 3.11, Linux", "windows": "CPython 3.13, Windows (wine)"}
COLUMNS = {
    **{("linux", place): "yes" for place in ("child", "process", "main")},
    **{("pypy", place): "yes" for place in ("child", "process", "main")},
    **{("windows", place): "yes" for place in ("child", "process")},
}
_DESCRIPTORS, _COMPUTES = "output of C code, `os.write(1, …)`", "Stop of a cell that computes"
_BLOCKS = "Stop of a call that blocks, such as `time.sleep(600)`"
_SUBPROCESS = "Stop of a subprocess that the cell waits for"
_CRASH = "a crash ends the session, not the server"
# (side, place, row) -> (what the table has, the step that finds it)
EXCEPT: dict[tuple[str, str, str], tuple[str, walk.Step | None]] = {
    **{(side, place, _DESCRIPTORS): ("no", walk.not_descriptors) for side, place in COLUMNS if place != "child"},
    **{(side, place, _CRASH): ("no: its app ends", walk.ends_all) for side, place in COLUMNS if place != "child"},
    **{
        (side, "process", _BLOCKS): ("no: it says so, and a second Stop abandons the cell", walk.not_stop_blocked)
        for side in SIDES
    },
    ("windows", "process", _CRASH): ("no: its app ends", walk.ends_app),
    ("pypy", "process", _SUBPROCESS): ("the subprocess ends, the cell goes on", walk.stop_subprocess_alone),
    ("pypy", "process", _COMPUTES): (
        "no: it says so, and a second Stop abandons the cell",
        walk.not_stop_computing,
    ),
}


def label(row: str) -> str:
    """A row in the name of its tests."""
    return "-".join(re.findall(r"\w+", row))


def expected(side: str, place: str, row: str) -> tuple[str, walk.Step | None]:
    """What the table has, and the step that finds it; None where nothing was tried."""
    return EXCEPT.get((side, place, row)) or ("yes", walk.ROWS[row])


def table(passed: set[str] | None = None) -> str:
    """The table, with what has ``passed``; None: as if all had."""
    lines = ["| | " + " | ".join(f"{SIDES[side]}: `{place}`" for side, place in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for row in walk.ROWS:
        cells = [
            expected(side, place, row)[0] if passed is None or f"{side}-{place}-{label(row)}" in passed else "?"
            for side, place in COLUMNS
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def passed(*reports: str) -> set[str]:
    """The names of the cells whose tests have passed, in reports of pytest; on Linux: on each of its Pythons."""
    found: dict[str, bool] = {}
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            match = re.search(r"\[(\w+?)(?:_[\d.]+)?-(.*)\]$", case.get("name", ""))
            if match and "test_what_works" in case.get("classname", ""):
                one = f"{match[1]}-{match[2]}"
                found[one] = found.get(one, True) and not list(case.iter("failure")) + list(case.iter("skipped"))
    return {one for one, good in found.items() if good}


def shown() -> str:
    """The table that the page has."""
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    made = table(passed(*sys.argv[1:]))
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", "utf-8")
    if " ? |" in made:
        sys.exit("some of its tests have failed or did not run")


if __name__ == "__main__":
    main()
