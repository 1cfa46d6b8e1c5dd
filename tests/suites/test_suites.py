"""The test suites of nbclient, papermill and others that start kernels, run against ours: what ipykernel passes passes,
but for what stands in ``differences`` with its reason.

CI runs the quick ones. All of them, and ipykernel itself beside ours: ``python -m pytest -m whole tests/suites``.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import outside
import pytest
import upstream
from differences import ALSO_ON_IPYKERNEL, DIFFERENCES, QUICK_IN_PROCESS, SUITES
from needs import missing

KERNELSPEC = Path(__file__).parents[2] / "kernelspec" / "kernel.json"
WHOLE = [(suite, place, False) for suite in SUITES for place in ("ipykernel", "child", "process")]
QUICK = [
    (suite, place, True)
    for place in ("child", "process")
    for suite in SUITES
    if suite.quick and (place == "child" or suite.name in QUICK_IN_PROCESS)
]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where suites are unpacked, by name."""
    return _Fetched(tmp_path_factory.mktemp("suites"))


class _Fetched(dict[str, Path]):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        (suite,) = (one for one in SUITES if one.name == name)
        folder = self._folder / name
        folder.mkdir()
        try:
            self[name] = upstream.unpack(suite.name, suite.version, suite.sha256, folder)
        except subprocess.CalledProcessError as error:
            missing(f"the source distribution of {name}: {error.stderr}")
        return self[name]


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize(
    ("suite", "place", "quick"),
    [pytest.param(*one, marks=() if one[2] else pytest.mark.whole) for one in QUICK + WHOLE],
    ids=[f"{suite}-{place}-{'quick' if quick else 'whole'}" for suite, place, quick in QUICK + WHOLE],
)
def test_suite(suite: outside.Suite, place: str, quick: bool, fetched: dict[str, Path], tmp_path: Path) -> None:
    expected = dict(ALSO_ON_IPYKERNEL.get(suite.name, {}))
    if place != "ipykernel":
        expected |= DIFFERENCES.get((suite.name, place), {})
    tests = fetched[suite.name]
    with tempfile.TemporaryDirectory(prefix="suite-run-") as folder:
        # jedi's folder is there, as with anyone who has used IPython.
        (tmp_path / "jedi").mkdir()
        environ = {"XDG_CACHE_HOME": str(tmp_path)}
        if place != "ipykernel":
            environ["JUPYTER_PATH"] = str(upstream.shadow(KERNELSPEC, Path(folder, "jupyter")))
            environ["FLAME_PLACE"] = place
        what = (*suite.what, "-k", suite.quick) if quick else suite.what
        found, output = outside.run(tests, what, environ, Path(folder), 1800)
        late = {name for name, outcome in found.items() if outcome == "failed" and name not in expected}
        if late:
            # Many of them give a kernel a few seconds by the clock, and this machine has other tests to do: once more.
            print(f"once more: {late}\n{output}")
            names = " or ".join({name.rpartition("::")[2].partition("[")[0] for name in late})
            again, output = outside.run(tests, (*suite.what, "-k", names), environ, Path(folder), 600)
            found |= {name: outcome for name, outcome in again.items() if name in late}
    failed = {name for name, outcome in found.items() if outcome == "failed"}
    passed = {name for name, outcome in found.items() if outcome == "passed"}
    print(f"{suite} in {place}: {len(passed)} passed, {len(failed)} failed")
    assert not failed - set(expected), f"new failures\n{output}"
    assert not passed & set(expected), "these pass now: strike them from the table"
    on_ours = len(set(DIFFERENCES.get((suite.name, place), ())) & set(found))
    assert len(passed) + on_ours == suite.passed[quick], "another number of tests than ipykernel passes"
