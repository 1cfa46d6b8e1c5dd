"""A Dask cluster as users ask for it: by the magics, in the kernel, and by ``jupyter flame dask``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
import shell as command
from dasked import until_workers
from farside import FlameServer
from kernels import remote_flame
from notebook_shell import ipython

from flame_kernel.cluster import far_side

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:\s*Port 8787 is already in use"),  # by a test beside this one
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def saved(nothing_is_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A targets.toml of two stock servers with a key, and of one that may only be read; the two are the group web."""
    folder = tmp_path_factory.mktemp("config")
    key = farside.random_key()
    with (
        farside.stopped(FlameServer(farside.pythons()[-1], key=key)) as one,
        farside.stopped(FlameServer(farside.pythons()[-1], key=key)) as two,
    ):
        for name, text in (
            ("key", key),
            (
                "targets.toml",
                f'[targets.web1]\nlocation = "{one.location}"\nkey_file = "{folder}/key"\n'
                f'[targets.web2]\nlocation = "{two.location}"\nkey_file = "{folder}/key"\n'
                '[targets.prod]\nlocation = "localhost:9"\n[targets.prod.rails]\nread_only = true\n'
                '[groups.web]\nmembers = ["web1", "web2"]\n',
            ),
        ):
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
        yield folder / "targets.toml"


