"""pytest plugin: ipyparallel's own tests get `ippadapter`'s client and sessions on the stock server FLAME_YARD."""

from __future__ import annotations

import os
from typing import Any

import ippadapter
import ipyparallel
import ipyparallel.tests as theirs

LOCATION = os.environ["FLAME_YARD"]


def _add_engines(n: int = 1, profile: str = "iptest", total: bool = False) -> list[Any]:
    return ippadapter.add_engines(LOCATION, n, total)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    from ipyparallel.tests import clienttest

    clienttest.add_engines = _add_engines

    def connect_client(self: Any) -> Any:
        client = ippadapter.FlameClient()
        client.wait = lambda *args, **kwargs: self.client_wait(client, *args, **kwargs)
        return client

    clienttest.ClusterTestCase.connect_client = connect_client


theirs.setup, theirs.teardown, theirs.add_engines = (lambda: _add_engines(1)), ippadapter.end, _add_engines
ipyparallel.Client = ippadapter.FlameClient
