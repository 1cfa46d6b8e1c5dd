"""joblib on a group: ``with joblib(group): Parallel()(delayed(f)(i) for i in range(100))``.

joblib must be installed by the user; it is imported only on use. scikit-learn's ``n_jobs`` uses this backend, too; its
estimators go there and come back as pickles, so the group needs ``trust=True``.
Where joblib is imported before a group is made, ``parallel_config(backend="flame")`` is enough, and uses that group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from ..errors import TargetError
from .executor import GroupExecutor, each_call
from .group import Group, present

NAME = "flame"


@contextlib.contextmanager
def joblib(group: Group, retries: int = 0) -> Iterator[None]:
    """Inside this context joblib's ``Parallel`` makes its calls on the members of ``group``.

    Raises TargetError if joblib is not installed here.
    """
    backend = register()
    from joblib import parallel_config

    with parallel_config(backend=backend, group=group, retries=retries, n_jobs=len(group)):
        yield


def register() -> str:
    """Register joblib's backend ``flame``, for ``parallel_config(backend="flame", group=group)``; return its name."""
    try:
        from joblib import register_parallel_backend
    except ImportError:
        raise TargetError("joblib is not installed here; pip install joblib") from None
    register_parallel_backend(NAME, _backend())
    return NAME


def _only_one() -> Group:
    """The only open group; raises TargetError if there is none, or more than one. Groups of ``%%flame -t`` count only
    if the program has made none itself."""
    groups = [one for one in present() if not one.is_lasting] or list({one.labels: one for one in present()}.values())
    if len(groups) == 1:
        return groups[0]
    there = f"{len(groups)} groups are open" if groups else "no group is open"
    raise TargetError(f'name the group: parallel_config(backend="flame", group=group); {there}')


def _backend() -> type[Any]:
    from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

    class FlameBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """Runs each batch of joblib's calls on one member of a group."""

        supports_retrieve_callback = True
        default_n_jobs = -1

        def __init__(self, group: Group | None = None, retries: int = 0, **options: Any) -> None:
            super().__init__(**options)
            self._group = group or _only_one()
            self._retries = retries
            self._executor: GroupExecutor | None = None

        def effective_n_jobs(self, n_jobs: int) -> int:
            workers = len(self._group)
            return workers if n_jobs in (None, -1) else max(1, min(n_jobs, workers))

        def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
            self.parallel = parallel
            self._executor = self._group.executor(self._retries)
            return self.effective_n_jobs(n_jobs)

        def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Future[Any]:
            assert self._executor is not None
            calls = list(func.items)

            future = self._executor.give(lambda remote: each_call(calls, remote))
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Future[Any]) -> Any:
            return out.result()

        def terminate(self) -> None:
            if self._executor is not None:
                self._executor.interrupt()
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None

        def abort_everything(self, ensure_ready: bool = True) -> None:
            self.terminate()
            if ensure_ready:
                self.configure(parallel=self.parallel)

    return FlameBackend
