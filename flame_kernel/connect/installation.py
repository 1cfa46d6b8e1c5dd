"""How this package was installed: the pip command that adds an extra, and whether ``import flame`` finds ours."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

_NAME = "remote-flame"


def another_flame() -> str:
    """A sentence if ``import flame`` would not find our module, else empty. Nothing is imported to find out."""
    try:
        spec = importlib.util.find_spec("flame")
    except (ImportError, ValueError):  # a module that is only partly imported
        spec = None
    ours = Path(__file__).parents[2] / "flame.py"
    if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == ours.resolve():
        return ""
    where = f"is {spec.origin or 'a folder without a module'}" if spec is not None else "is not to be found"
    return (
        f"the module flame {where}, and not ours; use %load_ext flame_kernel, and in a script "
        "from flame_kernel.remote.connect import connect"
    )


def pip_install(extra: str) -> str:
    """The ``pip install …`` command that adds ``extra``, from the same source: a checkout, file, repository or PyPI."""
    import importlib.metadata  # a tenth of the time that ``import flame`` and a first session take

    try:
        told = importlib.metadata.distribution(_NAME).read_text("direct_url.json")
        origin = json.loads(told) if told else {}
        url = str(origin.get("url", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        origin, url = {}, ""
        checkout = Path(__file__).parents[2]
        if (checkout / "pyproject.toml").is_file():  # used from sys.path without being installed
            return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    if url.startswith("file://") and "dir_info" in origin:
        from urllib.request import url2pathname

        flag = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {flag}{shlex.quote(f'{url2pathname(url[7:])}[{extra}]')}"
    if url:
        kind = origin.get("vcs_info", {})
        url = f"{kind['vcs']}+{url}@{kind['commit_id']}" if {"vcs", "commit_id"} <= kind.keys() else url
        return f"pip install {shlex.quote(f'{_NAME}[{extra}] @ {url}')}"
    return f"pip install '{_NAME}[{extra}]'"
