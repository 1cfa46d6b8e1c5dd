"""Stands for ``ssh.exe``, which wine has not: forwards a port to one of this machine, and says so as ssh does."""

import socket
import sys
import threading


def copy(source: socket.socket, sink: socket.socket) -> None:
    data = source.recv(65536)
    while data:
        sink.sendall(data)
        data = source.recv(65536)
    sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    assert {"-NTax", "BatchMode=yes", "ExitOnForwardFailure=yes", "far"} <= set(sys.argv), sys.argv
    _, port, host, there = sys.argv[sys.argv.index("-L") + 1].split(":")
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        print(f"debug1: Local forwarding listening on 127.0.0.1 port {port}.", file=sys.stderr, flush=True)
        while True:
            ours, _ = listener.accept()
            theirs = socket.create_connection((host, int(there)))
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=copy, args=pair, daemon=True).start()
