"""Packages for hosts that have no network, as users ask for them: what works there, and a sentence for what does not.

Each host is a network namespace with nothing but a loopback interface, and its home a file system of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import netns
import pytest
import shell as command
from farside import FlameServer, Python, every_python, pythons, wait_until
from flakylink import FlakyLink
from ports import light
from transfers import MiB
from wheelhouse import wheel

import flame
from flame_kernel.errors import FlameError
from flame_kernel.packages import install as packages

NEWEST = pythons()[-1]
# Makes the home a file system with these options, and becomes the server.
_HOME = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
# What lies in the home there; the server's own folders are not there before.
_LISTED = "sorted(o.path.join(a, n) for o in [__import__('os')] for a, d, f in o.walk({!r}) for n in d + f)"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def far(home: Path) -> Iterator[Callable[..., FlameServer]]:
    """Starts a server with a home of these mount options."""
    with contextlib.ExitStack() as stack:

        def start(options: str = "size=64m", python: Python = NEWEST) -> FlameServer:
            (within,) = stack.enter_context(netns.alone(1))
            within = (*within, "unshare", "--mount", "sh", "-c", _HOME, options, str(home))
            env: dict[str, str | None] = {"HOME": str(home), "XDG_DATA_HOME": None}
            server = FlameServer(python, unix=True, within=within, env=env)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheels that there are; this machine's pip knows no others."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    wheel(folder, "beta")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _says(location: str, *words: str, code: int = 1) -> str:
    done = command.flame("pip", "-t", location, *words, PIP_NO_INDEX="1", PIP_FIND_LINKS=os.environ["PIP_FIND_LINKS"])
    assert done.code == code, done
    assert "Traceback" not in done.err
    return done.err if code else done.out


def _large(house: Path, size: int, name: str = "large") -> Path:
    """A wheel with a file of so many bytes, which do not become fewer."""
    return wheel(house, name, files={f"{name}_data.txt": random.Random(5).randbytes(size // 2).hex()})


@pytest.mark.parametrize("python", every_python(), ids=lambda python: python.name)
def test_each_python_there(far: Callable[..., FlameServer], home: Path, house: Path, python: Python) -> None:
    wheel(house, "alpha", requires=["beta"], files={"alpha_data.txt": "data"})
    with light(far(python=python).location) as pi:
        pi.install("alpha", progress=False)
        assert packages.listed(pi.session) == {"alpha": "1.0", "beta": "1.0"}
        assert pi.evaluate("__import__('alpha').version, __import__('beta').version") == ("1.0", "1.0")
    with light(pi.location) as later:  # another session finds them
        assert later.evaluate("__import__('alpha').version") == "1.0"
        later.uninstall()
        assert later.evaluate(_LISTED.format(str(home))) == []


def test_no_room_there(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    with light(far("size=2m").location) as pi:
        pi.install("beta", progress=False)
        before = pi.evaluate(_LISTED.format(str(home)))
        _large(house, 1 * MiB)
        with pytest.raises(FlameError, match=r"^no space at .*: .* are free, and 1 package may need about 5"):
            pi.install("large", progress=False)
        # One that is small on its way, and not there.
        swelling = wheel(house, "swelling", files={"swelling_data.txt": "0" * 8 * MiB})
        _deflate(swelling)
        with pytest.raises(FlameError, match=r"remote-flame/.*: No space left on device$"):
            pi.install("swelling", progress=False)
        assert packages.listed(pi.session) == {"beta": "1.0"}
        assert pi.evaluate("__import__('beta').version") == "1.0"
        left = set(pi.evaluate(_LISTED.format(str(home)))) - set(before)
        assert not [one for one in left if "wheels" not in one and "__pycache__" not in one]
        pi.uninstall()
        assert pi.evaluate(_LISTED.format(str(home))) == []


def _deflate(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)


def test_a_home_that_cannot_be_written_to(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    server = far("ro")
    said = _says(server.location, "install", "-y", "beta")
    assert f"{home}/.local/share/remote-flame/" in said
    assert "cannot be written to; packages need a folder of the user's there" in said


def test_what_has_no_wheel_for_it(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    location = far("size=8m").location
    for tag in ("cp312-cp312-manylinux_2_17_aarch64", "cp312-cp312-musllinux_1_2_x86_64", "py3-none-win_amd64"):
        wheel(house, "elsewhere", tag=tag)
    with tarfile.open(house / "source-1.0.tar.gz", "w:gz") as file:
        for name, text in (("PKG-INFO", "Metadata-Version: 2.1\nName: source\nVersion: 1.0\n"), ("setup.py", "")):
            member = tarfile.TarInfo(f"source-1.0/{name}")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    for name in ("elsewhere", "source"):
        said = _says(location, "install", "-y", name)
        assert f"there is no wheel of it for Python {NEWEST.version[0]}.{NEWEST.version[1]} on linux" in said
        assert said.rstrip().endswith("build one (pip wheel NAME, on such a machine) and give its file")
    # That works: the file alone, with what else is to be had.
    assert "installed at" in _says(location, "install", "-y", str(wheel(house.parent, "source")), code=0)
    with light(location) as pi:
        assert pi.evaluate("__import__('source').version") == "1.0"
        pi.uninstall()
        assert pi.evaluate(_LISTED.format(str(home))) == []


def test_hashes_that_a_requirement_names(far: Callable[..., FlameServer], house: Path, tmp_path: Path) -> None:
    location = far("size=8m").location
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"beta==1.0 --hash=sha256:{'0' * 64}\n")
    assert "DO NOT MATCH THE HASHES" in _says(location, "install", "-y", "-r", str(requirements)).upper()
    digest = hashlib.sha256((house / "beta-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    requirements.write_text(f"beta==1.0 --hash=sha256:{digest}\n")
    assert "installed at" in _says(location, "install", "-y", "-r", str(requirements), code=0)


def test_the_pip_of_the_host_says_what_it_cannot(far: Callable[..., FlameServer], house: Path) -> None:
    said = command.flame(
        "pip", "-t", far("size=8m").location, "--there", "install", "no-such-package", "--retries", "0"
    )
    assert said.code == 1
    assert "No matching distribution found for no-such-package" in said.out + said.err
    assert "Traceback" not in said.out + said.err


@pytest.mark.long
def test_it_goes_on_after_cuts_and_after_its_end(far: Callable[..., FlameServer], home: Path, house: Path) -> None:
    server, size = far("size=200m"), 12 * MiB
    _large(house, size)
    with FlakyLink(server.location) as link:
        with flame.connect(link.location) as pi:
            link.cut_at("up", 8 * MiB)
            done = pi.install("large", progress=False)
            assert not link.cut_is_due
            assert done.packages == {"large": "1.0"}
            assert link.passed["up"] < size + 8 * MiB
            pi.uninstall()
        # A client that is killed in the middle: the next one sends the rest.
        before, link.rate = link.passed["up"], 20 * MiB
        process = subprocess.Popen(
            [command.COMMAND, "pip", "-t", link.location, "install", "-y", "large"],
            # What it has fetched stays in its temporary folder.
            env={**command._clean(), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house), "TMPDIR": str(home.parent)},
            stdin=subprocess.DEVNULL,
        )
        with process:
            wait_until(lambda: link.passed["up"] > before + 7 * MiB, "a part of it is there", 60)
            process.kill()
        assert link.passed["up"] - before < size
        before, link.rate = link.passed["up"], None
        with flame.connect(link.location) as pi:
            assert pi.install("large", progress=False).packages == {"large": "1.0"}
            assert link.passed["up"] - before < size - 4 * MiB
            assert pi.evaluate("__import__('os').path.getsize(__import__('large').where[:-3] + '_data.txt')") == size
            pi.uninstall()
            assert pi.evaluate(_LISTED.format(str(home))) == []
