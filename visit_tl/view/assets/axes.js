// @ts-check
// What part of a picture is seen, and the words at its edges.

const MARGIN = { route: { l: 128, t: 30 }, flow: { l: 34, t: 46 } };

/** @param {Model} model @param {View} view */
function pictureOf(model, view) {
  const pictures = model.depths[view.depth].pictures;
  return pictures.find((picture) => picture.position === view.position) || pictures[0];
}

/** The part of a picture that its layers take. @param {Model} model @param {View} view */
function extent(model, view) {
  const picture = pictureOf(model, view), [from, to] = view.layers[view.depth];
  if (view.depth === "route") {
    const end = to >= model.graph.layers[1];
    const columns = picture.columns.filter((c) => (c[2] >= from && c[2] <= to) || (end && (c[2] < 0 || c[2] > to)));
    const first = columns.length ? columns[0][0] : 0;
    const last = columns.length ? columns[columns.length - 1][0] : picture.width;
    return { x0: first - 20, x1: last + (end ? 70 : 44), y0: -4, y1: picture.height + 4 };
  }
  const inside = picture.columns.filter((c) => c[2] >= from && c[2] <= to);
  const after = picture.columns.find((c) => c[2] > to && inside.length && c[0] > inside[0][0]);
  return {
    x0: (inside.length ? inside[0][0] : 0) - 8, x1: after ? after[0] : picture.width,
    y0: 0, y1: picture.height,
  };
}

/** Ticks that do not touch: the first of every block before the others.
 * @template {{at: number, first: boolean, wide: number}} Tick
 * @param {Tick[]} ticks @param {number} sx */
function fitting(ticks, sx) {
  /** @type {Tick[]} */
  const shown = [];
  for (const first of [true, false]) {
    for (const tick of ticks) {
      const touches = shown.some((other) => Math.abs(other.at - tick.at) * sx < (other.wide + tick.wide) / 2 + 4);
      if (tick.first === first && !touches) shown.push(tick);
    }
  }
  return shown.sort((a, b) => a.at - b.at);
}

/** @param {Model} model @param {View} view @param {any} colours @param {any} seen @param {any} size
 * @param {any} margin @param {Scale} scale */
function layoutOf(model, view, colours, seen, size, margin, scale) {
  const whole = pictureOf(model, view), route = view.depth === "route", depth = model.depths[view.depth];
  const columns = whole.columns.filter((c) => c[0] >= seen.x0 - NODE_WIDTH && c[0] <= seen.x1);
  const middle = route ? 0 : NODE_WIDTH / 2;
  let last = -2;
  const named = columns.map(([left, words, layer]) => {
    const first = layer !== last && layer >= 0;
    last = layer;
    return { at: left + middle, text: words, layer, first };
  });
  const block = (/** @type {any} */ t) => "block " + t.layer;
  const all = named.map((t) => ({ ...t, wide: textWidth(t.first && !route ? block(t) : t.text) }));
  const shown = fitting(all, scale.sx);
  // Too far away for columns: the blocks alone.
  const far = !route && all.some((t) => t.first && !shown.includes(t));
  const ticks = shown.filter((t) => t.first || !far).map((t) => ({
    at: t.at, text: route ? t.text : (t.first ? "<b>" + block(t) + "</b>" : "") + (far ? "" : "<br>" + t.text),
  }));
  const font = { size: 12, color: colours.quiet };
  const rows = (route ? depth.rows || [] : []).filter((row) => row[1] >= seen.y0 && row[1] <= seen.y1);
  const step = Math.max(1, Math.ceil(14 / (30 * scale.sy)));
  const bands = route ? [] : named.filter((t) => t.first && t.layer % 2 === 0).map((t) => {
    const after = named.find((other) => other.at > t.at && other.layer !== t.layer);
    return {
      type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 },
      x0: t.at - 12, x1: after ? after.at - 12 : seen.x1, fillcolor: colours.band,
    };
  });
  const axis = { showgrid: false, zeroline: false, ticks: "", tickfont: font, tickangle: 0, ticklabeloverflow: "allow" };
  return {
    template: {}, width: size.width, height: size.height, margin, dragmode: "pan", hovermode: false,
    paper_bgcolor: colours.background, plot_bgcolor: colours.background, showlegend: false,
    font: { family: colours.font, size: 12, color: colours.text }, shapes: bands,
    xaxis: {
      ...axis, range: [seen.x0, seen.x1], side: "top", tickmode: "array",
      tickvals: ticks.map((t) => t.at), ticktext: ticks.map((t) => t.text),
    },
    yaxis: {
      ...axis, range: [seen.y1, seen.y0], tickmode: "array", showticklabels: route,
      tickvals: rows.filter((_, k) => k % step === 0).map((row) => row[1]),
      ticktext: rows.filter((_, k) => k % step === 0).map((row) => {
        const token = forPlotly(clip(model.graph.tokens[row[0]] || "?", 12));
        return (row[0] === model.graph.position ? "<b>" + token + "</b>" : token) + " " + row[0];
      }),
    },
  };
}
