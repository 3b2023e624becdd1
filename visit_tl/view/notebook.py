"""The page inside a notebook's output cell."""

from __future__ import annotations

import base64
import gzip
from typing import Final

from visit_tl.escaping import for_html
from visit_tl.graph.container import GraphData
from visit_tl.graph.descriptions import readable
from visit_tl.view.page.document import page

HEIGHT: Final = 900
"""Height of the frame in px: for header, figure and legend of a graph of the usual budget."""

_LEVEL: Final = 6
"""Level of gzip. The page of a graph of 1796 nodes, 0.8 MB, takes 0.3 MB in a notebook."""

_FRAME: Final = """<!doctype html>
<meta charset="utf-8">
<title>@@TITLE@@</title>
<p>Unpacking the graph. If this stays, the browser is too old: graph.save("graph.html") is not.</p>
<script>
"use strict";
(async () => {
  const packed = Uint8Array.from(atob("@@PAGE@@"), (sign) => sign.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const text = await new Response(unpacked).text();
  document.open();
  document.write(text);
  document.close();
})();
</script>"""


def notebook_html(graph: GraphData) -> str:
    """The graph as HTML for an output cell of Jupyter Lab, VS Code or Colab.

    The page is in a separate frame (`srcdoc`). It does not need the notebook's scripts (require.js,
    a renderer, a widget manager), and it cannot change the notebook, because the sandbox gives its
    script a separate origin. It is compressed to keep the notebook small.
    """
    title = for_html(f"flow graph of {readable(graph.model)}")
    packed = gzip.compress(page(graph).encode("utf-8"), _LEVEL, mtime=0)
    frame = _FRAME.replace("@@TITLE@@", title)
    frame = frame.replace("@@PAGE@@", base64.b64encode(packed).decode("ascii"))
    return (
        f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" '
        f'style="width:100%;height:{HEIGHT}px;border:0" '
        f'srcdoc="{for_html(frame)}"></iframe>'
    )
