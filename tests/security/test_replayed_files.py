"""Calls about files that somebody in between has seen, and sends again: none of them acts a second time."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evil
import pytest
from farside import FlameServer, LiveApp
from hostile_files import everything
from transfers import KEY, MiB, far_side

import flame
from flame_kernel.agent.wire import frames
from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.errors import ConnectionLost, FlameError, SessionGone, UnsafeAnswer
from flame_kernel.files import sync, transfer
from flame_kernel.files.far_files import FarFiles
from flame_kernel.remote.remote import Remote
from flame_kernel.session.bootstrap import agent_name
from flame_kernel.session.session import Session


class Recorder(evil.Server):
    """Somebody in between who passes all on, and keeps what the client says on each connection."""

    def __init__(self, location: str) -> None:
        self._host, _, self._port = location.rpartition(":")
        self.said: list[bytearray] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        said = bytearray()
        self.said.append(said)
        with socket.create_connection((self._host, int(self._port))) as server, selectors.DefaultSelector() as ready:
            ready.register(connection, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, connection)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is connection:
                        said += data
                    key.data.sendall(data)

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Of each connection what shakes hands, with each of Pyro's messages that came after it."""
        for said in self.said:
            found = []
            at = 0
            while said[at : at + 4] == b"PYRO":
                _, _, _, _, _, size, _, chunks, _, _ = evil.HEADER.unpack_from(said, at)
                found.append(bytes(said[at : at + evil.HEADER.size + size + chunks]))
                at += len(found[-1])
            yield from ((found[0], one) for one in found[1:])


def send_again(server: FlameServer | LiveApp, *messages: bytes) -> bytes:
    """Say it all on a connection of its own: what the server answers until it has nothing to say any more."""
    host, _, port = server.location.rpartition(":")
    answer = bytearray()
    with socket.create_connection((host, int(port)), timeout=20) as connection, contextlib.suppress(OSError):
        for message in messages:
            connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(1 << 16):
            answer += data
    return bytes(answer)


def send_all_again(server: FlameServer | LiveApp, recorder: Recorder) -> None:
    """Each connection as it was, and each message by itself."""
    for said in list(recorder.said):
        send_again(server, bytes(said))
    messages = list(recorder.messages())
    assert len(messages) > 5
    for greeting, message in messages:
        assert send_again(server, greeting, message), "it is heard"


def end_sessions(server: FlameServer | LiveApp) -> None:
    """An ``open`` that is sent again may make an empty session: those that are there end."""
    target = Target(Location.parse(server.location), key=Secret(KEY.encode()))
    with contextlib.closing(Connection(target)) as connection:

        def handle(**request: Any) -> Any:
            answer = connection.invoke(f"{agent_name()}.{wire.HANDLE}", bytes(wire.encode(request)))
            return wire.decode(answer)[0]["result"]

        for one in handle(op="sessions"):
            assert handle(op="close", session=one["session"])["closed"]


@pytest.fixture(scope="module", params=["multiplex", "key"])
def server(request: pytest.FixtureRequest) -> Iterator[FlameServer | LiveApp]:
    with far_side(request.param) as one:
        yield one


@pytest.fixture
def there(server: FlameServer | LiveApp, request: pytest.FixtureRequest) -> Path:
    folder = server.cwd / f"{request.node.name.partition('[')[0]}"
    folder.mkdir()
    return folder


@contextlib.contextmanager
def recorded(server: FlameServer | LiveApp, **options: Any) -> Iterator[tuple[Recorder, Remote]]:
    with (
        contextlib.closing(Recorder(server.location)) as recorder,
        flame.connect(recorder.location, key=KEY, **options) as pi,
    ):
        yield recorder, pi


def act(pi: Remote, here: Path, there: Path) -> None:
    """Every kind of act: files small and large, folders, links, modes, deletion."""
    (here / "tree" / "sub").mkdir(parents=True)
    (here / "tree" / "small").write_text("old")
    (here / "tree" / "large").write_bytes(b"old" * MiB)
    (here / "tree" / "sub" / "link").symlink_to("../small")
    pi.put(here / "tree", there)
    pi.sendfile(there / "sent", b"old" * 100)
    (there / "tree" / "doomed").mkdir()
    (there / "tree" / "doomed" / "x").write_text("x")
    sync.sync_up(pi.session, f"{here}/tree/", f"{there}/tree", sync.SyncOptions(delete=True))
    pi.get(there / "tree" / "small", here / "back")
    assert pi.getfile(there / "sent") == b"old" * 100
    assert sorted(one.name for one in (there / "tree").iterdir()) == ["large", "small", "sub"]