def test_by_the_magics(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_CONFIG", str(saved))
    with ipython(tmp_path) as shell:
        assert "this notebook has no cluster" in str(shell.run("%flame dask --stop").error)
        assert "prod is read_only" in str(shell.run("%flame dask -t prod").error)
        assert "name the hosts" in str(shell.run("%flame dask").error)
        shell["client"] = 5
        assert "client is a variable of this notebook; give the" in str(shell.run("%flame dask -t web").error)
        said = shell.ok("%flame dask -t web --as jobs --memory 1GiB --threads 1").out
        assert re.search(r"2 workers on web1, web2; network direct\ndashboard http://localhost:\d+/status\n", said)
        assert "jobs is its client; %flame dask --stop ends it" in said
        assert shell.ok("sorted(jobs.gather(jobs.map(abs, [-2, 1])))").value == [1, 2]
        assert shell.ok("jobs.cluster.worker_spec[0]['options']['kwargs']").value == {
            "nthreads": 1,
            "memory_limit": "1GiB",
        }
        # Once more, as by Run All: the same cluster, with as many workers as are asked for.
        made = shell.ok("jobs.cluster").value
        assert "1 worker on web1, web2" in shell.ok("%flame dask -t web --as jobs --workers 1").out
        assert shell["jobs"].cluster is made
        until_workers(shell["jobs"], 1)
        assert "1 worker on web1, web2" in shell.ok("%flame dask -t web --as jobs --memory 1GiB").out
        for other in ("--memory 2GiB", "--network link", "--scheduler first"):
            assert f"with another {other.split()[0]}; end it first" in str(shell.run(f"%flame dask {other}").error)
        assert "the cluster of web runs; end it first" in str(shell.run("%flame dask -t web1 --as jobs").error)
        shell["jobs"].close()
        made.close()
        assert shell.ok("%flame dask --stop").out == "the cluster is closed\n"
        assert "jobs" not in shell.names
        assert made.status.name == "closed"


def test_of_the_connection_of_a_notebook(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosts are where cells run, if the line names none; an unloaded extension ends the cluster."""
    monkeypatch.setenv("FLAME_CONFIG", str(saved))
    with ipython(tmp_path) as shell:
        location = re.findall(r'location = "(\S+)"', saved.read_text())[0]
        shell.ok(f"%flame connect {location} --key-file {saved.parent / 'key'} --session mine")
        assert f"1 worker on {location}" in shell.ok("%flame dask").out
        made = shell["client"].cluster
        assert shell.ok("client.submit(pow, 2, 5).result()").value == 32
        shell.ok("%unload_ext flame")
        assert made.status.name == "closed"


def test_in_the_kernel_the_client_is_where_cells_run(saved: Path) -> None:
    with remote_flame(env={"FLAME_CONFIG": str(saved), "FLAME_TARGET": "web1"}) as k:
        assert "this notebook has no cluster" in k.execute("%flame dask --stop").traceback
        assert "prod is read_only" in k.execute("%flame dask -t prod").traceback
        k.execute("client = 5")
        run = k.execute("%flame dask -t web --memory 1GiB --threads 1", timeout=90)
        assert "2 workers on web1, web2; network direct\n" in run.stdout, run
        assert run.stdout.endswith("not there: client is a variable there; give the client another name: --as NAME\n")
        (shown,) = run.displays
        assert "FlameCluster" in shown["text/plain"]
        run = k.execute("%flame dask --as jobs")
        assert run.stdout.endswith("jobs is its client, also in %%local cells; %flame dask --stop ends it\n"), run
        # It is in the process of the far side, and speaks to the scheduler here by a forwarded port.
        assert k.execute("jobs.submit(pow, 2, 5).result()").result == "32"
        assert k.execute("%%local\n[jobs.submit(pow, 2, 6).result(), client is jobs]").result == "[64, True]"
        assert k.execute("%flame dask --stop").stdout == "the cluster is closed\n"
        assert "NameError" in k.execute("jobs").traceback
        assert "no cluster" in k.execute("%flame dask --stop").traceback
        # Of a group that cells run on; the end of the kernel ends it.
        assert k.execute("%flame connect web").error is None
        run = k.execute("%flame dask --workers 1", timeout=90)
        assert run.stdout.endswith("client is its client in %%local cells; %flame dask --stop ends it\n"), run


@contextlib.contextmanager
def running(*words: str, config: Path, runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """``jupyter flame dask`` with these words, until Ctrl-C."""
    process = subprocess.Popen(
        [command.COMMAND, "dask", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**command._clean(), "FLAME_CONFIG": str(config), "JUPYTER_RUNTIME_DIR": str(runtime)},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert errors == ""


def test_by_the_command_line_until_ctrl_c(saved: Path, tmp_path: Path) -> None:
    with running("web", "--memory", "1GiB", "--workers", "1", config=saved, runtime=tmp_path) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        assert re.fullmatch(r"scheduler tls://127.0.0.1:\d+\n", said[0])
        assert said[1:2] + said[4:] == ["1 worker on web1, web2; network direct\n", "Ctrl-C ends it\n"]
        assert re.fullmatch(r"dashboard http://localhost:\d+/status\n", said[2])
        (file,) = tmp_path.iterdir()
        assert said[3] == f"client DASK_CONFIG={file} python …  (there, Client() is this cluster)\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        job = "from distributed import Client\nwith Client() as client: print(client.submit(pow, 2, 10).result())"
        done = subprocess.run(
            [sys.executable, "-c", job],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "DASK_CONFIG": str(file)},
        )
        assert done.stdout == "1024\n", done.stderr
        assert "BEGIN PRIVATE KEY" in json.loads(file.read_bytes())["distributed"]["comm"]["tls"]["client"]["key"]
    assert process.returncode == 130
    assert not file.exists()


def test_a_client_there_is_closed_without_a_traceback_of_dasks(caplog: pytest.LogCaptureFixture) -> None:
    class Bound:
        made_by_flame = True

        def close(self) -> None:
            logging.getLogger("distributed.client").error("what it logs if its scheduler was gone before")

    names = {"client": Bound()}
    far_side.end_client(names, "client")
    assert (names, caplog.records) == ({}, [])


def test_the_command_line_without_hosts() -> None:
    done = command.flame("dask")
    assert done.code == 1
    assert "name the hosts of the cluster" in done.err


_INTERRUPTS = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, *more):
        if name == os.environ["AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
"""


@pytest.mark.parametrize("module", ["flame_kernel.cli.subcommands.dask", "distributed.scheduler"])
def test_ctrl_c_while_it_is_being_loaded_is_its_end_and_no_traceback(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPTS)
    done = subprocess.run(
        [command.COMMAND, "dask", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**command._clean(), "PYTHONPATH": str(tmp_path), "AT": module},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
