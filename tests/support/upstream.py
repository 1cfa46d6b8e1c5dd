"""Other projects' own tests, fetched from their source distributions and run unchanged against what is ours.

ipykernel's start the kernel named ``python3``; a folder on JUPYTER_PATH gives that name to the kernel under test.
ipyparallel's get another client by a plugin (`ippplugin`).  Nothing of them is kept in this tree.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Source(NamedTuple):
    """A source distribution, and the folder in it that is taken."""

    name: str
    version: str
    sha256: str
    folder: str


IPYKERNEL = Source("ipykernel", "7.4.0", "4330114d22b9b33575b2c7c68753fc8faabbbcfbc60b0cdff9f14dd4ce63742f", "tests")
IPYPARALLEL = Source(
    "ipyparallel", "9.2.0", "2b31bb4e94708e7ffb4ee6501d7f5f664df7e1c4c572e91e9e0d12484c6a6910", "ipyparallel"
)
IPYTHON = Source("ipython", "9.18.1", "6319c0f5372c196397899479e6db1783dd7937abae06815d1317e8d5d51aaaaf", "tests")
# The files, and how many of their tests ipykernel itself passes on Linux.
FILES = {
    "test_message_spec": 24,
    "test_kernel": 30,
    "test_async": 3,
    "test_subshells": 23,
    "test_start_kernel": 3,
    "test_debugger": 12,
}

# In place of ipykernel's own settings: those make any new warning of any library a failure, which is not our subject.
INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 30
"""


def unpack(name: str, version: str, sha256: str, folder: Path, inside: str = "") -> Path:
    """Download a source distribution into ``folder``, and unpack what lies in its folder ``inside``; its top.

    Raises CalledProcessError, with pip's words in ``stderr``, if it cannot be had.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "--require-hashes"]
    subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(requirements)],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    top = folder / "unpacked"
    (found,) = folder.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        for member in archive.getmembers():
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            content = archive.extractfile(member)
            if content is None or not member.isfile() or ".." in path.parts or not path.is_relative_to(inside):
                continue
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    return top


def fetch(folder: Path, source: Source = IPYKERNEL) -> Path:
    """The folder of a source distribution that is taken, standing alone.

    Alone, because ipykernel's source, which lies beside its tests, would be imported in place of the installed one.
    Raises CalledProcessError, with pip's words in ``stderr``, if it cannot be had.
    """
    top = unpack(source.name, source.version, source.sha256, folder, source.folder)
    (top / "pytest.ini").write_text(INI)
    return top / source.folder


def shadow(kernelspec: Path, folder: Path) -> Path:
    """A folder for JUPYTER_PATH in which ``python3`` is the kernel of ``kernelspec`` (a kernel.json)."""
    target = folder / "kernels" / "python3"
    target.mkdir(parents=True)
    shutil.copyfile(kernelspec, target / "kernel.json")
    return folder


def run(
    tests: Path,
    environ: dict[str, str],
    folder: Path,
    timeout: float,
    what: Iterable[str] = FILES,
    ini: Path | None = None,
    options: Sequence[str] = (),
) -> tuple[dict[str, str], str]:
    """Run files, or tests of them (``test_kernel::test_simple_print``), in a process of their own: test name ->
    ``passed``, ``failed`` or ``skipped``; and pytest's output.

    ``folder`` takes every file they write; ``ini`` is pytest's settings where they do not lie beside the tests, and
    ``options`` are further ones of its command line.
    """
    report = folder / "report.xml"
    temporary = folder / "t"
    for name in ("t", "runtime", "ipython"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-c",
                str(ini or tests.parent / "pytest.ini"),
                "--tb=short",
                "-rfE",
                "-q",
            ),
            *("-p", "no:cacheprovider", f"--junit-xml={report}", *options),
            *("::".join([str(tests / f"{file}.py"), *test]) for file, *test in (name.split("::") for name in what)),
        ],
        cwd=(ini or tests).parent,
        env={
            **os.environ,
            **environ,
            "TMPDIR": str(temporary),
            "PYTEST_DEBUG_TEMPROOT": str(temporary),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert report.exists(), f"pytest ended with {done.returncode}:\n{done.stdout}"
    return outcomes(report), done.stdout


def outcomes(report: Path) -> dict[str, str]:
    """Of a JUnit XML report: ``test_kernel::test_simple_print`` -> ``passed``, ``failed`` or ``skipped``."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        outcome = "passed"
        if case.find("skipped") is not None:
            outcome = "skipped"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        # A test whose teardown fails is reported twice: the worse one counts.
        if found.get(name) != "failed":
            found[name] = outcome
    return found
