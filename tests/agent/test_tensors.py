"""Tensors cross as buffers: torch's (a fake one's) as they are, what else speaks DLPack or is an array as numpy's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from farside import HERE, FlameServer

import flame
from flame_kernel.agent.wire import values
from flame_kernel.agent.wire.scalars import BadValue, NotPlain
from flame_kernel.agent.wire.tables import tensors
from flame_kernel.errors import CannotTravel

FAKE = HERE / "apps" / "fake_torch"


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(FAKE)
    assert "torch" not in sys.modules
    import torch

    yield torch
    del sys.modules["torch"]


class Speaks:
    """An array of nobody's library, which speaks DLPack."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def __dlpack__(self, **named: Any) -> Any:
        return self._data.__dlpack__(**named)


class Older(Speaks):
    """One that knows the first DLPack only."""

    def __dlpack__(self) -> Any:
        return self._data.__dlpack__()


class Odd:
    """One that only numpy can ask."""

    shape, dtype = (2,), np.dtype("i4")

    def __array__(self, *args: Any, **named: Any) -> Any:
        return np.array([1, 2], "i4")


class Elsewhere(Older):
    def __dlpack_device__(self) -> Any:
        return (2, 0)


class Named(Odd):
    """One that is more than its elements."""

    coords = ("a", "b")


def through(value: Any, **how: Any) -> Any:
    return values.decode([bytes(part) for part in values.encode(value, **how)])


def test_torch(torch: Any) -> None:
    plain = torch.arange(12, torch.bfloat16).as_strided((3, 4), (4, 1))
    shapes = {
        "plain": plain,
        "transposed": plain.as_strided((4, 3), (1, 4)),
        "repeated": plain.as_strided((5, 4), (0, 1)),
        "with gaps": plain.as_strided((2, 2), (8, 2)),
        "no axis": plain.as_strided((), ()),
        "empty": torch.empty(0, torch.float32).as_strided((0, 3), (3, 1)),
        "one": plain.as_strided((1, 4), (7, 1)),
    }
    for name, tensor in shapes.items():
        made = through(tensor)
        assert type(made) is torch.Tensor, name
        assert (made.shape, made.dtype) == (tensor.shape, tensor.dtype), name
        assert made.stride() == ((2, 1) if name == "with gaps" else tensor.stride()), name
        assert made.data.tolist() == tensor.data.tolist(), name
    truth = torch.Tensor(np.array([True, False]), torch.bool)
    assert through(truth).data.tolist() == [True, False]
    both = through([plain, plain])
    assert both[0] is both[1]
    # Where it was, if there is such a device; or where it is wanted.
    there = plain.to("cuda:1").requires_grad_(True)
    made = through(there)
    assert (made.device, made.requires_grad) == ("cuda:1", True)
    assert through(plain.to("cuda:7")).device == "cpu"
    with tensors.on("cuda:0"):
        assert through(plain).device == "cuda:0"
    with tensors.on("cpu"):
        assert through(there).device == "cpu"
    with pytest.raises(ValueError, match="named as torch does"), tensors.on("disk"):
        pass
    # A gradient leads to it, or the reader has no torch.
    with pytest.raises(NotPlain):
        through(torch.Tensor(np.zeros(2), torch.float32, grad_fn=print))
    with pytest.raises(NotPlain, match="needs torch on both sides"):
        values.encode(plain, libraries=["numpy"], array_limit=1000)
    elements = through(plain, libraries=["numpy"])
    assert elements.dtype == ml_dtypes.bfloat16
    with pytest.raises(values.TooLarge):
        values.encode(plain, array_limit=10)


