"""When the next poll is sent: at once where it tells the server something new, later where it would only ask again."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.target import Timeouts
from flame_kernel.session.inbox import Inbox
from flame_kernel.session.line import Line
from flame_kernel.session.link import Link
from flame_kernel.session.poll_size import AHEAD
from flame_kernel.session.polling import EARLY, Polling

MIB = 1 << 20
EVENT = {"type": "stream", "request": "1", "content": {"name": "stdout", "text": "x"}, "number": 1}


class Server:
    """Stands in for a link: answers polls at once, with the batches given, then with nothing."""

    location = "there"
    round_trip, max_message = 0.0, 0

    def __init__(self, line: Any, *batches: list[Any]) -> None:
        self.line, self.batches, self.acknowledged = line, list(batches), list[int]()

    def prefetch(self, line: Line, request: dict[str, Any], timeout: float) -> None:
        pass

    def insist(self, line: Line, request: dict[str, Any], timeout: float, **more: Any) -> Any:
        self.acknowledged.append(request["ack"])
        batch = self.batches.pop(0) if self.batches else []
        if batch:
            self.line.connection.bytes_received += AHEAD
        return {"events": batch}, ()


def test_an_empty_answer_that_asks_for_the_acknowledgement_is_followed_at_once() -> None:
    """A relay in the server waits for it, with a large figure's reply behind it."""
    line = SimpleNamespace(ahead=None, connection=SimpleNamespace(bytes_received=0))
    server, taken = Server(line, [EVENT]), list[Any]()
    polling = Polling(
        cast(Link, server), cast(Line, line), Inbox(), Timeouts(), False, dict, taken.extend, lambda: True
    )
    polling._asked = 1e12
    pauses = [polling._answered() for _ in range(4)]
    assert [event["number"] for event in taken] == [1]
    assert server.acknowledged == [0, 0, 1, 1]  # the second is sent ahead, before the batch is taken
    assert pauses == [0.0, 0.0, EARLY, EARLY]


class ServerOfPieces(Server):
    """Has one answer, which is larger than a poll asks for. Tells in which order pieces are asked for, come and are
    checked."""

    def __init__(self, line: Any, answer: bytes) -> None:
        super().__init__(line)
        self.answer, self.told = answer, list[tuple[str, int]]()

    def prefetch(self, line: Line, request: dict[str, Any], timeout: float) -> None:
        line.ahead = cast(Any, (request,))
        self.told.append(("asked", request.get("at", 0)))

    def insist(self, line: Line, request: dict[str, Any], timeout: float, **more: Any) -> Any:
        if line.ahead is None or line.ahead[0] is not request:
            self.prefetch(line, request, timeout)
        line.ahead = None
        at = request.get("at", 0)
        if at == len(self.answer) or "most" not in request:
            return {"events": []}, ()
        piece = self.answer[at : at + request["most"]]
        line.connection.bytes_received += len(piece)
        arrived, self.line.connection.channel.when_arrived = line.connection.channel.when_arrived, None
        if arrived is not None:
            arrived()
        self.told.append(("checked", at))
        return {"piece": {"mark": "m", "at": at, "size": len(self.answer)}}, [piece]


def test_the_next_piece_is_asked_for_before_this_one_is_checked() -> None:
    """On a quick link: so both sides work at the same time."""
    channel = SimpleNamespace(when_arrived=None)
    line = SimpleNamespace(ahead=None, connection=SimpleNamespace(bytes_received=0, channel=channel))
    event = {"type": "display_data", "request": "1", "content": {"data": {"text/plain": "x" * 9 * MIB}}, "number": 1}
    server, taken = ServerOfPieces(line, wire.encode({"events": [event]})), list[Any]()
    polling = Polling(
        cast(Link, server), cast(Line, line), Inbox(), Timeouts(), False, dict, taken.extend, lambda: True
    )
    while not taken:
        polling._asked = time.monotonic()
        polling._received = line.connection.bytes_received
        polling._answered()
    assert taken[0]["content"]["data"]["text/plain"] == "x" * 9 * MIB
    pieces = [at for what, at in server.told if what == "checked"]
    assert len(pieces) > 4
    assert [server.told.index(("asked", at)) for at in pieces[2:]] == [
        server.told.index(("checked", at)) - 1 for at in pieces[1:-1]
    ]
    assert server.told.count(("asked", 0)) == 2  # and then for what is new
    assert len(set(server.told)) == len(server.told) - 1
