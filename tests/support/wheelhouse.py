"""Wheels of what is installed here, made again from its files: for a far side that has nothing, without an index."""

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
