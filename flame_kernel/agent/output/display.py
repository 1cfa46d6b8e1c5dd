"""display, update, clear: rich output by MIME type, for servers without IPython.

An object shows itself by ``_repr_mimebundle_`` or the ``_repr_html_`` family, as in IPython's display protocol
(https://ipython.readthedocs.io/en/stable/config/integrating.html); text/plain is its ``repr``, formatted by pprint.
"""

import base64
import os
import pprint

from . import streams

_METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("application/pdf", "_repr_pdf_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
    ("application/javascript", "_repr_javascript_"),
)
_PLAIN_CONTAINERS = (dict, list, tuple, set, frozenset)


def plain(obj):
    """The text/plain of an object: its repr, with long containers broken into lines as in IPython."""
    text = repr(obj)
    if not isinstance(text, str):
        raise TypeError("__repr__ returned non-string (type %s)" % type(text).__name__)
    if len(text) > 79 and type(obj) in _PLAIN_CONTAINERS and len(text) < 100000:
        return pprint.pformat(obj, width=79)
    return text


def _method(obj, name):
    """A representation method of an object; None if it exists only because __getattr__ answers to every name."""
    if isinstance(obj, type):
        return None
    try:
        if getattr(obj, "_ipython_canary_method_should_not_exist_", None) is not None:
            return None
        found = getattr(obj, name, None)
    except Exception:  # a __getattr__ of the user's may raise anything
        return None
    return found if callable(found) else None


def _call(method, *args, **kwargs):
    """What a representation method returns, or None if it raises: the other representations are still shown."""
    try:
        return method(*args, **kwargs)
    except Exception as e:  # the user's method may raise anything; it is reported, and the other forms are shown
        streams_text = "%s raised %s: %s\n" % (getattr(method, "__qualname__", method), type(e).__name__, e)
        cell = streams.current()
        if cell is not None:
            cell.host.write(cell, "stderr", streams_text)
        return None


def format_bundle(obj, include=None, exclude=None):
    """``(data, metadata)`` of an object, keyed by MIME type; binary data as base64 text."""
    data, metadata = _mimebundle(obj, include, exclude)

    def is_wanted(mime):
        return mime not in data and (not include or mime in include) and not (exclude and mime in exclude)

    for mime, name in _METHODS:
        method = _method(obj, name) if is_wanted(mime) else None
        made = None if method is None else _call(method)
        if _is_pair(made) and isinstance(made[1], dict):
            made, metadata[mime] = made
        if made is not None:
            data[mime] = made
    if is_wanted("image/png"):
        picture = _call(_picture, obj)
        if picture is not None:
            data["image/png"] = picture
    if "text/plain" not in data:
        data["text/plain"] = plain(obj)
    return clean(data), metadata


def _mimebundle(obj, include, exclude):
    """``(data, metadata)`` from the object's ``_repr_mimebundle_``; empty if it has none."""
    method = _method(obj, "_repr_mimebundle_")
    made = None if method is None else _call(method, include=include, exclude=exclude)
    if _is_pair(made):
        return dict(made[0] or {}), dict(made[1] or {})
    return (dict(made) if isinstance(made, dict) else {}), {}


def _is_pair(made):
    """Whether a method returned both data and metadata."""
    return isinstance(made, tuple) and len(made) == 2


def _picture(obj):
    """A matplotlib figure as PNG, in a session with inline figures; figures have no method of their own for that."""
    cell = streams.current()
    figures = getattr(cell.host.shell, "figures", None) if cell is not None else None
    return None if figures is None else figures.picture(obj)


def clean(data):
    """A bundle in a form that JSON can represent: bytes become base64 text."""
    return {
        mime: base64.b64encode(v).decode("ascii") if isinstance(v, (bytes, bytearray)) else v
        for mime, v in data.items()
    }


def _publish(data, metadata, display_id, update):
    cell = streams.current()
    if cell is None:
        raise RuntimeError("display() works in a cell, or in what a cell started")
    transient = {"display_id": display_id} if display_id else {}
    kind = "update_display_data" if update else "display_data"
    cell.host.publish(kind, {"data": data, "metadata": metadata or {}, "transient": transient})


class DisplayHandle:
    """A display that can be changed in place: ``h = display(x, display_id=True); h.update(y)``."""

    def __init__(self, display_id=None):
        self.display_id = display_id or os.urandom(16).hex()

    def __repr__(self):
        return "<DisplayHandle display_id=%s>" % self.display_id

    def display(self, obj, **kwargs):
        display(obj, display_id=self.display_id, **kwargs)

    def update(self, obj, **kwargs):
        update_display(obj, display_id=self.display_id, **kwargs)


def display(
    *objs,
    include=None,
    exclude=None,
    metadata=None,
    transient=None,
    display_id=None,
    raw=False,
    clear=False,
    update=False,
):
    """Show objects in the cell's output, as ``IPython.display.display``; a DisplayHandle if ``display_id`` is given."""
    if clear:
        clear_output(wait=True)
    if display_id is True or (display_id is None and update):
        if update:
            raise TypeError("display_id required for update_display")
        display_id = os.urandom(16).hex()
    for obj in objs:
        if raw:
            _publish(clean(obj), metadata, display_id, update)
            continue
        made = _method(obj, "_ipython_display_")
        if made is not None:
            made()
            continue
        data, md = format_bundle(obj, include, exclude)
        md.update(metadata or {})
        _publish(data, md, display_id, update)
    return DisplayHandle(display_id) if display_id and not update else None


def update_display(obj, display_id, **kwargs):
    """Change what was displayed under ``display_id``."""
    display(obj, display_id=display_id, update=True, **kwargs)


def clear_output(wait=False):
    """Remove the cell's output: at once, or with ``wait`` when new output comes."""
    cell = streams.current()
    if cell is not None:
        cell.host.publish("clear_output", {"wait": bool(wait)})