def test_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(24, dtype=">i2").reshape(2, 3, 4).astype("i2")
    arrays = [whole, whole.T, whole[:, ::2], whole[::-1], whole[..., 1], np.broadcast_to(whole, (2, 2, 3, 4))]
    arrays += [np.zeros((0, 2)), np.array(3.5), np.array([1 + 2j])]
    for array in arrays:
        made = through(Speaks(array))
        assert type(made) is np.ndarray
        assert made.dtype == array.dtype
        assert made.tolist() == array.tolist()
    assert through(Older(whole[:, ::2])).tolist() == whole[:, ::2].tolist()
    assert through(Speaks(whole.T)).strides == whole.T.strides
    assert through(Odd()).tolist() == [1, 2]
    brain = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T
    assert (through(brain).dtype, through(brain).strides) == (brain.dtype, brain.strides)
    assert through([brain])[0].tolist() == brain.tolist()
    for other in (Named(), Elsewhere(whole), Speaks(3), Speaks(np.array(["a"]))):
        with pytest.raises(NotPlain):
            values.encode(other)
    with pytest.raises(NotPlain):  # it may stay where it is
        values.encode(Odd(), array_limit=1000)
    # Without ctypes' way to a capsule, as on PyPy, numpy takes it.
    monkeypatch.delattr("ctypes.pythonapi")
    assert through(Speaks(whole.T)).tolist() == whole.T.tolist()


@pytest.mark.parametrize(
    "content",
    [
        ["float32", [2], [1], 1],
        ["float32", [4, 1 << 40], [1, 0], 1],
        ["float32", [4], [2], 1],
        ["float32", [2, 2], [4, 1], 1],
        ["float32", [-4], [1], 1],
        ["float32", [4], [-1], 1],
        ["float32", [4], [1, 1], 1],
        ["float32", [1 << 63, 0], [1, 1], 1],
        ["object", [2], [1], 1],
        ["system", [4], [1], 1],
    ],
)
@pytest.mark.usefixtures("torch")
def test_what_a_liar_sends(content: Any) -> None:
    import json

    for tag, rest in (("tn", content), ("tt", [*content[:3], "cpu", False, content[3]])):
        with pytest.raises(BadValue):
            values.decode([json.dumps({tag: rest}).encode(), bytes(16)])
    with pytest.raises(BadValue):
        values.decode([json.dumps({"tt": ["float32", [4], [1], "cpu; x", False, 1]}).encode(), bytes(16)])


def test_over_the_link(flame_server: Callable[..., FlameServer], torch: Any) -> None:
    server = flame_server(env={"PYTHONPATH": str(FAKE)})
    with flame.connect(server.location) as remote:
        sent = torch.arange(6, torch.bfloat16).as_strided((2, 3), (1, 2)).to("cuda:1")
        remote["x"] = sent
        assert remote.evaluate("(x.device, x.stride(), str(x.dtype), type(x).__module__)") == (
            *("cuda:1", (1, 2), "torch.bfloat16", "torch"),
        )
        back = remote["x"]
        assert (type(back), back.device, back.stride()) == (torch.Tensor, "cuda:1", (1, 2))
        assert back.data.tolist() == sent.data.tolist()
        kept = remote.evaluate("x", ref=True)
        assert kept.fetch(device="cpu").device == "cpu"
        remote.push({"y": sent}, device="cuda:0")
        assert remote.evaluate("y.device") == "cuda:0"
        assert remote.pull(["x", "y"], device="cpu")["y"].device == "cpu"
        remote.execute(
            "class Odd:\n    shape, dtype = (2,), 'i4'\n    def __array__(self, *a, **k):\n"
            "        import numpy\n        return numpy.array([1, 2], 'i4')\nodd = Odd()"
        )
        assert remote["odd"].fetch().tolist() == [1, 2]
        with pytest.raises(CannotTravel, match="cannot send this"):
            remote["z"] = torch.Tensor(np.zeros(2), torch.float32, grad_fn=print)


def test_fake_is_near(torch: Any) -> None:
    """The fake speaks DLPack as numpy reads it."""
    assert np.from_dlpack(torch.arange(3)).tolist() == [0, 1, 2]
    assert Path(torch.__file__).parent == FAKE
