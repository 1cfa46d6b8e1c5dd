"""What is awaited there is awaited here too; and pi.modules as a container."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from farside import FlameServer

import flame
from flame_kernel.remote.remote import Remote

THERE = """
import asyncio
async def later(x):
    await asyncio.sleep(0)
    return x
async def numbers(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
"""


@pytest.fixture
def pi(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    """A connection to a stock server."""
    with flame.connect(flame_server().location, shell="mini") as connected:
        connected.execute(THERE)
        yield connected


def test_coroutines_and_async_generators(pi: Remote) -> None:
    async def main() -> Any:
        later: Any = pi["later"]
        both = await asyncio.gather(later(1), later(2))
        return both, [one async for one in pi["numbers"](3)]

    assert asyncio.run(main()) == ([1, 2], [0, 1, 2])

    async def no_awaitable() -> None:
        await pi.evaluate("object()")

    with pytest.raises(TypeError, match="await"):
        asyncio.run(no_awaitable())


def test_a_forgotten_coroutine_names_its_own_line(pi: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    forgotten = pi["later"](1)
    del forgotten
    assert pi.evaluate("1") == 1
    said = capsys.readouterr().err
    assert "flame_agent" not in said


def test_modules_are_asked_for_as_of_a_container(pi: Remote) -> None:
    assert "os" in pi.modules
    assert "os.path" in pi.modules
    for name in ("nope_zz", "os.nope_zz", "no name", 3, None):
        assert name not in pi.modules
    assert hasattr(pi.modules, "os")
    assert not hasattr(pi.modules, "nope_zz")
    assert getattr(pi.modules, "nope_zz", 5) == 5
    assert "json" in list(pi.modules)
    with pytest.raises(ModuleNotFoundError):
        _ = pi.modules.nope_zz
    with pytest.raises(ModuleNotFoundError):
        pi.modules.nope_zz.f()
