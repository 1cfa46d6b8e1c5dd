"""FlameCluster on a host that has neither dask nor a network: dask comes through the link."""

from __future__ import annotations

import re
import venv
import warnings
from importlib import metadata
from pathlib import Path

import dasked
import farside
import netns
import pytest
from dasked import cluster
from farside import FlameServer
from wheelhouse import wheelhouse

import flame
from flame_kernel.errors import TargetError

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(240)]


def test_dask_is_sent_and_versions_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    venv.create(tmp_path / "bare")
    python = farside._probe(str(tmp_path / "bare" / "bin" / "python"), farside.clean_environ())
    assert python is not None
    house = wheelhouse(tmp_path / "house", ["dask", "distributed", "cloudpickle"], {"toolz": "1.0.99"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))
    env: dict[str, str | None] = {"HOME": str(home), "XDG_DATA_HOME": None}
    with (
        netns.alone(1) as (within,),
        farside.stopped(FlameServer(python, unix=True, within=within, env=env)) as server,
    ):
        with pytest.raises(TargetError) as caught:
            flame.FlameCluster(server.location)
        assert str(caught.value) == (
            f"dask and distributed not installed at {server.location}; give install=True (--install), or run there: "
            '%flame pip install "dask[distributed]"'
        )
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with cluster(server.location, install=True) as (made, client):
                assert client.submit(pow, 2, 8).result() == 256
                where = client.submit(lambda: __import__("dask").__file__).result()
                assert where.startswith(str(home))
        said = dasked.log(made)
        assert f"installing dask=={metadata.version('dask')} distributed=={metadata.version('distributed')}" in said
        assert "installed at" in said
        (table,) = [text for one in warned if (text := str(one.message)).startswith("versions differ, which may break")]
        assert re.search(rf"\ntoolz +{metadata.version('toolz')} +1\.0\.99(\n|$)", table), table
        assert re.search(r"\nnumpy +[\d.]+ +–(\n|$)", table), table
        assert "\ndask" not in table
