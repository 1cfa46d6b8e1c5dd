"""A flame graph as HTML: one box for each call, as wide as the time it took; what it called is below it.

The HTML needs no other file. Its script zooms and searches; where a page does not run scripts, the graph still appears,
and a box shows its figures when the mouse is over it. Colours follow the page's theme, light or dark.
Names come from a server: each is escaped, and none is put into a script, style or link.
"""

from __future__ import annotations

import html
import uuid
from collections.abc import Mapping
from typing import Any

# A box narrower than this share of the graph is left out. Then the most boxes, and the most levels.
NARROWEST, MOST_BOXES, DEEPEST = 0.001, 4000, 120
ROW = 18  # pixels of a level
# A share that changed by this many percentage points gets the full colour.
FULL_CHANGE = 20.0

# The look of what this room draws.
STYLE = """
.flame-profile{font:12px var(--jp-ui-font-family,sans-serif);color:var(--jp-ui-font-color1,CanvasText)}
.flame-profile p{margin:2px 0}
.flame-profile svg{display:block}
.flame-profile svg svg{cursor:pointer}
.flame-profile rect{stroke:var(--jp-layout-color0,Canvas);stroke-width:1px}
.flame-profile text{font:11px var(--jp-code-font-family,monospace);fill:#1a1a1a;pointer-events:none}
.flame-profile .all rect,.flame-profile .thread rect{fill:#b5b5b5}
.flame-profile .own rect{fill:#f0883e}
.flame-profile .library rect{fill:#e8c35a}
.flame-profile .python rect{fill:#9cc1dd}
.flame-profile .more rect{fill:#e5534b}.flame-profile .less rect{fill:#57a6ff}.flame-profile .same rect{fill:#c8c8c8}
.flame-profile .found rect{fill:#c678dd}.flame-profile .above rect{opacity:.45}
.flame-profile svg svg:hover>rect{stroke:var(--jp-ui-font-color1,CanvasText)}
.flame-profile .tools{display:none;margin:4px 0}.flame-profile.live .tools{display:block}
.flame-profile input{font:inherit;color:inherit;background:var(--jp-layout-color1,Canvas);
border:1px solid var(--jp-border-color1,GrayText)}
.flame-profile table{font:11px var(--jp-code-font-family,monospace);border-collapse:collapse;margin-top:6px}
.flame-profile td,.flame-profile th{text-align:left!important;padding:1px 8px 1px 0!important;white-space:pre}
"""

# The script reads positions and widths from the boxes (data-x, data-w) and nothing else. It makes no markup.
_SCRIPT = """
(function(){for(const page of document.querySelectorAll('.ID')){
const boxes=[...page.querySelectorAll('svg[data-w]')],input=page.querySelector('input');
const said=page.querySelector('.said');
page.classList.add('live');let now=boxes[0];if(!now)continue;
const at=b=>+b.dataset.x,width=b=>+b.dataset.w;
function zoom(to){now=to;const x=at(to),w=width(to),y=+to.getAttribute('y');
for(const b of boxes){const above=+b.getAttribute('y')<y,
inside=above?at(b)<=x+1e-9&&at(b)+width(b)>=x+w-1e-9:at(b)>=x-1e-9&&at(b)+width(b)<=x+w+1e-9;
b.style.display=inside?'':'none';b.classList.toggle('above',above);
b.setAttribute('x',above?'0%':100*(at(b)-x)/w+'%');b.setAttribute('width',above?'100%':100*width(b)/w+'%');}}
function search(){const word=input.value.toLowerCase();let spans=[];
for(const b of boxes){const hit=word&&b.querySelector('title').textContent.toLowerCase().includes(word);
b.classList.toggle('found',!!hit);if(hit)spans.push([at(b),at(b)+width(b)]);}
spans.sort((a,b)=>a[0]-b[0]);let end=0,sum=0;
for(const[a,b]of spans){sum+=Math.max(0,b-Math.max(a,end));end=Math.max(end,b);}
said.textContent=word?(100*sum).toFixed(1)+' % of the time':'';}
for(const b of boxes)b.addEventListener('click',e=>{e.stopPropagation();zoom(b===now?boxes[0]:b);});
input.addEventListener('input',search);input.addEventListener('keydown',e=>e.stopPropagation());
page.querySelector('button').addEventListener('click',()=>{input.value='';search();zoom(boxes[0]);});}})();
"""


