"""A kernel at each place, for the tests of this room. What a file needs there it adds in a fixture of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel
from places import PLACES, Site, kernel_at


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One kernel at each place, for all tests that leave it as it was."""
    with kernel_at(request.param) as site:
        yield site


@pytest.fixture
def kernel(site: Site) -> Kernel:
    """The kernel of the site."""
    return site.kernel
