"""Tensors: torch's as they are, those of other libraries by ``__dlpack__`` or ``__array__``. Both sides import it.

::

    {"tt": [dtype, shape, strides, device, grad, n]}   a torch.Tensor      {"tn": [dtype, shape, strides, n]}   an array

Strides count elements. Buffer n has each element once: axes keep their order in memory, gaps are closed, an axis that
repeats its elements has the stride 0.  Reading makes a torch.Tensor or a numpy array and nothing else, of the dtypes in
``_SIZES``.  A torch.Tensor is put on the device where it was, or on the one that ``on`` names; on the CPU, if the
reader does not have that device.
"""

import contextlib
import functools
import re
import threading

from ..scalars import BadValue, NotPlain, class_name

_SIZES = {
    name + str(8 * size): size
    for name, sizes in {"int": (1, 2, 4, 8), "uint": (1, 2, 4, 8), "float": (2, 4, 8), "complex": (8, 16)}.items()
    for size in sizes
}
_SIZES.update(bool=1, bfloat16=2)
# DLPack's codes for them; the bits of an element come behind, as in "float32".
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
# Where the tensor begins in what a capsule of DLPack 1 holds: behind its version, two pointers and flags.
_VERSIONED = 32
_CPU = (1, 3, 11, 13)  # kDLCPU, and memory of CUDA and ROCm that the CPU can read, too
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,2})?")
# Most axes, and how often an element may be repeated once that is more than FREE in all; as for numpy's.
_MOST_AXES, _MOST_REPEATS, _FREE = 64, 64, 1 << 20
# Attributes of arrays that are more than their elements, such as labels: they are not made into plain arrays.
_MORE = ("coords", "index", "columns", "mask", "unit", "units", "meta_data")

_chosen = threading.local()


@contextlib.contextmanager
def on(device):
    """Within this context, tensors that this thread reads are put on ``device``, such as "cpu" or "cuda:1", and those
    that it writes are put there by the other side. None: where they were. Raises ValueError for another name."""
    if device is not None and not _DEVICE.fullmatch(str(device)):
        raise ValueError('a device is named as torch does, such as "cpu" or "cuda:0", not %.40r' % (device,))
    before, _chosen.device = getattr(_chosen, "device", None), device and str(device)
    try:
        yield
    finally:
        _chosen.device = before


def _wanted():
    return getattr(_chosen, "device", None)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_torch(encoder, value, kind, torch, depth):
    """The node of a torch.Tensor; None for any other value. Raises NotPlain if gradients flow through it."""
    if kind is not torch.Tensor or value.layout is not torch.strided:
        return None
    if value.grad_fn is not None:
        raise NotPlain("a torch.Tensor that gradients flow through stays where it is; take its detach()")
    name = str(value.dtype).partition(".")[2]
    if name not in _SIZES or value.is_quantized:
        return None
    encoder.whole(value.numel() * _SIZES[name])
    shape, strides = list(value.shape), list(value.stride())
    plain = value.detach().resolve_conj().resolve_neg().cpu()
    if _is_too_often(shape, strides) or (strides != _dense(shape, strides) and value.numel()):
        plain = plain.contiguous()
    if name == "bool":
        plain = plain.view(torch.uint8)  # older versions of DLPack have no bool
    _, shape, strides, data = _through_dlpack(plain)
    return {
        "tt": [name, shape, strides, _wanted() or str(value.device), bool(value.requires_grad), encoder.buffer(data)]
    }


def write_any(encoder, value, kind):
    """The node of any array, which is an object with ``__dlpack__`` or ``__array__``; None for any other value."""
    if any(hasattr(kind, name) for name in _MORE) or any(_is_of_library(base) for base in kind.__mro__):
        return None
    if hasattr(kind, "__dlpack__"):
        made = _through_dlpack(value)
    elif hasattr(kind, "__array__") and hasattr(kind, "shape") and hasattr(kind, "dtype"):
        made = _through_array(value)
    else:
        return None
    name, shape, strides, data = made
    return {"tn": [name, shape, strides, encoder.buffer(data)]}


def _is_of_library(kind):
    """Whether a class is numpy's or torch's, whose subclasses are more than their elements."""
    return str(kind.__module__).partition(".")[0] in ("numpy", "torch")


def write_numpy(encoder, value):
    """The node of a numpy array of ml_dtypes' bfloat16, which numpy itself does not know."""
    return {"tn": ["bfloat16", *_of_numpy(value.view("u2"))[1:3], encoder.buffer(_of_numpy(value.view("u2"))[3])]}


