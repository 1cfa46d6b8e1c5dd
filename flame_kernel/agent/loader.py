"""Puts the agent into a process: the one piece of it that is executed as it comes.

``boot`` takes the agent's files as JSON text ``{"name": package name, "files": [[module, source], …]}``, in an order in
which each imports only what stands before it, and returns the package. It may be called by many clients at once, and
again: who comes second finds it loaded, or waits. ``loader`` is this file's own text, for those who hand both on.
"""


def boot(text, loader=None):
    import json
    import linecache
    import sys
    import threading
    import types

    bundle = json.loads(text)
    name = bundle["name"]

    def load(short, source):
        full = "%s.%s" % (name, short)
        filename = "<%s/%s.py>" % (name, short)
        module = types.ModuleType(full)
        module.__package__ = name
        module.__file__ = filename
        sys.modules[full] = module
        # Tracebacks of the agent show its source; an entry without a time is never checked against the disk.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        try:
            exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
        except BaseException:  # goes on, whatever it is; half a module does not stay
            del sys.modules[full]
            raise
        setattr(package, short, module)

    package = types.ModuleType(name, "The agent of Remote Flame.")
    package.__path__ = []
    package.__package__ = name
    package.loading = threading.Lock()
    package.loaded = False
    package = sys.modules.setdefault(name, package)
    with package.loading:
        if not package.loaded:
            package.LOADER, package.BUNDLE = loader, text
            try:
                for short, source in bundle["files"]:
                    load(short, source)
            except BaseException:
                sys.modules.pop(name, None)
                raise
            package.loaded = True
    return package
