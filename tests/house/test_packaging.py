"""What an installation gives to Jupyter, and that the notebook's folder gives nothing to the kernel."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from farside import FlameServer
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from kernels import KERNEL_NAME, remote_flame

import flame_kernel as package

ROOT = Path(__file__).parents[2]


def test_jupyter_lists_the_kernel(kernel_installed: str) -> None:
    spec = KernelSpecManager().get_kernel_spec(kernel_installed)
    assert spec.display_name == "Remote Flame"
    assert spec.language == "python"
    assert spec.interrupt_mode == "message"
    assert spec.metadata["supported_encryption"] == ["curve"]
    assert spec.metadata["debugger"] is True
    assert spec.argv[0] == "python", "jupyter_client puts its own interpreter in the place of this word"
    installed = Path(spec.resource_dir)
    for name in ("kernel.json", "logo-32x32.png", "logo-64x64.png", "logo-svg.svg"):
        assert (installed / name).read_bytes() == (ROOT / "kernelspec" / name).read_bytes()


@pytest.mark.parametrize("size", [32, 64])
def test_logos_have_their_size(size: int) -> None:
    data = (ROOT / "kernelspec" / f"logo-{size}x{size}.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (size, size)


def test_the_agent_ships_as_source() -> None:
    shipped = Path(package.__file__).parents[1]
    names = {str(path.relative_to(ROOT)) for path in (ROOT / "flame_kernel" / "agent").rglob("*.py")}
    assert {str(path.relative_to(shipped)) for path in (shipped / "flame_kernel" / "agent").rglob("*.py")} == names


# In a notebook's folder each of these would be found before the real one, were the folder on the import path.
BAIT = ("flame_kernel", "Pyro4", "serpent", "ipykernel", "zmq", "random", "json", "socket", "tornado")


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[Path]:
    """A notebook's folder full of modules that must not be imported; afterwards none has been."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    caught = tmp_path / "caught"
    for name in BAIT:
        (folder / f"{name}.py").write_text(
            "import os, sys\n"
            f"with open({str(caught)!r}, 'a') as file: file.write('%s by %s\\n' % (__name__, sys.orig_argv))\n"
            "raise ImportError('bait')\n"
        )
    yield folder
    assert not caught.exists(), f"imported from beside the notebook: {caught.read_text()}"


def test_nothing_beside_the_notebook_is_imported(bait: Path) -> None:
    """By the kernel, by its own server, and by the child that is to run the cells."""
    (bait / "sitecustomize.py").write_text((bait / "random.py").read_text())
    with remote_flame(cwd=bait) as kernel:
        run = kernel.execute("6 * 7")
        assert run.result == "42", run


@pytest.mark.parametrize("pythonpath", ["", ":", "{folder}"], ids=["empty", "colon", "folder"])
def test_pythonpath_does_not_bring_the_folder_to_the_kernel(
    bait: Path, pythonpath: str, flame_server: Callable[..., FlameServer]
) -> None:
    """An empty entry of PYTHONPATH means the current folder, as few know; what it means elsewhere is not our doing."""
    environ = {"PYTHONPATH": pythonpath.format(folder=bait), "FLAME_TARGET": flame_server().location}
    with remote_flame(cwd=bait, env=environ) as kernel:
        run = kernel.execute("6 * 7")
        assert run.result == "42", run


def test_kernel_json_is_what_jupyter_expects() -> None:
    spec = json.loads((ROOT / "kernelspec" / "kernel.json").read_text("utf-8"))
    assert "{connection_file}" in spec["argv"]
    assert KERNEL_NAME == "flame"


# How kernelspecs of earlier versions start the kernel. They stay as they were installed when the package is updated.
EARLIER = {
    "module": ["-m", "flame_kernel"],
    "function": ["-c", "from flame_kernel.__main__ import main; main()"],
}


@pytest.mark.parametrize("words", EARLIER.values(), ids=list(EARLIER))
def test_a_kernelspec_of_an_earlier_version_starts(words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    folder.mkdir()
    spec = {"argv": [sys.executable, *words, "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    manager = KernelManager(kernel_name="earlier", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(tmp_path)]))
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive("1 + 1", timeout=60, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        manager.context.destroy()
