"""What is made of the answers of many hosts, without a server: equal ones once, parts joined, calls repeated."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import numpy
import polars
import pyarrow
import pytest

import flame
from flame_kernel.errors import TransferError
from flame_kernel.group.executor import GroupExecutor
from flame_kernel.group.future import GroupFuture
from flame_kernel.group.member import Job
from flame_kernel.group.output import HostOutput
from flame_kernel.group.parts import joined, parts
from flame_kernel.group.results import Results, told_errors

HOSTS = ("web1", "web2")


def test_a_host_that_failed_is_one_of_the_hosts() -> None:
    results = Results(("a", "b", "c"), {"a": 1}, {"b": KeyError("x")}, 0.0)
    assert [host in results for host in ("a", "b", "c", "d")] == [True, True, False, False]


LONG = numpy.arange(5000)
OTHER = numpy.where(LONG == 2500, -1, LONG)


@pytest.mark.parametrize(
    "made",
    [
        lambda values: [values],
        lambda values: {"part": (1, values)},
        lambda values: polars.DataFrame({"a": values}),
        lambda values: pyarrow.table({"a": values}),
    ],
    ids=["list", "dict", "polars", "arrow"],
)
def test_values_whose_reprs_are_shortened_are_not_told_as_equal(made: Callable[[Any], Any]) -> None:
    answers = {"web1": made(LONG), "web2": made(OTHER), "web3": made(LONG.copy())}
    assert len({repr(answer) for answer in answers.values()}) == 1
    folded = Results(tuple(answers), answers, {}, 0.0).fold()
    assert [hosts for _, hosts in folded] == [("web1", "web3"), ("web2",)]


def test_what_we_say_at_each_host_is_told_once_and_what_it_said_is_not_changed() -> None:
    errors = {host: flame.FlameError(f"there is no variable 'x' at {host}; dir() there shows all") for host in HOSTS}
    headline, words = told_errors(errors, 2)
    assert "2 of 2 hosts: web1, web2" in headline
    assert words == "FlameError: there is no variable 'x' there; dir() there shows all"
    raised = {host: flame.RemoteError("OSError", f"no file at {host}", "") for host in HOSTS}
    assert told_errors(raised, 2)[1::2] == ["OSError: no file at web1", "OSError: no file at web2"]


def test_an_error_that_cannot_say_what_it_is_holds_nobody_up() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    future = GroupFuture(HOSTS, lambda host: None)
    future.answered("web1", 1)
    future.failed("web2", BrokenError())
    assert isinstance(future.exception(0), flame.GroupError)
    assert "BrokenError: <exception str() failed>" in repr(future.results)


@pytest.mark.parametrize(
    "whole",
    [polars.DataFrame({"a": range(5)}), polars.Series(range(5)), pyarrow.table({"a": range(5)}), pyarrow.array([1, 2])],
    ids=["polars", "series", "arrow", "array"],
)
def test_tables_are_divided_and_joined(whole: Any) -> None:
    assert whole.equals(joined(dict(zip(HOSTS, parts(whole, HOSTS), strict=True))))


def test_tables_that_do_not_fit_are_one_sentence() -> None:
    frames = {"web1": polars.DataFrame({"a": [1]}), "web2": polars.DataFrame({"b": ["x"]})}
    with pytest.raises(flame.FlameError, match=r"the parts cannot be joined: .*; pull them one by one") as raised:
        joined(frames)
    assert "\n" not in str(raised.value)


def test_a_display_of_text_that_is_changed_shows_both() -> None:
    output = HostOutput("web1")
    transient = {"display_id": "one"}
    output.display({"data": {"text/plain": "begun"}, "transient": transient})
    output.display({"data": {"text/plain": "done"}, "transient": transient}, update=True)
    assert output.text == "begun\ndone\n"
    assert output.displays == [{"text/plain": "done"}]


class Worker:
    """A member that ends its job when the test says so."""

    def __init__(self) -> None:
        self.unreached: Exception | None = None
        self.is_closed = False
        self.end: Callable[[Any, Exception | None], None] = lambda value, error: None

    def submit(self, work: Any, done: Callable[[Any, Exception | None], None]) -> Job:
        self.end = done
        return Job(work, done)

    def stop(self, job: Job) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True
        self.submit = self._refuse  # type: ignore[method-assign]

    def _refuse(self, work: Any, done: Callable[[Any, Exception | None], None]) -> Job:
        self.unreached = flame.FlameError("the group is closed")
        done(None, self.unreached)
        return Job(work, done)

    def is_lost(self) -> None:
        """The host was reached, and is lost while the call runs."""
        self.unreached = None
        self.end(None, flame.SessionGone("lab:1", "it was restarted"))

    def is_not_there(self) -> None:
        self.unreached = flame.CannotConnect("lab:1", "refused")
        self.end(None, self.unreached)


def test_a_call_that_waits_for_another_host_ends_when_it_is_stopped() -> None:
    one, two = Worker(), Worker()
    executor = GroupExecutor([one, two])  # type: ignore[list-item]
    future, other = executor.submit(len, "a"), executor.submit(len, "b")
    one.is_not_there()
    assert "1 waiting" in repr(executor)
    executor.interrupt()
    assert isinstance(future.exception(0), CancelledError)
    two.end(1, None)
    assert other.result(0) == 1
    executor.shutdown()


def test_a_host_that_was_not_there_uses_up_no_retry() -> None:
    one, two = Worker(), Worker()
    executor = GroupExecutor([one, two], retries=1)  # type: ignore[list-item]
    future = executor.submit(len, "a")
    one.is_not_there()
    two.is_lost()
    assert not future.done()
    two.end(1, None)
    assert future.result(0) == 1
    again = executor.submit(len, "a")
    two.is_lost()
    two.is_lost()
    assert isinstance(again.exception(0), flame.SessionGone)


def test_a_large_group_that_is_closed_takes_no_calls() -> None:
    workers = [Worker() for _ in range(1000)]
    for worker in workers:
        worker.close()
    future = GroupExecutor(workers).submit(len, "a")  # type: ignore[arg-type]
    assert isinstance(future.exception(0), flame.FlameError)


def test_errors_name_no_host_where_several_have_them_and_numbers_may_be_masked() -> None:
    far = {host: TransferError(f"'x' not found on {host}:1; check the path", location=f"{host}:1") for host in "ab"}
    assert told_errors(far, 2)[1:] == ["TransferError: 'x' not found there; check the path"]
    numbered = {host: flame.RemoteError("ValueError", f"pid {at}", "") for at, host in enumerate("ab")}
    assert len(told_errors(numbered, 2)) == 4
    assert told_errors(numbered, 2, mask=True)[0].startswith("── failed: 2 of 2 hosts: a, b (numbers differ) ──")
