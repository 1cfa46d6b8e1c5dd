"""A machine with two GPUs: the driver's library, as far as it is called, made of C functions that ctypes makes of
Python. The first GPU is used by the process that asks, and by pid 1; the second tells nothing of processes."""

import ctypes
import os
from ctypes import POINTER, c_char, c_int, c_uint, c_ulonglong, c_void_p

GIB = 1 << 30
real = ctypes.CDLL


def function(*kinds):
    def made(body):
        return ctypes.CFUNCTYPE(c_int, *kinds)(body)

    return made


class Library:
    inits = 0

    @function()
    def nvmlInit_v2():
        Library.inits += 1
        return 0

    @function()
    def nvmlShutdown():
        Library.inits -= 1
        return 0

    @function(POINTER(c_uint))
    def nvmlDeviceGetCount_v2(count):
        count[0] = 2
        return 0 if Library.inits else 1

    @function(c_uint, POINTER(c_void_p))
    def nvmlDeviceGetHandleByIndex_v2(number, device):
        device[0] = number + 1
        return 0

    @function(c_void_p, POINTER(c_char), c_uint)
    def nvmlDeviceGetName(device, name, size):
        ctypes.memmove(name, b"NVIDIA Fake %d" % device, 15)
        return 0

    @function(c_void_p, c_void_p)
    def nvmlDeviceGetMemoryInfo(device, found):
        memory = ctypes.cast(found, POINTER(c_ulonglong))
        memory[0], memory[1], memory[2] = 80 * GIB, 50 * GIB, 30 * GIB
        return 0

    @function(c_void_p, c_void_p)
    def nvmlDeviceGetUtilizationRates(device, found):
        ctypes.cast(found, POINTER(c_uint))[0] = 37
        return 0 if device == 1 else 3

    @function(c_void_p, POINTER(c_uint), c_void_p)
    def nvmlDeviceGetComputeRunningProcesses_v3(device, count, found):
        count[0] = 0
        if device == 1:
            for n, (pid, used) in enumerate([(os.getpid(), 3 * GIB), (1, 20 * GIB)]):
                ctypes.cast(found + 24 * n, POINTER(c_uint))[0] = pid
                ctypes.cast(found + 24 * n + 8, POINTER(c_ulonglong))[0] = used
            count[0] = 2
        return 0

    @function(c_void_p, c_void_p, POINTER(c_uint), c_ulonglong)
    def nvmlDeviceGetProcessUtilization(device, found, count, since):
        for n, (pid, at, share) in enumerate([(os.getpid(), 5, 90), (os.getpid(), 9, 21), (1, 9, 16)]):
            ctypes.cast(found + 32 * n, POINTER(c_uint))[0] = pid
            ctypes.cast(found + 32 * n + 8, POINTER(c_ulonglong))[0] = at
            ctypes.cast(found + 32 * n + 16, POINTER(c_uint))[0] = share
        count[0] = 3
        return 0


def opened(name, *more, **named):
    return Library if name == "libnvidia-ml.so.1" else real(name, *more, **named)


ctypes.CDLL = opened
