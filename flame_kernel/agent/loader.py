"""Loads the agent into a process: the only file of it that is executed as it arrives.

``boot`` takes the agent's files as JSON text ``{"name": package name, "files": [[module, source], …]}`` and returns the
package.  The files are ordered so that each imports only earlier ones.  A module in a folder has a dotted name, and the
folder becomes a package when its first module is loaded.  Several clients may call ``boot`` at once or again: later
calls wait, or find the agent loaded.  ``loader`` is this file's own text, for passing both on to a child.  ``codes``
holds what the very same Python has already compiled: ``{module: code}``; the package keeps its own as ``CODES``.
"""


def boot(text, loader=None, codes=None):
    import builtins
    import json
    import linecache
    import sys
    import threading
    import types

    bundle = json.loads(text)
    name = bundle["name"]

    def folder(full):
        if full not in sys.modules:
            module = types.ModuleType(full)
            module.__path__ = []
            module.__package__ = full
            sys.modules[full] = module
            parent, _, last = full.rpartition(".")
            setattr(folder(parent), last, module)
        return sys.modules[full]

    def load(short, source):
        full = "%s.%s" % (name, short)
        filename = "<%s/%s.py>" % (name, short.replace(".", "/"))
        parent, _, last = full.rpartition(".")
        module = types.ModuleType(full)
        module.__package__ = parent
        module.__file__ = filename
        module.__dict__["__builtins__"] = known  # a copy, because cells may replace names in the module itself
        room = folder(parent)
        sys.modules[full] = module
        # Tracebacks of the agent show its source; an entry without a time is never checked against the disk.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        code = (codes or {}).get(short) or compile(source, filename, "exec", dont_inherit=True)
        package.CODES[short] = code
        exec(code, module.__dict__)
        setattr(room, last, module)

    known = dict(vars(builtins))
    package = types.ModuleType(name, "The agent of Remote Flame.")
    package.__path__ = []
    package.__package__ = name
    package.loading = threading.Lock()
    package.loaded = False
    package = sys.modules.setdefault(name, package)
    with package.loading:
        if not package.loaded:
            sys.modules[name] = package  # a boot that failed before this one has removed it
            package.LOADER, package.BUNDLE, package.CODES = loader, text, {}
            try:
                for short, source in bundle["files"]:
                    load(short, source)
                if hasattr(package, "own"):
                    package.own.keep_references()
            except BaseException:  # raised again, whatever it is; no half-loaded agent stays
                for planted in [one for one in list(sys.modules) if one == name or one.startswith(name + ".")]:
                    sys.modules.pop(planted, None)
                for planted in [one for one in list(linecache.cache) if one.startswith("<%s/" % name)]:
                    linecache.cache.pop(planted, None)
                raise
            package.loaded = True
    return package
