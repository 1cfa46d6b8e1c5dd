"""Puts the agent into a process: the one piece of it that is executed as it comes.

``boot`` takes the agent's files as JSON text ``{"name": package name, "files": [[module, source], …], "later": […]}``,
the files in an order in which each imports only what stands before it, and returns the package. Those of ``later`` are
executed when they are first imported: they need a library that may not be there. ``boot`` may be called by many clients
at once, and again: who comes second finds it loaded.
"""


def boot(text):
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
        except BaseException:
            del sys.modules[full]
            raise
        setattr(package, short, module)
        return module

    def load_later(short):
        if short not in later:
            raise AttributeError("module %r has no attribute %r" % (name, short))
        with package.loading:
            return package.__dict__.get(short) or load(short, later[short])

    later = dict(bundle["later"])
    package = types.ModuleType(name, "The agent of Remote Flame.")
    package.__path__ = []
    package.__package__ = name
    package.__getattr__ = load_later
    package.loading = threading.RLock()
    package.loaded = False
    package = sys.modules.setdefault(name, package)
    with package.loading:
        if not package.loaded:
            package.BUNDLE = text
            try:
                for short, source in bundle["files"]:
                    load(short, source)
            except BaseException:
                sys.modules.pop(name, None)
                raise
            package.loaded = True
    return package
