"""Parts of a session in a child, alone in this process: frames, the count of the OOM killer, replies."""

from __future__ import annotations

import json
import random
import socket
import threading
from typing import Any

import pytest

from flame_kernel.agent.log import messages
from flame_kernel.agent.session.child import exit_reason, frames


@pytest.mark.parametrize("seed", range(5))
def test_frames_come_whole_however_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((0, 1, 7, 8, 100, frames.AT_ONCE - 8, frames.AT_ONCE, 100_000)) for _ in range(60)]
    sent = [chance.randbytes(size) for size in sizes]
    whole = b"".join(frames._LENGTH.pack(len(one)) + one for one in sent)
    ours, theirs = socket.socketpair()

    def write() -> None:
        at = 0
        while at < len(whole):
            size = chance.choice((1, 3, 8, 1000, 50_000))
            theirs.sendall(whole[at : at + size])
            at += size
        theirs.close()

    writer = threading.Thread(target=write)
    writer.start()
    with ours:
        come = frames.Frames(ours)
        found = []
        while (frame := come.read()) is not None:
            found.append(bytes(frame))
    writer.join()
    assert found == sent


def test_a_frame_that_is_cut_short_is_none() -> None:
    for size in (3, 8, 20, 60_000):
        ours, theirs = socket.socketpair()
        with ours:
            theirs.sendall((frames._LENGTH.pack(100_000) + bytes(100_000))[:size])
            theirs.close()
            assert frames.Frames(ours).read() is None


def test_the_count_of_the_oom_killer_is_read_once_a_second_and_anew_after_a_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []

    def read() -> dict[str, int]:
        reads.append(1)
        return {"the machine": len(reads)}

    monkeypatch.setattr(exit_reason, "oom_kills", read)
    monkeypatch.setattr(exit_reason.OomKills, "_latest", None)
    now = [100.0]
    monkeypatch.setattr(exit_reason.time, "monotonic", lambda: now[0])
    first = exit_reason.OomKills.recent()
    now[0] += 0.9
    assert exit_reason.OomKills.recent() is first
    assert len(reads) == 1
    now[0] += 0.2
    second = exit_reason.OomKills.recent()
    assert second is not first
    assert "rose in the machine by 1" in second.verdict()
    assert exit_reason.OomKills.recent() is not second  # that death does not count for the next cell


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("content", "is_few"),
    [
        ({"status": "ok", "execution_count": 7, "user_expressions": {}, "payload": []}, True),
        ({"status": "ok", "more": None, "flag": True}, True),
        ({"status": "ok", "payload": [{"text": "x"}]}, False),
        ({"status": "ok", "count": 1 << 40}, False),
        ({"text": "x" * 101}, False),
        ({"ratio": 0.5}, False),
        ({"text": Text("x")}, False),
        ({1: "x"}, False),
        (dict.fromkeys("abcde", 1), False),
    ],
)
def test_the_content_of_a_reply_is_as_it_was_when_it_was_sent(content: dict[Any, Any], is_few: bool) -> None:
    as_sent = json.loads(json.dumps(content))
    made, left_out = messages.event("execute_reply", "r", content)
    assert (messages._few(content) is not None) is is_few
    assert left_out == ""
    content["later"] = 1
    for value in content.values():
        if isinstance(value, list):
            value.append("later")
        elif isinstance(value, dict):
            value["later"] = 1
    assert made is not None
    assert made["content"] == as_sent
    assert json.dumps(made["content"]) == json.dumps(as_sent)
