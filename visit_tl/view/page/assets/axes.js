// @ts-check
// Which part of a picture is visible, and the labels at its edges.

const OVER = 3, BESIDE = 1; // px from words to the picture
const MARGIN = { route: { l: 128, t: 30 }, flow: { l: 34, t: 46 } };

/** @param {Model} model @param {View} view */
function pictureOf(model, view) {
  const pictures = model.depths[view.depth].pictures;
  return pictures.find((picture) => picture.position === view.position) || pictures[0];
}

/** The part of a picture that shows the chosen layers. @param {Model} model @param {View} view */
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

/** Ticks that do not touch; the first tick of every block has priority.
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

/** The bands behind a picture, and the labels above and beside it.
 * @param {Model} model @param {View} view @param {any} colours @param {any} seen @param {Scale} scale
 * @returns {{bands: {left: number, width: number, colour: string}[], columns: Words[], rows: Words[]}} */
function surroundings(model, view, colours, seen, scale) {
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
  // Too small for the names of columns: show only those of blocks.
  const far = !route && all.some((t) => t.first && !shown.includes(t));
  const across = (/** @type {number} */ x) => (x - scale.x0) * scale.sx;
  const words = shown.filter((t) => t.first || !far).map((t) => {
    const lines = route ? [[{ text: t.text }]]
      : [...(t.first ? [[{ text: block(t), bold: true }]] : []), ...(far ? [] : [[{ text: t.text }]])];
    return { x: across(t.at), y: -OVER - (lines.length - 1) * LEADING, lines };
  });
  const rows = (route ? depth.rows || [] : []).filter((row) => row[1] >= seen.y0 && row[1] <= seen.y1);
  const step = Math.max(1, Math.ceil(14 / (30 * scale.sy)));
  const bands = route ? [] : named.filter((t) => t.first && t.layer % 2 === 0).map((t) => {
    const after = named.find((other) => other.at > t.at && other.layer !== t.layer);
    const left = across(t.at - 12), right = across(after ? after.at - 12 : seen.x1);
    return { left, width: Math.max(right - left, 0), colour: colours.band };
  });
  return {
    bands, columns: words,
    rows: rows.filter((_, k) => k % step === 0).map((row) => {
      const token = { text: clip(model.graph.tokens[row[0]] || "?", 12), bold: row[0] === model.graph.position };
      return { x: -BESIDE, y: (row[1] - scale.y0) * scale.sy + 4, lines: [[token, { text: " " + row[0] }]] };
    }),
  };
}
