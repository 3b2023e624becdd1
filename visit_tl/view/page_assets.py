"""The style sheet and the script of the page."""

from __future__ import annotations

from typing import Final

from visit_tl.view.style import FONT, palette


def stylesheet(theme: str) -> str:
    """The style sheet of the page in a theme."""
    colours = palette(theme)
    names = {
        "--background": colours.background,
        "--surface": colours.band,
        "--text": colours.text,
        "--quiet": colours.quiet,
        "--rule": colours.rule,
        "color-scheme": theme,
    }
    root = ";".join(f"{name}:{value}" for name, value in names.items())
    fonts = ",".join(
        f"'{font.strip()}'" if " " in font.strip() else font for font in FONT.split(",")
    )
    return f":root{{{root}}}\nbody{{font:14px/1.45 {fonts}}}\n{_RULES}"


_RULES: Final = """
*{box-sizing:border-box}
body{margin:0;background:var(--background);color:var(--text)}
header,nav,.legend,details{padding:0 16px}
h1{font-size:17px;margin:12px 0 6px}
.tokens{margin:0 0 8px;line-height:2}
.token{display:inline-block;border:1px solid var(--rule);border-radius:4px;padding:0 5px;
 margin:0 3px 0 0;line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere}
.token sub{color:var(--quiet);font-size:12px;margin-left:4px;vertical-align:baseline}
.bos{border-style:dashed;color:var(--quiet)}
.followed{border-color:var(--quiet);background:var(--surface)}
.here{border:2px solid var(--text);font-weight:bold}
dl{display:flex;flex-wrap:wrap;gap:2px 8px;margin:0 0 10px}
dl div{display:flex;gap:8px;margin-right:16px}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}
.read{margin-right:12px}
nav{display:flex;align-items:center;gap:6px;margin-bottom:6px;flex-wrap:wrap}
nav span{color:var(--quiet);margin-left:8px}
button,select{font:inherit;color:var(--text);background:var(--surface);
 border:1px solid var(--rule);border-radius:4px;padding:3px 10px;cursor:pointer}
button:disabled,select:disabled{cursor:default;opacity:.5}
main{overflow-x:auto;border-top:1px solid var(--rule);border-bottom:1px solid var(--rule)}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:min(680px,94vw);padding:6px 10px;
 background:var(--background);border:1px solid var(--quiet);border-radius:4px;font-size:13px;
 white-space:pre-wrap;overflow-wrap:anywhere;box-shadow:0 2px 10px #0004}
#tip[hidden]{display:none}
#tip b{display:block}
.legend{display:flex;flex-wrap:wrap;gap:4px 28px;padding-top:10px;padding-bottom:6px;font-size:13px}
.legend div{display:flex;align-items:center}
.bar,.swatch{display:inline-block;height:11px;border-radius:2px;margin-right:8px;flex:none}
.bar{width:120px}
.swatch{width:22px}
.swatch:not(:first-child){margin-left:16px}
details{margin:6px 0}
summary{cursor:pointer;padding:4px 0}
.wide{overflow:auto;max-height:70vh}
table{border-collapse:collapse;font-size:13px}
th,td{text-align:left;padding:2px 12px 2px 0;border-bottom:1px solid var(--rule);white-space:nowrap}
th{position:sticky;top:0;background:var(--background);color:var(--quiet);font-weight:normal}
.n{text-align:right;font-variant-numeric:tabular-nums}
.dot{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
pre{font:12px/1.4 'DejaVu Sans Mono',Menlo,Consolas,monospace;margin:0}
"""

SCRIPT: Final = r"""
(function () {
  "use strict";
  var views = Array.prototype.map.call(
    document.querySelectorAll("script.view"), function (s) { return s.textContent; });
  var phrases = JSON.parse(document.querySelector("script.phrases").textContent);
  var frame = document.getElementById("frame"), figure = document.getElementById("figure");
  var select = document.getElementById("layers");
  var earlier = document.getElementById("earlier"), later = document.getElementById("later");
  var config = {displaylogo: false, responsive: false, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d"]};
  // Plotly keeps its hovers inside the figure, which is wider than the window; ours stay in view.
  var tip = document.getElementById("tip");
  var signs = {"&lt;": "<", "&gt;": ">", "&#36;": "$", "&#37;": "%", "&amp;": "&"};
  function plain(text) {
    return text.split("<br>").map(function (line) {
      return line.replace(/&(?:lt|gt|#36|#37|amp);/g, function (e) { return signs[e]; });
    }).join("\n");
  }
  function put(event) {
    var box = tip.getBoundingClientRect();
    var x = event.clientX + 16, y = event.clientY + 16;
    if (x + box.width > window.innerWidth - 8) { x = event.clientX - 16 - box.width; }
    if (y + box.height > window.innerHeight - 8) { y = event.clientY - 16 - box.height; }
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  }
  function tell(hovered) {
    var point = hovered.points[0], link = Boolean(point.source);
    tip.firstChild.textContent = plain(link ?
      point.source.customdata[0] + "<br>→ " + point.target.customdata[0] : point.customdata[0]);
    tip.lastChild.textContent = plain(link ? point.customdata : point.customdata[1]);
    tip.hidden = false;
    put(hovered.event);
  }
  function hush() { tip.hidden = true; }
  figure.addEventListener("mousemove", function (event) { if (!tip.hidden) { put(event); } });
  frame.addEventListener("scroll", hush);
  frame.addEventListener("mouseleave", hush);
  function show() {
    var i = Number(select.value), view = JSON.parse(views[i].replace(/[\ue000-\uf8ff]/g,
      function (c) { return phrases[c.charCodeAt(0) - 0xe000]; }));
    view.layout.width = Math.max(view.layout.width, frame.clientWidth);
    view.data.forEach(function (trace) {
      trace.node.hoverinfo = trace.link.hoverinfo = "none";
    });
    hush();
    Plotly.purge(figure);
    Plotly.newPlot(figure, view.data, view.layout, config).then(function () {
      figure.on("plotly_hover", tell);
      figure.on("plotly_unhover", hush);
      frame.scrollLeft = view.scroll;
      figure.dataset.layers = select.options[i].textContent;
    });
    earlier.disabled = i === 0;
    later.disabled = i === views.length - 1;
  }
  function step(by) {
    return function () { select.selectedIndex += by; show(); };
  }
  select.addEventListener("change", show);
  earlier.addEventListener("click", step(-1));
  later.addEventListener("click", step(1));
  show();
})();
"""
