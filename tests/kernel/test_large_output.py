"""Large values, figures and messages; those that no message carries are refused in words, and no session ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel
from places import PLACES, Site, kernel_at, ok


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        ok(site.kernel.execute("kept = 'kept'"))
        yield site


@pytest.fixture
def kernel(site: Site) -> Iterator[Kernel]:
    yield site.kernel
    assert ok(site.kernel.execute("kept")).result == "'kept'"


SHOW = "display({'text/plain': 'x', 'application/json': %s}, raw=True)"


def test_a_value_of_many_megabytes(kernel: Kernel) -> None:
    run = ok(kernel.execute("'y' * 20_000_000"))
    assert run.result is not None
    assert len(run.result) == 20_000_002


def test_a_value_of_many_letters_of_two_bytes(kernel: Kernel) -> None:
    run = ok(kernel.execute("'é' * 15_000_000"))
    assert run.result is not None
    assert len(run.result) == 15_000_002


def test_a_figure_of_many_megabytes_and_a_line(kernel: Kernel) -> None:
    ok(kernel.execute("class H:\n    def _repr_html_(self): return 'x' * 9_000_000"))
    for _ in range(2):
        run = ok(kernel.execute("display(H()); print('after')"))
        assert len(run.displays[0]["text/html"]) == 9_000_000
        assert run.stdout == "after\n"


def test_a_plot_of_more_than_two_million_numbers(kernel: Kernel) -> None:
    run = ok(kernel.execute(SHOW % "[1] * 2_100_000"))
    assert len(run.displays[0]["application/json"]) == 2_100_000


@pytest.mark.parametrize(
    "value",
    [
        "[[]] * 2_100_000",
        "['ab'] * 2_100_000",
        "[1] * 7_000_000",
        "[{'a': 1}] * 1_100_000",
        "'z' * 40_000_000",
        "__import__('functools').reduce(lambda a, _: [a], range(250), [])",
        "__import__('functools').reduce(lambda a, _: {'a': a}, range(700), {})",
    ],
    ids=["lists", "texts", "numbers", "objects", "size", "depth", "depth of objects"],
)
def test_what_no_message_carries_is_refused_in_words(kernel: Kernel, value: str) -> None:
    run = ok(kernel.execute(SHOW % value + "\nprint('after')"))
    assert run.stdout == "after\n"
    told = run.stderr + "".join(data["text/plain"] for data in run.displays)
    assert "left out" in told or "refused" in told


@pytest.mark.parametrize("place", ["child", "process"])
def test_comm_messages_that_cannot_be_sent(place: str) -> None:
    with kernel_at(place) as site:
        k = site.kernel
        ok(k.execute("kept = 'kept'\nimport comm, functools\nc = comm.create_comm(target_name='x')"))
        for code in (
            "c.send({'a': [[]] * 2_100_000})",
            "c.send({'a': functools.reduce(lambda a, _: [a], range(300), [])})",
            "c.send({'a': 1}, buffers=[b'x'] * 120_000)",
            "c.send({'a': 1}, metadata=5)",
            "c.send({'a': 1}, metadata=[1])",
            "c.send({'a': 1}, metadata={'a': 'x' * 100_000})",
            "c.send({'a': 1}, buffers=[bytes(70_000_000)])",
        ):
            run = ok(k.execute(code))
            assert "left out" in run.stderr or "refused" in run.stderr, code
        run = ok(k.execute("c.send({'a': 1}, buffers=[bytes(30_000_000)])\nkept"))
        assert [len(b) for m in run.of_type("comm_msg") for b in m.buffers] == [30_000_000]
        assert run.result == "'kept'"


def test_an_error_of_many_megabytes(kernel: Kernel) -> None:
    for size in (5_000_000, 40_000_000):
        run = kernel.execute(f"raise ValueError('x' * {size})")
        assert run.reply is not None
        assert run.reply["ename"] == "ValueError"
