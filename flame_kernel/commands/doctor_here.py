"""Doctor for this side: whether JupyterLab can show the far side's output. No server is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from jupyter_core.paths import jupyter_path

from .doctor import NOTE, OK, Check

WIDGETS = "@jupyter-widgets/jupyterlab-manager"


def examine_lab() -> Iterator[Check]:
    """The checks of the JupyterLab in this Python; another installation cannot be checked from here."""
    lab = _version("jupyterlab")
    if lab is None:
        yield Check("JupyterLab", NOTE, "not in this Python; where it is, widgets need jupyterlab-widgets")
        return
    yield Check("JupyterLab", OK, f"{lab} here, with its debugger")
    widgets = _extension(WIDGETS)
    if widgets is None:
        install = "pip install jupyterlab-widgets here, and reload the page"
        yield Check("Lab widgets", NOTE, "no widgets are shown: its extension for them is not installed", install)
    else:
        yield Check("Lab widgets", OK, widgets)
    proxy = _version("jupyter-server-proxy")
    if proxy is None:
        lacks = "jupyter-server-proxy is not installed: dashboards of the far side do not open through it"
        yield Check("Lab proxy", NOTE, lacks, "pip install jupyter-server-proxy here")
    else:
        yield Check("Lab proxy", OK, f"jupyter-server-proxy {proxy}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extension(name: str) -> str | None:
    """The version of a JupyterLab extension; "there" if that is unknown."""
    for folder in jupyter_path("labextensions"):
        described = Path(folder, *name.split("/"), "package.json")
        if described.is_file():
            try:
                return str(json.loads(described.read_text("utf-8"))["version"])
            except (OSError, ValueError, KeyError, TypeError):
                return "there"
    return None
