"""``TARGET:PATH``: a path of the far side in commands that copy, as in scp.

``is_target`` tells whether a name is that of a server. ``./a:b`` is a file with a colon in its name, on either side.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from ..errors import TargetError

_FAR = re.compile(r"([^/\\:]*):(.*)", re.DOTALL)  # as in scp: with a slash before its colon it is a path here

IsTarget = Callable[[str], bool]


def far_path(text: str, is_target: IsTarget) -> tuple[str, str] | None:
    """``(target, path)`` of ``TARGET:PATH`` or ``:PATH``, the target empty in the latter; None for any other text.

    Raises TargetError for a name before a colon that is no target: it is mistyped, or should be written ``./a:b``.
    """
    found = _FAR.fullmatch(text)
    if found is None or _is_drive(text, is_target):
        return None
    name, path = found.groups()
    if name and not is_target(name):
        if "@" in name or path.startswith("//"):
            raise TargetError(
                f"{text!r} names a server that has no name here: give the server with -t, as ssh://USER@HOST/PORT, and "
                f"the path alone, or name it by jupyter flame targets add; write ./{text} for a file of this name"
            )
        raise TargetError(
            f"there is no target {name!r}: jupyter flame targets list shows all; write ./{text} for a file of this name"
        )
    if not path:
        raise TargetError(f"{text!r} names nothing there: write a path behind the colon, such as {text}data")
    return name, path


def _is_drive(text: str, is_target: IsTarget) -> bool:
    r"""Whether it is a path of Windows with its drive, such as ``C:\data``."""
    return bool(re.match(r"[A-Za-z]:[\\/]", text)) and not is_target(text[0])


def put_paths(
    sources: Sequence[str], destination: str, is_target: IsTarget, option: str | None = None
) -> tuple[str | None, str]:
    """The server of a ``put`` (None: the current one), and the path there; ``option`` is the value of ``--target``.
    Raises TargetError."""
    for source in sources:
        _check_here(source, is_target, f"put copies from this machine; to copy from there: get {source} .")
    there = far_path(destination, is_target)
    if there is None:
        return option, destination
    return _one([there[0]], option), there[1]


def get_paths(
    sources: Sequence[str], destination: str, is_target: IsTarget, option: str | None = None
) -> tuple[str | None, list[str]]:
    """The server of a ``get`` (None: the current one), and the paths there. Raises TargetError."""
    _check_here(destination, is_target, "get copies to this machine; to copy to a server use put")
    there = [far_path(source, is_target) for source in sources]
    paths = [source if far is None else far[1] for source, far in zip(sources, there, strict=True)]
    return _one([far[0] for far in there if far is not None], option, [*sources]), paths


def sync_paths(
    source: str, destination: str, is_target: IsTarget, option: str | None = None
) -> tuple[str | None, str | None, str | None]:
    """The server of a ``sync``, and the paths there of its source and its destination. Exactly one of them is there;
    the other is None. Raises TargetError."""
    ends = [None if _is_here(text, is_target) else far_path(text, is_target) for text in (source, destination)]
    if (ends[0] is None) == (ends[1] is None):
        which = "neither path is" if ends[0] is None else "both paths are"
        raise TargetError(f"{which} on the server; write the one that is there as TARGET:PATH, or :PATH")
    paths = [None if end is None else end[1] for end in ends]
    return _one([end[0] for end in ends if end is not None], option), paths[0], paths[1]


def _is_here(text: str, is_target: IsTarget) -> bool:
    """Whether a text with a colon names an existing file or folder of this machine, and no target."""
    found = _FAR.fullmatch(text)
    return found is not None and bool(found[1]) and not is_target(found[1]) and os.path.lexists(text)


def _check_here(text: str, is_target: IsTarget, sentence: str) -> None:
    """Raise TargetError if a path of this machine is written as one of the far side, or was perhaps meant so."""
    if not _is_here(text, is_target) and far_path(text, is_target) is not None:
        raise TargetError(f"{text!r} is a path of the far side: {sentence}")


def _one(names: list[str], option: str | None, sources: Sequence[str] = ()) -> str | None:
    """The one server that all of them name."""
    if names and len(names) < len(sources):
        raise TargetError("some of the paths name a server and some do not; write TARGET: before each of them")
    wanted = {*filter(None, names), *filter(None, [option])}
    if len(wanted) > 1:
        raise TargetError(f"{' and '.join(sorted(wanted))} are two servers; name one")
    return wanted.pop() if wanted else None
