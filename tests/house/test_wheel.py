"""``pip install`` alone, in an environment of its own: the kernel is listed, and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import json, sys
from jupyter_client.manager import start_new_kernel
import flame_kernel
manager, client = start_new_kernel(kernel_name="flame")
said = []
try:
    client.execute_interactive("import os; print('ran in', os.getpid())", output_hook=said.append, timeout=30)
finally:
    client.stop_channels()
    manager.shutdown_kernel()
texts = [m["content"]["text"] for m in said if m["msg_type"] == "stream"]
print(json.dumps(["".join(texts), flame_kernel.__file__]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh environment that sees the libraries of ours, but not what is installed beside them."""
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=True)
    here = sysconfig.get_path("purelib")
    purelib = next(folder.glob("lib/python*/site-packages"))
    (purelib / "libraries.pth").write_text(f"{here}\n")  # .pth files in there, an editable install's, are not read
    return folder


def python(environment: Path, *arguments: str) -> str:
    """The stdout of the environment's Python."""
    env = {name: value for name, value in os.environ.items() if name not in ("JUPYTER_PATH", "PYTHONPATH")}
    done = subprocess.run(
        [environment / "bin" / "python", *arguments],
        env=env,
        cwd=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check(environment: Path) -> str:
    """That Jupyter lists the kernel, that it runs, and `jupyter flame` too; the folder of the package."""
    listed = json.loads(python(environment, "-m", "jupyter_client.kernelspecapp", "list", "--json"))["kernelspecs"]
    spec = listed["flame"]["spec"]
    resources = Path(listed["flame"]["resource_dir"])
    assert resources == environment / "share" / "jupyter" / "kernels" / "flame"
    assert spec["display_name"] == "Remote Flame"
    assert spec["language"] == "python"
    assert spec["interrupt_mode"] == "message"
    assert spec["metadata"]["supported_encryption"] == ["curve"]
    assert {path.name for path in resources.iterdir()} == {
        "kernel.json",
        "logo-32x32.png",
        "logo-64x64.png",
        "logo-svg.svg",
    }
    script = (environment / "bin" / "jupyter-flame").read_text().splitlines()[1:]  # the command line's, as it is made
    assert "usage: jupyter flame COMMAND" in python(environment, "-c", "\n".join(script), "--help")
    said, file = json.loads(python(environment, "-c", RUN).splitlines()[-1])
    assert said.startswith("ran in ")
    return str(Path(file).parent)


def sdist(folder: Path) -> Path:
    """The source distribution, as what uploads a release makes it."""
    tools = folder / "tools"
    pip("install", "--quiet", "--target", str(tools), "hatchling>=1.27")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tools)},
        check=True,
        capture_output=True,
    )
    (made,) = folder.glob("*.tar.gz")
    return made


def test_the_wheel(environment: Path, tmp_path: Path) -> None:
    """Made from the sdist, so that both are whole."""
    pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(sdist(tmp_path)))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("flame_kernel/**/*.py")}
    files |= {f"flame_kernel/kernels/flame/{path.name}" for path in ROOT.glob("kernelspec/*")}
    assert {name for name in names if name.startswith("flame_kernel/")} == files
    assert {name.split("/")[0] for name in names} == {
        "flame.py",
        "flame_kernel",
        "remote_flame-0.1.0.data",
        "remote_flame-0.1.0.dist-info",
    }
    assert not [name for name in names if "/test" in f"/{name}"]
    pip("--python", str(environment), "install", "--ignore-installed", "--no-deps", "--no-index", str(wheel))
    assert Path(check(environment)).is_relative_to(environment)
    pip("--python", str(environment), "uninstall", "--yes", "remote-flame")
    assert not (environment / "share" / "jupyter" / "kernels" / "flame").exists()


def test_an_editable_install(environment: Path) -> None:
    pip("--python", str(environment), "install", "--no-deps", "--editable", str(ROOT))
    assert check(environment) == str(ROOT / "flame_kernel")
