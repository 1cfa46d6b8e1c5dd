"""The name of the agent's package, and how its frames and files are told from everything else in a process."""

# ``flame_agent_`` and the hash of the agent's text: each version that was pushed has a name of its own.
PREFIX = "flame_agent_"
PACKAGE = __name__.rpartition(".")[0]


def has(frame):
    """Whether a frame runs code of the agent, of this version or another."""
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(PREFIX)


def is_file(path):
    """Whether a frame's file name is that of an agent's module, as the loader makes them."""
    return path.startswith("<" + PREFIX)
