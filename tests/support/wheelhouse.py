"""Wheels for a far side that has nothing, without an index: of what is installed here, made again from its files, and
of packages that are made up."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

# Files of an installation that no wheel has.
_OF_PIP = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def wheelhouse(folder: Path, names: Iterable[str], other: dict[str, str] | None = None) -> Path:
    """Wheels of these packages and of all that they need; ``other`` gives some of them another version."""
    folder.mkdir(exist_ok=True)
    for name in sorted(_closure(names)):
        _wheel(folder, metadata.distribution(name), (other or {}).get(name))
    return folder


def _closure(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                left.append(needed.name)
    return found


def _wheel(folder: Path, package: metadata.Distribution, version: str | None) -> None:
    name, real = package.metadata["Name"].replace("-", "_"), package.version
    made = version or real
    tags = [line.partition(":")[2].strip() for line in str(package.read_text("WHEEL")).splitlines() if "Tag:" in line]
    parts = [".".join(dict.fromkeys(column)) for column in zip(*(tag.split("-") for tag in tags), strict=True)]
    info, record = f"{name}-{made}.dist-info", ""
    with zipfile.ZipFile(folder / f"{name}-{made}-{'-'.join(parts)}.whl", "w") as file:
        for path in package.files or ():
            if ".." in path.parts or "__pycache__" in path.parts or path.name in _OF_PIP:
                continue
            content = Path(str(path.locate())).read_bytes()
            where = path.as_posix()
            if path.parts[0].endswith(".dist-info"):
                where = "/".join((info, *path.parts[1:]))
                if path.name == "METADATA":
                    content = content.replace(f"\nVersion: {real}\n".encode(), f"\nVersion: {made}\n".encode(), 1)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record += f"{where},sha256={digest},{len(content)}\n"
            file.writestr(where, content)
        file.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: tuple[str, ...] = (),
    files: dict[str, str] | None = None,
    tag: str = "py3-none-any",
    spoilt: bool = False,
    **extras: str,
) -> Path:
    """A wheel with one module of the package's name, and whatever else is wanted."""
    info = f"{name}-{version}.dist-info"
    requirements = "".join(f"Requires-Dist: {one}\n" for one in requires)
    requirements += "".join(
        f"Provides-Extra: {one}\nRequires-Dist: {of}; extra == '{one}'\n" for one, of in extras.items()
    )
    content = {
        f"{name}.py": f"version = {version!r}\nwhere = __file__\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(files or {}),
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in content.items())
    if spoilt:
        content[f"{name}.py"] += "evil = True\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as file:
        for one, text in content.items():
            file.writestr(one, text)
        file.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
