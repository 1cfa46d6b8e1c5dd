"""What runs on the server: pushed there as text through Flame itself, kept in memory, named by the hash of its text.

The rules of this room:

* standard library only, imports of siblings only (``from . import wire``), syntax of Python 3.6;
* no work at import: no thread, no hook, no file; the package stays cached on the server when the last session is gone;
* nothing of the host process is changed for longer than a session lasts (``streams`` installs, and restores);
* what belongs to a session is found through the context of the code that runs (``streams.current()``), never through a
  global that the next session would overwrite.

``session.handle`` is the whole interface. Floors, from the top: session > live > core > ishell, runner > lane, child,
comms, … > display, figures > streams > events > journal, cells > spill, sockets, wire.
"""
