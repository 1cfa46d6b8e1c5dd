"""ipykernel's own 95 tests against a Flame kernel: every one passes, but for those named here with their reason.

The tables only ever get shorter: a test that passes and still stands in its table fails this one too.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import upstream
from needs import missing

# What ipykernel skips on Linux: these run nowhere.
SKIPPED_BY_IPYKERNEL = frozenset(
    {
        "test_kernel::test_capture_fd",
        "test_kernel::test_subprocess_peek_at_stream_fileno",
        "test_kernel::test_complete",  # on Windows only
        "test_kernel::test_unc_paths",  # on Windows only
        "test_kernel::test_shutdown_subprocesses",  # "stalls on linux"
    }
)

KERNELSPEC = Path(__file__).parents[2] / "kernelspec" / "kernel.json"

# A Flame kernel's cells run on the server, and the ipykernel object they would reach into is here.
CHILD = {
    "test_kernel::test_parent_header_and_ident": "reads private attributes of the local kernel: get_ipython().kernel",
    "test_kernel::test_print_to_correct_cell_from_thread[none]": "wants a thread's output in whichever cell runs; here "
    "it goes to the cell that started the thread",
}
# In a process of somebody's own, what belongs to the whole process stays as its owner has it. Tests of subshells are
# not run there once more: those are threads of ours in both places.
PROCESS_FILES = [name for name in upstream.FILES if name not in ("test_subshells", "test_start_kernel")]
PROCESS = {
    **CHILD,
    "test_kernel::test_sys_path": "wants '' in sys.path, which is the host's",
    "test_kernel::test_sys_path_profile_dir": "wants '' in sys.path, which is the host's",
    "test_kernel::test_matplotlib_inline_on_import": "wants MPLBACKEND set in the environment, which is the host's",
    "test_kernel::test_interrupt_during_pdb_set_trace": "needs a changed bdb for the whole process",
}


@pytest.fixture(scope="module")
def ipykernel_tests() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="upstream-") as folder:
        try:
            yield upstream.fetch(Path(folder))
        except subprocess.CalledProcessError as error:
            missing(f"ipykernel's source distribution: {error.stderr}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("place", "files", "exceptions"),
    [("child", list(upstream.FILES), CHILD), ("process", PROCESS_FILES, PROCESS)],
    ids=["child", "process"],
)
def test_ipykernels_own_tests(
    place: str,
    files: list[str],
    exceptions: dict[str, str],
    ipykernel_tests: Path,
    tmp_path: Path,
) -> None:
    # jedi's folder is there, as with anyone who has used IPython; sessions of killed kernels would leave one of theirs.
    (tmp_path / "jedi").mkdir()
    with tempfile.TemporaryDirectory(prefix="upstream-run-") as folder:
        jupyter_path = upstream.shadow(KERNELSPEC, Path(folder, "jupyter"))
        # The kernel's own server: another one's name would stand before each prompt, and test_raw_input wants it bare.
        environ = {"JUPYTER_PATH": str(jupyter_path), "FLAME_PLACE": place, "XDG_CACHE_HOME": str(tmp_path)}
        found, output = upstream.run(ipykernel_tests, environ, Path(folder), 500, files)
        late = [name for name, outcome in found.items() if outcome == "failed" and name not in exceptions]
        if late:
            # Some of them give a kernel one second by the clock, and this machine has other tests to do: once more, as
            # ipykernel does it with those that it marks as flaky.
            print(f"once more: {late}\n{output}")
            found.update(upstream.run(ipykernel_tests, environ, Path(folder), 90, late)[0])
    passed = {name for name, outcome in found.items() if outcome == "passed"}
    skipped = {name for name, outcome in found.items() if outcome == "skipped"}
    failed = {name for name, outcome in found.items() if outcome == "failed"}
    count = sum(upstream.FILES[name] for name in files)
    per_file = {name: sum(test.startswith(name + "::") for test in passed) for name in files}
    print(f"{place}: {len(passed)} of {count} pass: {per_file}")
    assert skipped == SKIPPED_BY_IPYKERNEL
    assert not failed - set(exceptions), f"new failures\n{output}"
    assert not passed & set(exceptions), "these pass now: strike them from the table"
    assert len(passed) + len(exceptions) == count
