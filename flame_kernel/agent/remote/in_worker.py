"""Begins a worker process that a script starts by multiprocessing's ``spawn`` or ``forkserver``.

Such a worker runs the script's file once more, to have its functions and classes.  The far disk has no such file, so
the worker is told the text, and the modules that were sent with it.  It gets those files of the agent that it needs for
that, ``FILES``, which import no others.
"""

import linecache
import os
import sys
import traceback
import types

from .. import sources
from . import package_files

FILES = ("sources", "remote.package_files", "remote.in_worker")
# What a worker runs; ``about`` is what ``Told`` has.
_BEGIN = "exec(about['loader'])\nboot(about['bundle']).remote.in_worker.begin(about)"


class Told:
    """What a worker is told, as a dict of plain values. A worker unpickles it first of all, and that calls ``begin``.
    ``numbers``: the descriptors that the worker writes its output to; none if it has them."""

    def __init__(self, about, numbers=()):
        self._about = about
        self._numbers = numbers

    def __repr__(self):
        return "<Told about %s>" % self._about["file"]

    def __reduce__(self):
        from multiprocessing import reduction

        about = dict(self._about, numbers=[reduction.DupFd(number) for number in self._numbers])
        return exec, (_BEGIN, {"about": about})


def prepared(data, name, about, numbers=()):
    """Add what a worker is told to ``data``, which ``multiprocessing.spawn.get_preparation_data(name)`` has given;
    returns it."""
    data.pop("init_main_from_name", None)
    data.pop("init_main_from_path", None)
    if name != "ignore":  # so a forkserver calls itself, which only forks the workers
        data.update(init_main_from_path=about["file"], flame=Told(about, numbers))
    return data


def begin(about):
    """Called in a worker: from now on it finds the script, and so do the workers that it starts itself."""
    from multiprocessing import spawn

    for number, given in zip((1, 2), about.pop("numbers")):
        given = given.detach()
        os.dup2(given, number)
        os.close(given)
    for root, texts, data in about["modules"]:
        finder = _Finder(root, texts, data)
        sys.meta_path.insert(0, finder)
        sys.path_hooks.append(finder.path_hook)
    find, prepare = spawn._fixup_main_from_path, spawn.get_preparation_data

    def fixup_main_from_path(path):
        if path == about["file"]:
            _run(about, spawn)
        else:
            find(path)

    def get_preparation_data(name):
        return prepared(prepare(name), name, about)

    spawn._fixup_main_from_path, spawn.get_preparation_data = fixup_main_from_path, get_preparation_data


def _run(about, spawn):
    """Run the script, as ``multiprocessing.spawn`` does with a file."""
    name, source, file = about["name"], about["source"], about["file"]
    main = types.ModuleType(name)
    main.__dict__.update(__file__=file, __cached__=None, __package__="")
    linecache.cache[file] = (len(source), None, sources.lines_of(source), file)
    spawn.old_main_modules.append(sys.modules["__main__"])
    sys.modules["__mp_main__"] = sys.modules[name] = main
    try:
        exec(compile(source, file, "exec", dont_inherit=True), main.__dict__)
    except BaseException:  # raised again; Python's own hook would look for the lines on the disk
        sys.excepthook = traceback.print_exception
        raise
    sys.modules["__main__"] = main


class _Finder:
    """Finds the modules that were sent, as the session's own finders do."""

    def __init__(self, root, texts, data):
        self._files = package_files.Files(root)
        self._files.data.update(data)
        for name, package, source in texts:
            self._files.sources[name] = _Text(self._files, name, package, source)

    def find_spec(self, name, path=None, target=None):
        one = self._files.sources.get(name)
        return None if one is None else one.spec()

    def path_hook(self, path):
        return package_files.finder(self._files, path, self.find_spec)


class _Text(package_files.Loader):
    """The text of one module."""

    def __init__(self, files, name, package, source):
        package_files.Loader.__init__(self, files, name, package)
        self.source = source

    def get_code(self, name):
        return compile(self.source, self.filename, "exec", dont_inherit=True)

    def exec_module(self, module):
        self.remember(self.source)
        exec(self.get_code(self.name), module.__dict__)
