"""Puts an agent of the released form into a process: one folder of modules, no rooms. What ``loader.py`` was then."""


def boot(text, loader=None, codes=None):  # a child is given them; this one compiles
    import json
    import linecache
    import sys
    import threading
    import types

    bundle = json.loads(text)
    name = bundle["name"]
    package = types.ModuleType(name)
    package.__path__ = []
    package.__package__ = name
    package.loading = threading.Lock()
    package.loaded = False
    package = sys.modules.setdefault(name, package)
    with package.loading:
        if not package.loaded:
            package.LOADER, package.BUNDLE, package.CODES = loader, text, {}
            for short, source in bundle["files"]:
                full, filename = name + "." + short, "<%s/%s.py>" % (name, short)
                module = types.ModuleType(full)
                module.__package__ = name
                module.__file__ = filename
                sys.modules[full] = module
                linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
                exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
                setattr(package, short, module)
            package.loaded = True
    return package
