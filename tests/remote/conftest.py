"""Connections of the library, for the tests of its room. What a file needs there it adds in a fixture of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from farside import FlameServer, Python

import flame
from flame_kernel.remote.remote import Remote


@pytest.fixture
def pi(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    """A connection to a stock server."""
    with flame.connect(flame_server().location, shell="mini") as connected:
        yield connected


@pytest.fixture(scope="module")
def lasting(server: FlameServer) -> Iterator[Remote]:
    """A connection for all tests of a module that leave nothing there."""
    with flame.connect(server.location, shell="mini") as connected:
        connected.evaluate("object()", ref=True)  # what a session makes when it is first used is there
        yield connected


@pytest.fixture
def oldest(flame_server: Callable[..., FlameServer], oldest_python: Python) -> Iterator[Remote]:
    """A connection to one on the oldest Python."""
    with flame.connect(flame_server(oldest_python).location, shell="mini") as connected:
        yield connected
