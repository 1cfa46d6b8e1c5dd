"""LiveNames: the globals of functions that a client has sent. Names that were not sent are looked up in the session."""

import builtins
import types


class LiveNames(dict):
    """Global names; any name that was not sent along is read from the session each time.

    ``globals()["name"]`` and ``"name" in globals()`` find those too. ``globals()["name"] = value`` sets a name in the
    session, unless that name was sent along.
    """

    def __init__(self, content, session):
        dict.__init__(self, content)
        self._flame_session = session

    def __missing__(self, name):
        return self._flame_session[name]

    def __contains__(self, name):
        return dict.__contains__(self, name) or name in self._flame_session

    def __setitem__(self, name, value):
        if dict.__contains__(self, name):
            dict.__setitem__(self, name, value)
        else:
            self._flame_session[name] = value

    def know(self, code):
        """Store the built-ins that ``code`` reads, so that they are found without a look into the session."""
        for name in code.co_names:
            if hasattr(builtins, name) and name not in self:
                dict.__setitem__(self, name, getattr(builtins, name))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.know(constant)
