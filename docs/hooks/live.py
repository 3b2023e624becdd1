"""Writes the live page of the landing page: a graph that is kept as data, drawn by this release.

Run as a script, it makes that graph anew, which needs the embedded model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import visit_tl as vt

GRAPH = Path(__file__).parents[1] / "data" / "ioi.json"
PROMPT = "When Mary and John went to the store, John gave a drink to"


def on_post_build(config: Any) -> None:
    """Called by mkdocs when the site is there."""
    vt.FlowGraph.load(GRAPH).save(Path(config["site_dir"]) / "live.html", overwrite=True)


def make() -> None:
    """All blocks, few parts of each, followed back to the names: small enough to be kept."""
    graph = vt.flow_graph(
        vt.load_model("smollm2-135m"),
        PROMPT,
        target=" Mary",
        heads=3,
        neurons=(2, 0),
        k=3,
        expand=1,
        positions=[2, 10],
        max_nodes=900,
    )
    graph.save(GRAPH)


if __name__ == "__main__":
    make()