def _through_array(value):
    import numpy

    found = numpy.asarray(value)
    if found.dtype.name not in _SIZES:
        raise NotPlain("an array of %s in a %s is not plain data" % (found.dtype, class_name(type(value))))
    return _of_numpy(found)


def _of_numpy(array):
    """``(dtype, shape, strides, bytes)`` of a numpy array, each element once."""
    shape = list(array.shape)
    size = array.itemsize
    strides = [one // size if one % size == 0 else -1 for one in array.strides]
    if _is_too_often(shape, strides) or min(strides, default=0) < 0:
        array = array.copy(order="C")
        strides = [one // size for one in array.strides]
    dense = _dense(shape, strides)
    once = array[tuple(slice(0, 1) if length and not step else slice(None) for length, step in zip(shape, dense))]
    order = sorted(range(len(shape)), key=lambda axis: -dense[axis])
    name = array.dtype.name
    if array.dtype.byteorder == ">":
        once = once.byteswap()
    return name, shape, dense, once.transpose(order).tobytes()


def _through_dlpack(value):
    """The same of an object that has ``__dlpack__``. Its memory is copied while its capsule lives."""
    try:
        import ctypes

        api, kind = ctypes.pythonapi, _struct()
    except (ImportError, AttributeError):  # a Python without it, or PyPy
        import numpy

        return _of_numpy(numpy.from_dlpack(value))
    capsule = _capsule(value)
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    if "_versioned" in repr(capsule):
        found = get(capsule, b"dltensor_versioned") + _VERSIONED
    else:
        found = get(capsule, b"dltensor")
    tensor = ctypes.cast(found, ctypes.POINTER(kind)).contents
    code, bits = _CODES.get(tensor.code), tensor.bits
    name = code if code == "bool" else "%s%d" % (code, bits)
    if name not in _SIZES or tensor.lanes != 1:
        raise NotPlain("an array of a dtype that DLPack numbers %d, of %d bits" % (tensor.code, bits))
    size = _SIZES[name]
    shape = [tensor.shape[axis] for axis in range(tensor.ndim)]
    strides = [tensor.strides[axis] for axis in range(tensor.ndim)] if tensor.strides else _c_order(shape)
    if 0 in shape:
        return name, shape, _c_order(shape), b""
    dense, at = _dense(shape, strides), (tensor.data or 0) + tensor.offset
    if dense == strides and not _is_too_often(shape, strides):
        count = 1 + sum((length - 1) * step for length, step in zip(shape, strides))
        return name, shape, strides, ctypes.string_at(at, count * size)
    return (name,) + _compact(at, size, shape, strides)[1:]


def _compact(at, size, shape, strides):
    """The same of elements that do not lie together in memory."""
    try:
        import ctypes

        import numpy
    except ImportError:
        raise NotPlain(
            "an array whose elements do not lie together needs numpy there; make a copy of it, or run "
            "%flame pip install numpy"
        )
    low = sum((length - 1) * step for length, step in zip(shape, strides) if step < 0)
    count = 1 + sum((length - 1) * abs(step) for length, step in zip(shape, strides))
    memory = (ctypes.c_ubyte * (count * size)).from_address(at + low * size)
    steps = [step * size for step in strides]
    return _of_numpy(numpy.ndarray(tuple(shape), "V%d" % size, memory, -low * size, tuple(steps)))


def _capsule(value):
    """The DLPack capsule of an object, in memory that this process reads."""
    try:
        if value.__dlpack_device__()[0] in _CPU:
            try:
                return value.__dlpack__(max_version=(1, 0))  # may be read-only
            except TypeError:
                return value.__dlpack__()
        return value.__dlpack__(dl_device=(1, 0), copy=True)
    except Exception as e:  # of that library
        raise NotPlain("a %s does not give its elements (%s); copy it to the CPU" % (class_name(type(value)), e))


@functools.lru_cache(maxsize=1)
def _struct():
    """DLPack's DLTensor: https://dmlc.github.io/dlpack/latest/c_api.html"""
    import ctypes

    class Tensor(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p),
            ("device", ctypes.c_int32),
            ("device_id", ctypes.c_int32),
            ("ndim", ctypes.c_int32),
            ("code", ctypes.c_uint8),
            ("bits", ctypes.c_uint8),
            ("lanes", ctypes.c_uint16),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("strides", ctypes.POINTER(ctypes.c_int64)),
            ("offset", ctypes.c_uint64),
        ]

    return Tensor


def _c_order(shape):
    strides, step = [], 1
    for length in reversed(shape):
        strides.insert(0, step)
        step *= max(length, 1)
    return strides


def _dense(shape, strides):
    """The strides of an array with axes in the same order and without gaps; 0 where elements repeat."""
    dense, step = [0] * len(shape), 1
    for axis in sorted(range(len(shape)), key=lambda axis: (abs(strides[axis]), -axis)):
        if strides[axis] and shape[axis] > 1:
            dense[axis], step = step, step * shape[axis]
    # The stride of an axis of one element says nothing; it is kept where nothing else decides.
    return [strides[axis] if shape[axis] <= 1 else dense[axis] for axis in range(len(shape))]


def _is_too_often(shape, strides):
    """Whether elements repeat more often than a reader accepts."""
    whole = stored = 1
    for length, step in zip(shape, strides):
        whole *= length
        stored *= length if step else 1
    return whole > max(_FREE, _MOST_REPEATS * stored)


# -- reading ---------------------------------------------------------------------------------------------------------


def _check(name, shape, strides, size):
    """How many elements are stored; raises BadValue unless shape and strides stay within ``size`` bytes."""
    if type(name) is not str or name not in _SIZES:
        raise BadValue("a tensor of the dtype %.40r" % (name,))
    _check_numbers(shape)
    _check_numbers(strides)
    if len(shape) != len(strides):
        raise BadValue("a tensor of %d axes and %d strides" % (len(shape), len(strides)))
    whole = stored = last = 1
    for length, step in zip(shape, strides):
        whole *= length
        stored *= length if step else 1
        last += (length - 1) * step if length > 1 else 0
    if not whole:
        stored = last = 0
    if max(whole, 1) * _SIZES[name] >= 1 << 62 or last * _SIZES[name] > size or stored * _SIZES[name] != size:
        raise BadValue("a tensor that does not fill its shape")
    if _is_too_often(shape, strides):
        raise BadValue("a tensor that repeats its elements too often")
    return stored


def _check_numbers(numbers):
    if type(numbers) is not list or len(numbers) > _MOST_AXES:
        raise BadValue("a tensor of the shape %.60r" % (numbers,))
    if any(type(one) is not int or not 0 <= one < 1 << 62 for one in numbers):
        raise BadValue("a tensor of the shape %.60r" % (numbers,))


def _read_torch(decoder, content, depth, torch):
    name, shape, strides, device, grad, number = content
    data = decoder.part(number)
    count = _check(name, shape, strides, len(data))
    if type(device) is not str or not _DEVICE.fullmatch(device) or type(grad) is not bool:
        raise BadValue("a tensor on the device %.40r" % (device,))
    kind = getattr(torch, name)
    made = torch.frombuffer(bytearray(data), dtype=kind) if count else torch.empty(0, dtype=kind)
    where = _there(torch, _wanted() or device)
    made = made.to(where) if where != "cpu" else made
    made = made.as_strided(tuple(shape), tuple(strides))
    return made.requires_grad_(True) if grad else made


def _there(torch, device):
    """A device as it is named, if this process has it; else the CPU."""
    kind, _, number = device.partition(":")
    if kind == "cuda" and torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count():
        return device
    if kind in ("mps", "xpu"):
        library = getattr(torch.backends, kind, None) or getattr(torch, kind, None)
        return device if library is not None and library.is_available() else "cpu"
    return "cpu"


def _read_array(decoder, content, depth, numpy):
    name, shape, strides, number = content
    data = decoder.part(number)
    count = _check(name, shape, strides, len(data))
    if name == "bfloat16":
        try:
            from ml_dtypes import bfloat16 as kind
        except ImportError:
            raise BadValue("an array of bfloat16, for which numpy needs the package ml_dtypes", missing=True)
    else:
        kind = name
    dtype = numpy.dtype(kind)
    if not count:
        return numpy.zeros(tuple(shape), dtype)
    steps = [step * dtype.itemsize for step in strides]
    array = numpy.frombuffer(data, dtype)
    return numpy.lib.stride_tricks.as_strided(array if array.flags.writeable else array.copy(), shape, steps)


READERS_OF_TORCH = {"tt": _read_torch}
READERS = {"tn": _read_array}
