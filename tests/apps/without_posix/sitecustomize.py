"""Takes from a far side what Windows has not: modules, functions, signals, unix sockets.

What the standard library and Pyro4 need of it on this system they have imported before.
"""

import asyncio  # noqa: F401
import os
import select
import selectors
import signal
import socket
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401

import Pyro4.utils.flameserver  # noqa: F401

MODULES = "fcntl grp pty pwd resource syslog termios tty posix"
OS = (
    "fchmod fchown fork forkpty getegid geteuid getgid getloadavg getpgid getpgrp getppid getuid initgroups killpg "
    "mkfifo nice openpty pathconf setpgid setsid sched_getaffinity ttyname uname wait wait3 wait4 WNOHANG "
    "O_CLOEXEC O_NONBLOCK O_NOFOLLOW O_DIRECTORY O_NOCTTY"
)
SIGNALS = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGRTMAX SIGRTMIN SIGUSR1 SIGUSR2 SIGWINCH ITIMER_REAL"
CALLS = "alarm getitimer pthread_kill pthread_sigmask setitimer sigwait siginterrupt"


def take(module, names):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)


pair, unix = socket.socketpair, socket.AF_UNIX
socket.socketpair = lambda *given: pair(unix)  # on Windows it is made of two TCP sockets
for module in MODULES.split():
    sys.modules[module] = None
take(os, OS)
take(signal, SIGNALS + " " + CALLS)
take(select, "poll epoll kqueue devpoll")
take(selectors, "PollSelector EpollSelector KqueueSelector DevpollSelector")
selectors.DefaultSelector = selectors.SelectSelector
take(socket, "AF_UNIX SCM_RIGHTS CMSG_LEN recv_fds send_fds AF_NETLINK")
for name in ("sendmsg", "recvmsg", "sendfile"):
    setattr(socket.socket, name, property(lambda self: self.not_on_windows))  # raises AttributeError
os.supports_fd = set()
os.supports_dir_fd = set()
