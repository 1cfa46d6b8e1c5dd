"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private file with the key that the module's servers have: its ``KEY``."""
    path = tmp_path_factory.mktemp("key") / "server.key"
    path.touch(mode=0o600)
    path.write_text(request.module.KEY)
    return path
