"""Takes from Python what macOS has not: /proc, epoll, real-time signals, options of sockets and files.

What of the standard library asks which system this is has been imported before.
"""

import asyncio  # noqa: F401
import builtins
import ctypes.util  # noqa: F401
import fcntl
import io
import os
import platform
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request  # noqa: F401
import uuid  # noqa: F401

OS = (
    "sched_getaffinity sched_setaffinity sched_getparam memfd_create pidfd_open eventfd eventfd_read eventfd_write "
    "pipe2 O_PATH O_TMPFILE O_DIRECT O_NOATIME splice copy_file_range posix_fallocate posix_fadvise getrandom unshare "
    "setns getresuid getresgid setresuid setresgid fdatasync listxattr getxattr setxattr removexattr fexecve"
)
SIGNALS = "SIGRTMAX SIGRTMIN SIGPOLL SIGPWR SIGSTKFLT SIGCLD"
CALLS = "sigwaitinfo sigtimedwait pidfd_send_signal"
SOCKET = (
    "TCP_KEEPIDLE TCP_USER_TIMEOUT TCP_QUICKACK TCP_DEFER_ACCEPT TCP_CORK SO_PEERCRED SO_BINDTODEVICE SO_DOMAIN "
    "SO_MARK SOCK_CLOEXEC SOCK_NONBLOCK MSG_NOSIGNAL MSG_CMSG_CLOEXEC AF_NETLINK AF_PACKET AF_ALG AF_VSOCK"
)


def take(module, names):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


def no_proc(function):
    def call(path, *args, **more):
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(("/proc", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **more)

    return call


sysconfig.get_config_vars()
platform.uname()
for name in ("listdir", "readlink", "stat", "lstat", "scandir", "open"):
    setattr(os, name, no_proc(getattr(os, name)))
builtins.open = io.open = no_proc(open)
subprocess._USE_VFORK = tempfile._O_TMPFILE_WORKS = False
take(os, OS)
take(signal, SIGNALS + " " + CALLS)
take(select, "epoll")
take(selectors, "EpollSelector")
selectors.DefaultSelector = selectors.PollSelector
take(socket, SOCKET)
socket.TCP_KEEPALIVE = 4  # TCP_KEEPIDLE of this system
take(resource, "prlimit")
take(fcntl, "F_SETSIG F_GETSIG F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_NOTIFY")
sys.platform = "darwin"
