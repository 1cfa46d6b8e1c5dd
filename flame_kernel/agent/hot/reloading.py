"""Reloads a module that is in use: its code runs again in the same module, and what others hold of it is changed.

Functions and classes stay the same objects and get new code, so instances, subclasses, and other modules that have them
by ``from module import name`` use it.  If the new code raises, the module stays as it was.
"""

import dis
import traceback
import types

from . import patching


def reload(module, source):
    """Reload ``module`` from its ``source``, a finder's Source. Returns the names that could not be changed in place.
    Raises what fetching, compiling or running it raises."""
    before = source.code
    text, code = source.fetched()
    names = module.__dict__
    old = dict(names)
    source.remember(text)
    try:
        exec(code, names)
    except BaseException:  # raised again, whatever it is; a Stop too leaves the old module
        for name in [one for one in names if one not in old]:
            del names[name]
        names.update(old)
        source.remember(source.text)
        raise
    if before is not None:
        for name in stored(before) - stored(code):
            names.pop(name, None)
    source.loaded(text, code)
    changes = patching.Changes(module.__name__)
    for name, one in old.items():
        new = names.get(name, one)
        if new is not one and changes.apply(one, new, name):
            names[name] = one
    changes.finish()
    return changes.kept


def stored(code):
    """The names that a module's own lines bind."""
    return {
        one.argval
        for one in dis.get_instructions(code)
        if one.opname in ("STORE_NAME", "STORE_GLOBAL") and not str(one.argval).startswith("__")
    }


def words(error, filename):
    """What was wrong, in one line, with the line of the edited file."""
    if isinstance(error, SyntaxError) and error.filename == filename:
        return "%s (%s, line %s)" % (error.msg, filename[5:-1], error.lineno)
    line = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if isinstance(frame, types.FrameType) and frame.f_code.co_filename == filename:
            line = number
    where = "" if line is None else " (%s, line %s)" % (filename[5:-1], line)
    said = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split())[:300])))
    return said + where
