"""Calls shared out among members: an executor, joblib on it, and hosts that are lost while they work."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path

import joblib as parallel
import numpy
import pytest
from farside import FlameServer, wait_until
from needs import missing
from notebook_shell import ipython

import flame
from flame_kernel.group.group import Group
from flame_kernel.group.joblib_backend import joblib, register


@pytest.fixture
def pair(server: FlameServer) -> Iterator[Group]:
    """Two children of one server."""
    with flame.group(f"{server.location}*2", shell="mini") as group:
        yield group


def square(number: int) -> int:
    return number * number


def who(number: int) -> tuple[int, int]:
    import os

    return number, os.getpid()


def test_calls_are_shared_out_and_come_back_in_order(pair: Group) -> None:
    with pair.executor() as executor:
        assert isinstance(executor, Executor)
        assert executor.submit(square, 3).result() == 9
        assert list(executor.map(square, range(20))) == [n * n for n in range(20)]
        assert list(executor.map(pow, range(5), [2] * 5, chunksize=2)) == [0, 1, 4, 9, 16]
        assert list(executor.map(square, [])) == []
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(square, [1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(square, [1], buffersize=0)
        numbers = itertools.count()
        found = executor.map(square, numbers, chunksize=2, buffersize=3)  # type: ignore[call-arg, unused-ignore]
        assert [next(found) for _ in range(3)] == [0, 1, 4]
        assert next(numbers) == 10  # two that are taken, and three that are begun
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 3)
    assert pair.map(square, range(9)) == [n * n for n in range(9)]
    numbers, pids = zip(*pair.imap(who, range(40), chunksize=1), strict=True)
    assert numbers == tuple(range(40))
    assert len(set(pids)) == 2


def test_errors_and_calls_that_are_cancelled(pair: Group, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def hold(path: str) -> None:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    with pair.executor() as executor:
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result()
        held = [executor.submit(hold, str(gate)) for _ in range(2)]
        waiting = executor.submit(square, 2)
        later = executor.submit(square, 3)
        assert waiting.cancel()
        assert "2 of 2 busy" in repr(executor)
        gate.touch()
        assert later.result() == 9
        assert [one.result() for one in held] == [None, None]
        with pytest.raises(CancelledError):
            waiting.result()


def test_an_event_loop_takes_it(pair: Group) -> None:
    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        with pair.executor() as executor:
            return await asyncio.gather(*(loop.run_in_executor(executor, square, n) for n in range(6)))

    assert asyncio.run(work()) == [n * n for n in range(6)]


def die_the_first_time(path: str) -> int:
    import os

    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) == 1:
        os._exit(3)
    return os.path.getsize(path)


def test_a_call_that_may_have_run_is_not_made_again(pair: Group, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with pair.executor() as executor:
        with pytest.raises(flame.SessionGone):
            executor.submit(die_the_first_time, str(path)).result()
        assert path.read_text() == "x"
        assert list(executor.map(square, range(4))) == [0, 1, 4, 9]  # the member is there again


def test_retries_make_it_again(pair: Group, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with pair.executor(retries=1) as executor:
        assert executor.submit(die_the_first_time, str(path)).result() == 2
    with pytest.raises(flame.TargetError, match="retries is a whole number"):
        pair.executor(retries=-1)


def test_others_do_the_work_of_a_host_that_is_not_there(server: FlameServer) -> None:
    with flame.group(["127.0.0.1:9", server.location], shell="mini", place="process") as group:
        assert group.map(square, range(10), chunksize=1) == [n * n for n in range(10)]
    with (
        flame.group("127.0.0.1:9,127.0.0.1:10") as nobody,
        nobody.executor() as executor,
        pytest.raises(flame.CannotConnect),
    ):
        executor.submit(square, 2).result()


def test_a_server_that_is_killed_takes_no_call_along_twice(
    flame_server: Callable[..., FlameServer], tmp_path: Path
) -> None:
    doomed, other = flame_server(), flame_server()
    path = tmp_path / "calls"

    def note(path: str, number: int) -> int:
        import os
        import time

        with open(path, "a") as file:
            file.write(f"{number}\n")
        while number == 0 and not os.path.exists(path + ".on"):
            time.sleep(0.01)
        return number

    with (
        flame.group([doomed.location, other.location], shell="mini", place="process", fast=True) as group,
        group.executor() as executor,
    ):
        futures = [executor.submit(note, str(path), number) for number in range(6)]
        wait_until(lambda: all(future.done() for future in futures[1:]), "the others are done")
        wait_until(lambda: "0\n" in path.read_text(), "the first is under way")
        busy = next(member for member in group.members if member.state == "busy")
        (doomed if busy.location == doomed.location else other).kill()
        with pytest.raises(flame.FlameError):
            futures[0].result(60)
    assert sorted(path.read_text().split()) == [str(number) for number in range(6)]


def test_joblib(pair: Group) -> None:
    with joblib(pair):
        work = parallel.Parallel()
        assert work(parallel.delayed(square)(n) for n in range(30)) == [n * n for n in range(30)]
        assert work(parallel.delayed(math.sqrt)(n) for n in (4, 9)) == [2.0, 3.0]
        with pytest.raises(ZeroDivisionError):
            work(parallel.delayed(lambda n: 1 / n)(n) for n in (0, 1))
    assert register() == "flame"
    with parallel.parallel_config(backend="flame", group=pair):
        results = parallel.Parallel(n_jobs=2)(parallel.delayed(who)(n) for n in range(30))
    assert len({pid for _, pid in results}) == 2
    assert os.getpid() not in {pid for _, pid in results}
    assert threading.active_count() < 60


def test_joblibs_backend_is_registered_and_takes_the_group_that_is_open(pair: Group) -> None:
    of_magics = flame.group("127.0.0.1:9", shared={})
    with parallel.parallel_config(backend="flame"):
        results = parallel.Parallel()(parallel.delayed(who)(n) for n in range(30))
    of_magics.close()
    assert os.getpid() not in {pid for _, pid in results}
    with (
        flame.group([pair[0]]),
        pytest.raises(flame.TargetError, match="2 groups are open"),
        parallel.parallel_config(backend="flame"),
    ):
        raise AssertionError("the backend is made at once")


def test_joblib_with_calls_of_several_kinds(pair: Group) -> None:
    mixed = [parallel.delayed(who)(number=1), parallel.delayed(int)("11", base=2), parallel.delayed(square)(3)]
    with joblib(pair):
        (number, pid), *others = parallel.Parallel(batch_size=4)(
            [*mixed, parallel.delayed(operator.itemgetter(1))("ab")]
        )
    assert (number, others) == (1, [3, 9, "b"])
    assert pid != os.getpid()


@pytest.mark.timeout(240)  # scikit-learn is loaded here, and there by two at once
@pytest.mark.filterwarnings("default")  # scikit-learn takes them along, and "error" would end the server's own loop
def test_scikit_learns_n_jobs(pair: Group, server: FlameServer) -> None:
    if importlib.util.find_spec("sklearn") is None:
        missing("scikit-learn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score

    data = numpy.random.default_rng(0).normal(size=(40, 3))
    wanted = (Ridge(), data, data.sum(axis=1))
    with joblib(pair), pytest.raises(flame.CannotTravel, match=r"Ridge is not plain data.* trust=True"):
        cross_val_score(*wanted, n_jobs=2)
    with flame.group(f"{server.location}*2", place="process", shell="mini", trust=True) as group, joblib(group):
        found = cross_val_score(*wanted, n_jobs=2)
    assert numpy.array_equal(found, cross_val_score(*wanted))


def test_tqdm_maps_over_processes_of_a_group(pair: Group, capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    tqdm.monitor_interval = 0
    with pair.executor() as executor:
        found = list(tqdm(executor.map(square, range(12), chunksize=2), total=12, desc="squares"))
    assert found == [n * n for n in range(12)]
    assert "squares: 100%" in capsys.readouterr().err


def test_a_member_that_works_for_two_is_asked_one_thing_at_a_time(pair: Group) -> None:
    with pair.executor() as one, pair.executor() as two:
        futures = [executor.submit(square, n) for n in range(10) for executor in (one, two)]
        assert sum(future.result() for future in futures) == 2 * sum(n * n for n in range(10))


def hold(path: str) -> None:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


def test_a_group_is_closed_while_calls_wait(server: FlameServer, tmp_path: Path) -> None:
    with flame.group(f"{server.location}*2", shell="mini") as group:
        executor = group.executor()
        futures = [executor.submit(hold, str(tmp_path / "never")) for _ in range(50)]
        wait_until(lambda: all(member.state == "busy" for member in group.members), "two are under way")
    assert all(isinstance(future.exception(20), flame.FlameError) for future in futures)


def test_a_member_that_cannot_even_begin_takes_no_calls(server: FlameServer, tmp_path: Path) -> None:
    with flame.connect(server.location, shell="mini", place="process") as one:
        gone = flame.connect(server.location, shell="mini", place="process")
        gone.close()
        with flame.group([gone, one]) as group:
            assert group.map(square, range(20), chunksize=1) == [n * n for n in range(20)]


def test_what_fails_there_names_the_users_own_functions_only(pair: Group) -> None:
    def reciprocal(number: int) -> float:
        return 1 / number

    with pair.executor() as executor, pytest.raises(ZeroDivisionError) as caught:
        list(executor.map(reciprocal, (1, 0), chunksize=2))
    assert "in reciprocal(number)" in caught.value.traceback  # type: ignore[attr-defined]
    assert "<flame executor.py>" not in caught.value.traceback  # type: ignore[attr-defined]
    with joblib(pair), pytest.raises(ZeroDivisionError) as caught:
        parallel.Parallel(batch_size=2)(parallel.delayed(reciprocal)(number) for number in (1, 0))
    assert "<flame executor.py>" not in caught.value.traceback  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="chunksize must be"):
        pair.map(square, [1], chunksize=0)


@pytest.mark.parametrize("call", ["list(executor.map(hold, [path] * 6))", "group.run(hold, path)"])
def test_stop_ends_what_runs_there_and_shows_the_users_own_frames(pair: Group, tmp_path: Path, call: str) -> None:
    pair.connect()
    with ipython(tmp_path) as shell, pair.executor() as executor:
        shell["group"], shell["executor"], shell["hold"], shell["path"] = pair, executor, hold, str(tmp_path / "never")

        def press() -> None:
            wait_until(lambda: all(member.state == "busy" for member in pair.members), "both are under way")
            shell.ctrl_c()

        pressing = threading.Thread(target=press)
        pressing.start()
        ran = shell.run(f"def mine():\n    return {call}\nmine()")
        pressing.join()
        assert isinstance(ran.error, KeyboardInterrupt)
        assert "in mine()" in ran.text
        assert ".py" not in ran.text
        wait_until(lambda: all(member.state == "idle" for member in pair.members), "both have stopped")
        assert "0 of 2 busy, 0 waiting" in repr(executor)


def test_an_interrupt_stops_what_runs_and_what_waits(pair: Group, tmp_path: Path) -> None:
    executor = pair.executor()
    futures = [executor.submit(hold, str(tmp_path / "never")) for _ in range(5)]
    wait_until(lambda: all(member.state == "busy" for member in pair.members), "two are under way")
    executor.interrupt()
    wait_until(lambda: all(future.done() for future in futures), "all are over")
    assert [future.cancelled() for future in futures] == [False, False, True, True, True]
    assert pair.evaluate("1").answers() == [1, 1]
