"""A project on this machine, and a far side that imports from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer, LiveApp

import flame
from flame_kernel.remote.remote import Remote

FILES = {
    "shop/__init__.py": "from .cart import Cart\nfrom . import prices\n",
    "shop/cart.py": (
        "from .prices import price\n\n\nclass Cart:\n    def total(self):\n        return price('tea') * 2\n\n\n"
        "def fail():\n    return 1 // 0  # here\n"
    ),
    "shop/prices.py": "def price(name):\n    return 3\n",
    "shop/data/table.csv": "a,b\n",
    "shop/.env": "SECRET=1\n",
    "shop/server.key": "SECRET\n",
    "loose/part/leaf.py": "VALUE = 'leaf'\n",
    "single.py": "VALUE = 1\n",
    "notes.txt": "not in a package\n",
    "json.py": "raise RuntimeError('the far side needs its own')\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a package, a package without ``__init__.py``, a module, and files that are nobody's business."""
    folder = tmp_path / "src"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """``edit(path, old, new)`` changes a file."""

    def change(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


@pytest.fixture(scope="module", params=["child", "process", "oldest"])
def site(request: pytest.FixtureRequest) -> Iterator[FlameServer | LiveApp]:
    """A server whose sessions are children, a live app, and a server on the oldest Python."""
    python = farside.pythons()[0 if request.param == "oldest" else -1]
    with farside.stopped((LiveApp if request.param == "process" else FlameServer)(python)) as server:
        yield server


@pytest.fixture
def pi(site: FlameServer | LiveApp) -> Iterator[Remote]:
    """A session there."""
    with flame.connect(site.location, shell="mini") as remote:
        yield remote
