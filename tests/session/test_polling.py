"""When the next poll is sent: at once where it tells the server something new, later where it would only ask again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from flame_kernel.connect.target import Timeouts
from flame_kernel.session.inbox import Inbox
from flame_kernel.session.line import Line
from flame_kernel.session.link import Link
from flame_kernel.session.poll_size import AHEAD
from flame_kernel.session.polling import EARLY, Polling

EVENT = {"type": "stream", "request": "1", "content": {"name": "stdout", "text": "x"}, "number": 1}


class Server:
    """Stands in for a link: answers polls at once, with the batches given, then with nothing."""

    location = "there"

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