def change(there: Path) -> None:
    """The owner changes all of it since."""
    (there / "tree" / "small").write_text("new")
    (there / "tree" / "large").unlink()
    (there / "tree" / "sub" / "link").unlink()
    (there / "tree" / "sub").rmdir()
    (there / "tree" / "doomed").mkdir()
    (there / "tree" / "doomed" / "x").write_text("is wanted again")
    (there / "sent").write_text("new")


def test_after_the_session(server: FlameServer, there: Path, tmp_path: Path) -> None:
    with recorded(server) as (recorder, pi):
        act(pi, tmp_path, there)
    change(there)
    before = everything(there)
    send_all_again(server, recorder)
    assert everything(there) == before
    end_sessions(server)


def test_while_the_session_goes_on(server: FlameServer, there: Path, tmp_path: Path) -> None:
    with recorded(server) as (recorder, pi):
        act(pi, tmp_path, there)
        change(there)
        before = everything(there)
        send_all_again(server, recorder)
        assert everything(there) == before
        pi.sendfile(there / "more", b"goes on")
        assert pi.getfile(there / "more") == b"goes on"


def test_to_a_later_session_of_the_same_name(server: FlameServer, there: Path, tmp_path: Path) -> None:
    with recorded(server, session="same") as (recorder, pi):
        act(pi, tmp_path, there)
    change(there)
    with flame.connect(server.location, key=KEY, session="same") as pi:
        before = everything(there)
        send_all_again(server, recorder)
        assert everything(there) == before
        assert pi.evaluate("1 + 1") == 2


def test_to_another_owner_of_the_session(server: FlameServer, there: Path, tmp_path: Path) -> None:
    with recorded(server, session="taken") as (recorder, pi):
        act(pi, tmp_path, there)
        pi.detach()
    change(there)
    with flame.connect(server.location, key=KEY, session="taken"):
        before = everything(there)
        send_all_again(server, recorder)
        assert everything(there) == before


def test_in_the_middle_of_a_transfer(server: FlameServer, there: Path, tmp_path: Path) -> None:
    """What was said so far is said again at once, from another connection; the transfer goes on to its end."""
    content = bytes(range(256)) * 4096 * 12
    (tmp_path / "large").write_bytes(content)
    with recorded(server) as (recorder, pi):
        pi.sendfile(there / "first", b"first")
        over = threading.Event()

        def again() -> None:
            while not over.is_set():
                for greeting, message in list(recorder.messages())[-3:]:
                    send_again(server, greeting, message)

        thread = threading.Thread(target=again)
        thread.start()
        try:
            result = pi.put(tmp_path / "large", there / "large")
        finally:
            over.set()
            thread.join()
    assert (there / "large").read_bytes() == content
    assert result.files == 1


# -- the numbers themselves --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def multiplex() -> Iterator[tuple[FlameServer | LiveApp, Remote]]:
    with far_side("multiplex") as server, flame.connect(server.location, key=KEY) as pi:
        yield server, pi


def _call(pi: Remote, talk: Any, number: Any, asked: bytes, **more: Any) -> tuple[str, bytes]:
    """One call about files, its frames made for it: the code of its error, and the frames of its answers."""
    message = pi.session.wire_message({"talk": talk, "number": number})
    if more:
        message = bytes(wire.encode(dict(wire.decode(message)[0], **more), [asked]))
    else:
        message = pi.session.wire_message({"talk": talk, "number": number}, [asked])
    with contextlib.closing(Connection(pi.session.target)) as connection:
        answer, buffers = wire.decode(connection.invoke(f"{agent_name()}.{wire.CALL_FILES}", message))
    return str((answer.get("error") or {}).get("code", "")), b"".join(map(bytes, buffers))


def _asked(talk: str, number: int, path: Path) -> bytes:
    box = frames.Box()
    frames.Frames(box.send, box.receive, frames.call_key(talk, number), b"client").send_control(
        {"op": "folder", "path": str(path)}
    )
    return bytes(box.sent)


def test_each_number_is_good_once_and_in_its_turn(multiplex: tuple[FlameServer, Remote]) -> None:
    server, pi = multiplex
    talk = pi.session.ask("files").result(20)["talk"]
    other = pi.session.ask("files").result(20)["talk"]
    assert talk != other
    made = server.cwd / "made"
    for number in (2, 0, -1, 10**9, None, "1", 1.5):
        assert _call(pi, talk, number, _asked(talk, 1, made))[0] == "stale", number
    assert not made.exists()
    assert _call(pi, talk, 1, _asked(talk, 1, made))[0] == ""
    made.rmdir()
    for number in (1, 0, 3):
        assert _call(pi, talk, number, _asked(talk, 1, made))[0] == "stale", number
    for stranger in ("", "x", talk.upper(), None, other + other):
        assert _call(pi, stranger, 1, _asked(talk, 1, made))[0] == "stale"
    # Frames of one call are good in no other, nor in another conversation.
    for name, number in ((talk, 2), (other, 1)):
        assert _call(pi, name, number, _asked(talk, 1, made))[0] == "failed"
    assert not made.exists()
    assert _call(pi, talk, 3, _asked(talk, 3, made))[0] == ""
    made.rmdir()


