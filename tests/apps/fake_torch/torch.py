"""What of torch a tensor needs to travel, over numpy: dtypes with bfloat16, strides, two CUDA devices that are none."""

import ctypes
import types

import numpy

strided = object()
cuda = types.SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
backends = types.SimpleNamespace()


class dtype:
    def __init__(self, name, kind):
        self.name, self.kind = name, kind

    def __repr__(self):
        return "torch." + self.name


uint8, float32, int64 = (dtype(name, name) for name in ("uint8", "float32", "int64"))
bool, bfloat16 = dtype("bool", "bool"), dtype("bfloat16", "uint16")


class Tensor:
    is_quantized = False
    layout = strided

    def __init__(self, data, kind, device="cpu", requires_grad=False, grad_fn=None):
        self.data, self.dtype, self.device = data, kind, device
        self.requires_grad, self.grad_fn = requires_grad, grad_fn

    @property
    def shape(self):
        return self.data.shape

    def _made(self, data=None, **changed):
        about = {"kind": self.dtype, "device": self.device, **changed}
        return Tensor(self.data if data is None else data, **about)

    def stride(self):
        return tuple(one // self.data.itemsize for one in self.data.strides)

    def numel(self):
        return self.data.size

    def detach(self):
        return self._made()

    resolve_conj = resolve_neg = detach

    def cpu(self):
        return self._made(device="cpu")

    def to(self, device):
        return self._made(device=device)

    def contiguous(self):
        return self._made(numpy.ascontiguousarray(self.data).reshape(self.shape))

    def view(self, kind):
        return self._made(self.data.view(kind.kind), kind=kind)

    def as_strided(self, shape, strides):
        steps = [one * self.data.itemsize for one in strides]
        return self._made(numpy.lib.stride_tricks.as_strided(self.data, shape, steps))

    def requires_grad_(self, wanted):
        self.requires_grad = wanted
        return self

    def __dlpack_device__(self):
        return (1, 0) if self.device == "cpu" else (2, 0)

    def __dlpack__(self):
        assert self.device == "cpu"
        assert not self.requires_grad
        capsule = self.data.__dlpack__()
        if self.dtype is bfloat16:
            get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
                ("PyCapsule_GetPointer", ctypes.pythonapi)
            )
            ctypes.c_uint8.from_address(get(capsule, b"dltensor") + 20).value = 4  # kDLBfloat
        return capsule


def frombuffer(data, dtype):
    return Tensor(numpy.frombuffer(data, dtype.kind), dtype)


def empty(count, dtype):
    return Tensor(numpy.empty(count, dtype.kind), dtype)


def arange(count, dtype=int64):
    return Tensor(numpy.arange(count).astype(dtype.kind), dtype)
