"""The client's end of a tunnel before a far side that lies: what it may do here, and how it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from farside import wait_until
from ports import serving

from flame_kernel.agent.forward import channels
from flame_kernel.agent.forward.channels import FAR, WINDOW, Channels
from flame_kernel.errors import FlameError, UnsafeAnswer
from flame_kernel.forward import tunnel as tunnels
from flame_kernel.forward.forwards import Forwards

_HEAD = struct.Struct(">BII")


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(kind, number, len(payload)) + payload


class Liar:
    """The far end of a tunnel, which says what the test wants; ``honest`` keeps to the protocol until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.honest = Channels(FAR)
        self.honest.connect(None, None, 0)
        self.dials = 0
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(20)

        def dial(tunnel: Any) -> Any:
            self.dials += 1
            if self.dials > 1:
                raise FlameError("there is no way back")
            connection = SimpleNamespace(close=ours.close, location="evil.example:1")
            return connection, ours, None, None, 0

        monkeypatch.setattr(tunnels.Tunnel, "_dial", dial)
        session: Any = SimpleNamespace(
            target=SimpleNamespace(name="evil", forward=True),
            location="evil.example:1",
            server={"servertype": "thread"},
            gone=None,
            before_end=[],
        )
        self.said: list[str] = []
        self.forwards = Forwards(session, lambda one, sentence: self.said.append(sentence))

    def heard(self) -> list[tuple[int, int, Any]]:
        """The next frames from the client."""
        found: list[tuple[int, int, Any]] = []
        while not found:
            count = self.sock.recv_into(self.honest.room())
            assert count, "the client has closed it"
            found = [
                (kind, number, bytes(p) if kind == channels.DATA else p)
                for kind, number, p in self.honest.filled(count)
            ]
        return found

    def say(self, *data: bytes) -> None:
        with contextlib.suppress(OSError):  # it may have closed the connection already
            self.sock.sendall(b"".join(data) or b"".join(map(bytes, self.honest.frames())))


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    made = Liar(monkeypatch)
    yield made
    made.forwards.close()
    made.sock.close()


LIES = {
    "a stream that nobody opened": frame(channels.DATA, 40, b"x"),
    "too much credit": frame(channels.CREDIT, 2, struct.pack(">I", WINDOW)),
    "a frame of 4 GiB": _HEAD.pack(channels.DATA, 2, 0xFFFFFFFF),
    "what was never sent": frame(channels.ACK, 0, struct.pack(">Q", 1 << 50)),
    "no frame at all": os.urandom(9).replace(b"\x03", b"\x63"),
    "a listener here": frame(channels.LISTEN, 5, b'{"host": "0.0.0.0", "port": 7}'),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_forwards_in_words_and_nothing_else(liar: Liar, lie: str) -> None:
    one = liar.forwards.open(80, local=0)
    with socket.create_connection(("127.0.0.1", one.local_port or 0), 20) as sock:
        assert liar.heard()[0][0] == channels.OPEN
        liar.say(LIES[lie])
        wait_until(lambda: one.closed, "the forward has ended")
        assert _is_over(sock)
    assert "evil.example" in liar.said[-1]
    assert liar.dials == 1, "it was not asked again"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.local_port or 0), 5)


def _is_over(sock: socket.socket) -> bool:
    try:
        return sock.recv(10) == b""
    except ConnectionResetError:
        return True


def test_connections_of_a_far_side_lead_nowhere_but_to_what_was_forwarded(liar: Liar) -> None:
    """It names a listener, never a host or a port: whatever else it writes is not looked at."""
    reached: list[int] = []
    with serving() as port:
        done = threading.Event()

        def forward() -> None:
            with pytest.raises(FlameError):
                liar.forwards.open(5000, reverse=True, local=port)
            done.set()

        thread = threading.Thread(target=forward)
        thread.start()
        (asked,) = liar.heard()
        assert asked[0] == channels.LISTEN
        for what in ({"host": "127.0.0.1", "port": port}, {"path": "/run/docker.sock"}, {"listener": 99}, {}):
            reached.append(liar.honest.open(what))
        liar.say()
        answers: list[tuple[int, int, Any]] = []
        while len(answers) < len(reached):
            answers += liar.heard()
        assert {kind for kind, _, _ in answers} == {channels.RESET}
        liar.honest.listening(asked[1], {"error": "no"})
        liar.say()
        assert done.wait(20)
        thread.join()


def test_streams_without_end_are_refused(liar: Liar) -> None:
    one = liar.forwards.open(80, local=0)
    with serving() as port:
        liar.forwards._tunnel._leads[2] = ("localhost", port)  # type: ignore[union-attr]

        def flood() -> None:
            with contextlib.suppress(OSError):
                for n in range(200_000):
                    liar.sock.sendall(frame(channels.OPEN, 3 + 2 * n, b'{"listener": 99}'))

        before = len(os.listdir("/proc/self/fd"))
        thread = threading.Thread(target=flood)
        thread.start()
        wait_until(lambda: one.closed, "it gives the far side up", 40)
        liar.sock.shutdown(socket.SHUT_RDWR)
        thread.join()
        assert len(os.listdir("/proc/self/fd")) <= before + 5
    assert "acknowledge" in liar.said[-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [({"port": "x"}, "without a port"), ({"error": "\x1b[31mno\n" * 200}, "cannot be used")],
    ids=["no port", "terminal codes"],
)
def test_an_answer_for_a_listener_that_is_none(liar: Liar, answer: Any, words: str) -> None:
    found: list[BaseException] = []

    def forward() -> None:
        try:
            liar.forwards.open(5000, reverse=True)
        except FlameError as e:
            found.append(e)

    thread = threading.Thread(target=forward)
    thread.start()
    asked = next(one for one in liar.heard() if one[0] == channels.LISTEN)
    liar.honest.listening(asked[1], answer)
    liar.say()
    thread.join(20)
    (error,) = found
    assert words in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 600
    assert isinstance(error, UnsafeAnswer) == (words == "without a port")