def test_calls_name_the_owner_of_now(multiplex: tuple[FlameServer, Remote]) -> None:
    server, pi = multiplex
    talk = pi.session.ask("files").result(20)["talk"]
    epoch = wire.decode(pi.session.wire_message({}))[0]["epoch"]
    made = server.cwd / "made"
    for wrong in (epoch - 1, epoch + 1, 0, None, str(epoch)):
        assert _call(pi, talk, 1, _asked(talk, 1, made), epoch=wrong)[0] == "taken_over", wrong
    assert _call(pi, talk, 1, _asked(talk, 1, made), session="none")[0] == "no_session"
    message = bytes(wire.encode({"session": pi.session.session_id, "talk": talk, "number": 1}, [b""]))
    with contextlib.closing(Connection(pi.session.target)) as connection:
        answer = wire.decode(connection.invoke(f"{agent_name()}.{wire.CALL_FILES}", message))[0]
    assert answer["error"]["code"] == "bad_request"
    assert not made.exists()


def test_a_conversation_is_not_begun_by_a_message_that_is_sent_again(multiplex: tuple[FlameServer, Remote]) -> None:
    """Else old messages could push living conversations out of the server's memory."""
    server, _ = multiplex
    with recorded(server) as (recorder, other):
        other.session.ask("files").result(20)
        messages = [pair for pair in recorder.messages() if b'"files"' in pair[1]]
        assert messages
        for greeting, message in messages * 3:
            answer = send_again(server, greeting, message)
            assert b"stale" in answer
            assert b'"talk"' not in answer


def test_a_conversation_that_was_forgotten_begins_anew(multiplex: tuple[FlameServer, Remote], tmp_path: Path) -> None:
    """Where a server remembers no more of them, a transfer goes on in a new one."""
    server, pi = multiplex
    source = tmp_path / "source"
    source.write_bytes(b"x" * 9 * MiB)
    real, count = FarFiles._call, []

    def push_out(far: FarFiles) -> None:
        count.append(far._talk)
        if len(count) == 3:
            for asked in [pi.session.ask("files") for _ in range(70)]:
                asked.result(20)
        real(far)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FarFiles, "_call", push_out)
        pi.put(source, server.cwd / "pushed")
    assert len(set(count)) == 2
    assert (server.cwd / "pushed").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["multiplex", "key"])
def test_one_who_lost_the_session_moves_no_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with far_side(name) as server:
        with flame.connect(server.location, key=KEY, session="s") as pi:
            pi.put(tmp_path / "x", server.cwd / "first")
            other = Session(pi.session.target, lambda events: None, attach="force")
            try:
                with pytest.raises(SessionGone):
                    pi.put(tmp_path / "x", server.cwd / "second")
                assert not (server.cwd / "second").exists()
                transfer.put(other, [tmp_path / "x"], server.cwd / "third")
            finally:
                other.close()
        assert (server.cwd / "third").read_text() == "x"
        with pytest.raises(FlameError):
            pi.put(tmp_path / "x", server.cwd / "fourth")


@pytest.mark.parametrize("name", ["md5", "", 5, None, ["sha256"]])
def test_a_hash_that_is_none(name: Any) -> None:
    """An owner who names a hash that there is not is refused, or cut; its session goes on, also by the same means."""
    with far_side("key") as one, Remote(Target(Location.parse(one.location), key=Secret(KEY.encode()))) as pi:
        pi.execute("kept = 1")
        session = pi.session
        requests = {
            wire.TAKE_FILES: {},
            wire.FORWARD: {"received": 0, "tunnel": "t"},
            wire.CARRY: {"way": "put", "ticket": "t", "sizes": [9], "at": 0, "size": 9},
        }
        said: dict[str, object] = {}
        for function, request in requests.items():
            message = session.wire_message({"nonce": "00" * 32, "hash": name, **request})
            with contextlib.closing(Connection(session.target)) as connection:
                try:
                    said[function] = b"error" in connection.invoke(f"{agent_name()}.{function}", message)
                except FlameError as e:
                    said[function] = type(e)
        # A carried value's connection is greeted before its hash is looked at, and cut then.
        assert said == {wire.TAKE_FILES: True, wire.FORWARD: ConnectionLost, wire.CARRY: UnsafeAnswer}
        assert pi.evaluate("kept") == 1
        pi.push({"large": bytes(3 * MiB)})
        assert pi.evaluate("len(large)") == 3 * MiB
