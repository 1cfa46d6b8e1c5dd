"""``jupyter flame install``, ``list`` and ``remove``: kernelspecs, one a far side."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import farside
import pytest
from farside import FlameServer
from jupyter_client.kernelspec import KernelSpecManager
from kernels import remote_flame
from shell import flame

WARM = ("jupyter_client.kernelspec",)
pytestmark = pytest.mark.usefixtures("warm_commands")

LOGOS = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for data; and a targets file with one target in it."""
    folder = tmp_path / "data"
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
    monkeypatch.setenv("FLAME_CONFIG", str(tmp_path / "targets.toml"))
    assert flame("targets", "add", "gpu-box", "ssh://me@gpu/9999").code == 0
    return folder


def spec(place: Path) -> dict[str, object]:
    content = json.loads((place / "kernel.json").read_text())
    assert isinstance(content, dict)
    return content


def test_from_the_first_to_the_last(data: Path, tmp_path: Path) -> None:
    place = data / "kernels" / "flame-gpu-box"
    done = flame("install", "gpu-box", "--place", "child", "--session", "train", "--env", "OMP_NUM_THREADS", "2")
    assert (done.code, done.out) == (0, f"Installed kernelspec flame-gpu-box in {place}\n"), done
    content = spec(place)
    assert content["display_name"] == "Remote Flame: gpu-box (child, session train)"
    assert content["env"] == {
        "FLAME_KERNELSPEC": "flame-gpu-box",
        "FLAME_TARGET": "gpu-box",
        "FLAME_KEY_FILE": "",
        "FLAME_PLACE": "child",
        "FLAME_SESSION": "train",
        "FLAME_CONFIG": str(tmp_path / "targets.toml"),
        "OMP_NUM_THREADS": "2",
    }
    argv = content["argv"]
    assert isinstance(argv, list)
    assert argv[0] == sys.executable
    assert content["interrupt_mode"] == "message"
    assert {path.name for path in place.iterdir()} == {"kernel.json", *LOGOS}
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert set(KernelSpecManager().find_kernel_specs()) >= {"flame-gpu-box"}

    done = flame("install", "gpu-box")
    assert (done.code, "say --replace, or choose another --name" in done.err) == (1, True)
    done = flame(
        "install", "-t", "gpu-box", "--replace", "--display-name", "The GPU box", "--sys-prefix", "--name", "x"
    )
    assert done.code == 0
    (tmp_path / "key").touch(mode=0o600)
    where = ["--prefix", tmp_path / "prefix", "--name", "at-home"]
    words = ["localhost:9999", "--key-file", tmp_path / "key"]
    assert flame("install", *words, *where).code == 0
    other = tmp_path / "prefix" / "share" / "jupyter" / "kernels" / "at-home"
    assert spec(other)["display_name"] == "Remote Flame: localhost:9999"
    assert spec(other)["env"] == {
        "FLAME_KERNELSPEC": "at-home",
        "FLAME_TARGET": "localhost:9999",
        "FLAME_KEY_FILE": str(tmp_path / "key"),
        "FLAME_SESSION": "",
        "FLAME_CONFIG": str(tmp_path / "targets.toml"),
    }

    try:
        listed = json.loads(flame("list", "--json").out)
        found = {one["name"]: (one["display_name"], one["target"]) for one in listed}
        assert found["flame-gpu-box"] == ("Remote Flame: gpu-box (child, session train)", "gpu-box")
        assert found["x"] == ("The GPU box", "gpu-box")
        assert "python3" not in found
        head, *rows = flame("list").out.splitlines()
        assert head.split() == ["kernel", "name", "server", "folder"]
        (row,) = (row for row in rows if row.startswith("flame-gpu-box "))
        columns = {"name": "Remote Flame: gpu-box (child, session train)  ", "server": "gpu-box  ", "folder": "/"}
        for name, text in columns.items():
            assert row[head.index(f" {name}") + 1 :].startswith(text), (head, row)
    finally:
        done = flame("remove", "x", "-f")
    assert (done.code, done.out) == (0, f"Removed {sys.prefix}/share/jupyter/kernels/x\n")
    done = flame("remove", "flame-gpu-box")
    assert (done.code, "There is no terminal to ask in; add -y" in done.err, place.exists()) == (1, True, True)
    assert flame("remove", "flame-gpu-box", "-y").code == 0
    assert not place.exists()


def test_the_module_installs_too(data: Path) -> None:
    command = [sys.executable, "-m", "flame_kernel", "install", "gpu-box", "--user"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    assert done.stdout == f"Installed kernelspec flame-gpu-box in {data / 'kernels' / 'flame-gpu-box'}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("install nobody", 1, "there is no target 'nobody' (there are: gpu-box)"),
        ("install localhost:no", 1, "no usable port"),
        ("install gpu-box -t localhost:1", 1, "are two servers"),
        ("install gpu-box --name a/b", 1, "not a usable name for a kernel"),
        ("install gpu-box --env PYRO_HMAC_KEY sesame", 1, "PYRO_HMAC_KEY would stand in kernel.json"),
        ("install gpu-box --env my_token sesame", 1, "my_token would stand in kernel.json"),
        ("install gpu-box --env a=b sesame", 1, "not the name of an environment variable"),
        ("install gpu-box --env ONE", 2, "expected 2 arguments"),
        ("install gpu-box --prefix /proc/nowhere", 1, "perhaps you want --user, or --sys-prefix"),
        ("install --key-file x", 1, "name it as WHERE"),
        ("install gpu-box --user --sys-prefix", 2, "not allowed with"),
        ("remove python3", 1, "python3 is not a kernel of Remote Flame"),
        ("remove", 2, "required: KERNEL"),
    ],
)
def test_what_cannot_be(words: str, code: int, says: str, data: Path) -> None:
    done = flame(*words.split())
    assert (done.code, says in done.err) == (code, True), done
    assert "sesame" not in done.err
    assert not (data / "kernels").exists()


def test_an_installed_kernel_finds_its_server(flame_server: type[FlameServer], tmp_path: Path, data: Path) -> None:
    """Its own server, and not the default one or that of the environment; a secret comes from Jupyter's environment."""
    key = farside.random_key()
    server = flame_server(key=key)
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text(key)
    words = [
        "--key-file",
        tmp_path / "key",
        "--shell",
        "mini",
        "--place",
        "process",
        "--env",
        "MY_TOKEN",
        "${MY_TOKEN}",
    ]
    assert flame("install", server.location, "--name", "here", *words).code == 0
    with remote_flame({"FLAME_TARGET": "localhost:1"}, name="here") as kernel:
        assert kernel.execute("import os; os.getpid()").result == str(server.process.pid)


def test_the_configuration_file_holds_where_nothing_else_says_otherwise(
    flame_server: type[FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the kernel, the magics and the command line."""
    server = flame_server()
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(folder))
    lines = ["c.FlameSettings.place = 'process'", "c.FlameSettings.shell = 'mini'"]
    lines += [f"c.FlameSettings.target = {server.location!r}"]
    (folder / "jupyter_flame_config.py").write_text("\n".join(lines))
    pid = str(server.process.pid)
    asked = "__import__('os').getpid()"
    assert flame("eval", asked).out == pid + "\n"
    assert flame("eval", "--place", "child", asked).out != pid + "\n"
    with remote_flame() as kernel:
        assert kernel.execute(asked).result == pid
    with remote_flame({"FLAME_PLACE": "child"}) as kernel:
        assert kernel.execute(asked).result != pid
    script = "%load_ext flame\n%flame connect\n%flame eval __import__('os').getpid()\n"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--simple-prompt"],
        input=script,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert pid in done.stdout, done
