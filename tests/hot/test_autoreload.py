"""IPython's own tests of ``%autoreload``, unmodified, over a link to modules that are served hot.

The table only ever gets shorter: a test that passes and still stands in it fails this one too.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import upstream
from farside import FlameServer
from needs import missing

ROOT = Path(__file__).parents[2]
COUNT = 24
_MODE_3 = "of %autoreload 3: names that a cell took by `from module import name` get new values; hot code is as mode 2"
_LISTS = "of IPython's own %aimport and its words"
EXCEPTIONS = {
    "test_autoload_newly_added_objects": _MODE_3,
    "test_autoload3_import_Y_as_Z_overloading": _MODE_3,
    "test_import_from_tracker_integration": _MODE_3,
    "test_autoreload3_double_import": _MODE_3,
    "test_verbose_names": _LISTS,
    "test_aimport_parsing": _LISTS,
    "test_aimport_as": _LISTS,
    "test_autoreload_output": _LISTS,
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ipythons_own_tests_of_autoreload(server: FlameServer, tmp_path: Path) -> None:
    try:
        tests = upstream.fetch(tmp_path, upstream.IPYTHON)
    except subprocess.CalledProcessError as error:
        missing(f"IPython's source distribution: {error.stderr}")
    paths = [ROOT, ROOT / "tests" / "support", *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environ = {"FLAME_YARD": server.location, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path)}
    with tempfile.TemporaryDirectory(prefix="y-") as folder:
        options = ("-p", "reloadplugin", "--noconftest", "--timeout=60")
        ini = tests.parent / "pytest.ini"
        found, output = upstream.run(tests, environ, Path(folder), 280, ("test_zzz_autoreload",), ini, options)
    outcomes = {name.rpartition("::")[2]: outcome for name, outcome in found.items()}
    failed = {name for name, outcome in outcomes.items() if outcome != "passed"}
    assert len(outcomes) == COUNT, output
    assert failed == set(EXCEPTIONS), output
