"""What a test needs of its machine.  In CI (``CI=true``) it has to be there; elsewhere its want skips the test."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(what: str) -> NoReturn:
    """This machine lacks ``what``: the test is skipped, and failed in CI."""
    if CI:
        pytest.fail(f"CI needs {what}", pytrace=False)
    pytest.skip(f"needs {what}")
