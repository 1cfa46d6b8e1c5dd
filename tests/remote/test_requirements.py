"""``@flame.require``: modules that a shipped function uses are imported there, whether this side has them or not."""

from __future__ import annotations

from collections.abc import Iterator

import farside
import pytest
from farside import FlameServer

import flame
from flame_kernel.remote.remote import Remote


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    server = FlameServer(farside.pythons()[-1], unix=True)
    with flame.connect(server.location, place="child", shell="mini") as one:
        yield one
    server.stop()


def helper(n: int) -> int:
    return n + 1


@flame.require("colorsys", "xml.dom.minidom", helper)
def colour() -> tuple[str, str, int]:
    minidom = xml.dom.minidom  # type: ignore[name-defined]  # noqa: F821
    return colorsys.__name__, minidom.__name__, helper(1)  # type: ignore[name-defined]  # noqa: F821


def test_modules_are_imported_there(remote: Remote) -> None:
    assert remote.run(colour) == ("colorsys", "xml.dom.minidom", 2)


def test_a_module_that_is_only_there(remote: Remote) -> None:
    remote.sendmodule("only_there", "word = 'there'")

    @flame.require("only_there")
    def word() -> str:
        found: str = only_there.word  # type: ignore[name-defined]  # noqa: F821
        return found

    assert remote.run(word) == "there"


def test_a_module_that_is_missing_there(remote: Remote) -> None:
    @flame.require("no_such_module")
    def word() -> None:
        no_such_module.word()  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        remote.run(word)


def test_what_cannot_be_required() -> None:
    for wrong in ("not a name", "", 3):
        with pytest.raises(TypeError, match="cannot be required"):
            flame.require(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="only a function"):
        flame.require("os")(3)  # type: ignore[type-var]