class _Box:
    """A node of the tree: a call, reached by the calls above it."""

    def __init__(self) -> None:
        self.seconds = self.before = 0.0
        self.below: dict[Any, _Box] = {}

    def add(self, path: tuple[Any, ...], seconds: float, before: float) -> None:
        box = self
        for name in (None, *path[:DEEPEST]):
            box = box if name is None else box.below.setdefault(name, _Box())
            box.seconds += seconds
            box.before += before


def page(
    stacks: Mapping[tuple[Any, ...], float],
    words: str,
    table: str,
    before: Mapping[tuple[Any, ...], float] | None = None,
) -> str:
    """The HTML for ``stacks``: ``{(thread, (function, file), …): seconds}``, the outermost call first.

    ``words`` and ``table`` are HTML to put above and below it. ``before`` are stacks of an earlier profile: then red
    boxes take a greater share than before, blue ones a smaller share.
    """
    root = _Box()
    for path, seconds in stacks.items():
        root.add(path, seconds, 0.0)
    for path, seconds in (before or {}).items():
        root.add(path, 0.0, seconds)
    mark = f"flame-{uuid.uuid4().hex}"
    if not root.seconds:
        return f'<div class="flame-profile {mark}"><style>{STYLE}</style>{words}</div>'
    drawn, depth = _drawn(root, before is not None)
    graph = f'<svg width="100%" height="{ROW * depth}" role="img" aria-label="flame graph">{"".join(drawn)}</svg>'
    tools = (
        '<div class="tools"><input type="text" placeholder="search a function or file" size="28"> '
        '<button type="button">reset</button> <span class="said"></span></div>'
    )
    script = f"<script>{_SCRIPT.replace('ID', mark)}</script>"
    return f'<div class="flame-profile {mark}"><style>{STYLE}</style>{words}{tools}{graph}{table}{script}</div>'


def _drawn(root: _Box, compared: bool) -> tuple[list[str], int]:
    """``(the boxes, the number of levels)``; a box comes before those below it, a wide one before narrow ones."""
    total, earlier = root.seconds, root.before or 1.0
    found: list[str] = []
    deepest = 0
    level: list[tuple[_Box, Any, float]] = [(root, None, 0.0)]
    depth = 0
    while level and len(found) < MOST_BOXES:
        deepest, below = depth + 1, []
        for box, name, x in level:
            share = box.seconds / total
            change = 100 * (share - box.before / earlier) if compared else None
            found.append(_box(name, depth, (x, share), box.seconds, change))
            for following, one in sorted(box.below.items(), key=lambda pair: (-pair[1].seconds, str(pair[0]))):
                if one.seconds / total >= NARROWEST:
                    below.append((one, following, x))
                x += one.seconds / total
        level, depth = below, depth + 1
    return found[:MOST_BOXES], deepest


def _box(name: Any, depth: int, place: tuple[float, float], seconds: float, change: float | None) -> str:
    x, share = place
    function, file = ("all", "") if name is None else (name, "") if isinstance(name, str) else name
    kind = "all" if name is None else "thread" if isinstance(name, str) else kind_of(file)
    figures = f"{seconds:.3g} s, {100 * share:.1f} %"
    fill = ""
    if change is not None and kind not in ("all", "thread"):
        figures += f", {change:+.1f} points"
        kind = "same" if abs(change) < 0.05 else "more" if change > 0 else "less"
        if kind != "same":
            fill = f' style="fill-opacity:{min(1.0, 0.25 + abs(change) / FULL_CHANGE):.2f}"'
    title = html.escape(f"{function}\n{file}\n{figures}" if file else f"{function}\n{figures}")
    return (
        f'<svg class="{kind}" x="{100 * x:.4f}%" y="{depth * ROW}" width="{100 * share:.4f}%" height="{ROW}" '
        f'data-x="{x:.6f}" data-w="{share:.6f}"><title>{title}</title>'
        f'<rect width="100%" height="{ROW}"{fill}/><text x="3" y="13">{html.escape(function)}</text></svg>'
    )


def kind_of(file: str) -> str:
    """Whose code is in a file, judged by its path: ``own``, ``library`` or ``python``."""
    path = file.replace("\\", "/").lower()
    if "site-packages/" in path or "dist-packages/" in path:
        return "library"
    return "python" if "/lib/python" in path or path.startswith("<frozen") or "/lib/pypy" in path else "own"
