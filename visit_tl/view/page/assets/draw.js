// @ts-check
// Builds the picture: polygons, grouped by colour, and the labels that fit.

/**
 * @typedef {Object} Drawn What the mouse and the keys need from the picture.
 * @property {Scale} scale
 * @property {number[]} slots
 * @property {number[]} edges
 * @property {number[][][]} lines The middle line of every edge, on the screen.
 * @property {number[]} widths
 * @property {number} left Px from the left edge of the figure to the picture.
 * @property {number} top
 * @property {number} width
 * @property {number} height
 * @property {{width: number, height: number}} size Of the whole figure.
 * @property {number} allNodes
 * @property {number} allEdges
 */

const MOST_LABELS = 400;
const MANY = 1200;
const BASELINE = 3; // px from the middle of a label down to its baseline

/** Everything that is painted for one picture.
 * @param {Model} model @param {View} view @param {any} colours
 * @param {{x0: number, x1: number, y0: number, y1: number}} seen
 * @param {{width: number, height: number}} size Of the figure, in px.
 * @param {{marks: Uint8Array|null, way: number[]}} lit @param {Set<number>} hits Found by search.
 * @returns {{painted: Picture, drawn: Drawn}}
 */
function picture(model, view, colours, seen, size, lit, hits) {
  const depth = model.depths[view.depth], route = view.depth === "route";
  const margin = { ...(route ? MARGIN.route : MARGIN.flow), r: 8, b: 4 };
  if (route) margin.l = Math.min(margin.l, size.width / 4);
  const width = Math.max(size.width - margin.l - margin.r, 50);
  const height = Math.max(size.height - margin.t - margin.b, 50);
  const scale = {
    x0: seen.x0, y0: seen.y0, sx: width / (seen.x1 - seen.x0), sy: height / (seen.y1 - seen.y0),
  };
  const kept = new Set([...(view.selected < 0 ? [] : [view.selected]), ...lit.way]);
  const chosen = choose(model, view, kept);
  const edges = edgeShapes(model, view, colours, chosen.edges, scale, { width }, lit);
  const nodes = nodeShapes(model, view, colours, chosen.slots, scale, { width }, lit, hits);
  const drawn = {
    scale, slots: chosen.slots, edges: chosen.edges, lines: edges.lines, widths: edges.widths,
    left: margin.l, top: margin.t, width, height, size, allNodes: chosen.allNodes, allEdges: chosen.allEdges,
  };
  const painted = {
    ...size, plot: { left: margin.l, top: margin.t, width, height }, scale, colours,
    shapes: [...edges.shapes, ...nodes],
    labels: labels(model, view, chosen.slots, scale, { width, height }, lit, hits),
    ...surroundings(model, view, colours, seen, scale),
  };
  return { painted, drawn };
}

/** @param {Map<string, Path>} groups @param {string} colour @returns {Path} */
function group(groups, colour) {
  let path = groups.get(colour);
  if (!path) groups.set(colour, path = emptyPath());
  return path;
}

/** The colour of an edge. @param {Model} model @param {Depth} depth @param {number} e @param {any} colours */
function edgeColour(model, depth, e, colours) {
  const { kind, source, score, via } = depth.edges;
  if (depth.role.length) {
    return kind[e] === 0 || !via ? colours.stream : colours.arcs[rankBin(model, via[e], colours)];
  }
  if (model.words.edges[kind[e]] === "coefficient") {
    return (score[e] || 0) < 0 ? colours.negative : colours.positive;
  }
  const entropy = model.nodes.entropy[source[e]], vague = colours.greys.length - 1;
  if (entropy === null) return colours.greys[vague];
  const share = entropy / Math.log(Math.max(model.graph.vocabulary, 2));
  return colours.greys[Math.round(Math.min(Math.max(share, 0), 1) * vague)];
}

/** @param {Model} model @param {number} i @param {any} colours */
function rankBin(model, i, colours) {
  return Math.round(rankPlace(promotedRank(model, i), model.graph.vocabulary) * (colours.ranks.length - 1));
}

/** @param {Model} model @param {View} view @param {any} colours @param {number[]} edges
 * @param {Scale} scale @param {{width: number}} size @param {{marks: Uint8Array|null, way: number[]}} lit */
function edgeShapes(model, view, colours, edges, scale, size, lit) {
  const depth = model.depths[view.depth], ends = edgeEnds(depth, edges, scale);
  const route = view.depth === "route";
  const lines = [], widths = [], room = sight(size), many = edges.length > MANY;
  const faint = emptyPath(), way = emptyPath(), groups = new Map();
  const onWay = new Set(lit.way);
  for (const e of edges) {
    const { from, to, width } = /** @type {any} */ (ends.get(e));
    const line = curve(from, to), s = depth.edges.source[e], t = depth.edges.target[e];
    lines.push(line);
    widths.push(width);
    if (to[0] < room.left || from[0] > room.right) continue;
    if (onWay.has(s) && onWay.has(t)) addLine(way, line, Math.min(width, route ? 3 : 2) + (route ? 3 : 0.5), scale, false);
    if (SEGMENTS && dashLater(isLit(lit, s, t) ? group(groups, edgeColour(model, depth, e, colours)) : faint, model, depth, e, line, width, scale)) continue;
    addLine(isLit(lit, s, t) ? group(groups, edgeColour(model, depth, e, colours)) : faint, line, width, scale, !route);
  }
  const bright = [...groups].map(([colour, path]) => ({ path, colour, many }));
  const rim = { path: way, colour: colours.way, many };
  // In the route, the way is drawn as a rim around its arcs; elsewhere as a line on the wider edges.
  const shapes = [{ path: faint, colour: colours.faintEdge, many }, ...(route ? [rim, ...bright] : [...bright, rim])];
  return { shapes, lines, widths };
}

/** How far to draw beyond the window, in px: as far as one drag can move the picture.
 * @param {{width: number}} size */
function sight(size) { return { left: -size.width, right: 2 * size.width }; }

/** Whether an edge is lit: both ends lead to the chosen node, or both are reached from it.
 * @param {{marks: Uint8Array|null}} lit @param {number} s @param {number} t */
function isLit(lit, s, t) {
  return !lit.marks || (lit.marks[s] & lit.marks[t]) > 0;
}

/** @param {Model} model @param {View} view @param {any} colours @param {number[]} slots
 * @param {Scale} scale @param {{width: number}} size
 * @param {{marks: Uint8Array|null, way: number[]}} lit @param {Set<number>} hits */
function nodeShapes(model, view, colours, slots, scale, size, lit, hits) {
  const depth = model.depths[view.depth], groups = new Map(), onWay = new Set(lit.way);
  const faint = emptyPath(), ring = emptyPath(), found = emptyPath();
  const rim = emptyPath(), hollow = emptyPath(), rims = new Map();
  const room = sight(size), many = slots.length > MANY;
  for (const slot of slots) {
    const i = depth.node[slot], x = (nodeMiddle(depth, slot)[0] - scale.x0) * scale.sx;
    if (x < room.left || x > room.right) continue;
    if (hits.has(i)) addNode(found, depth, slot, scale, 3.5);
    if (i === view.selected) addNode(ring, depth, slot, scale, 4.5);
    if (onWay.has(i)) addNode(rim, depth, slot, scale, 2);
    const bright = !lit.marks || lit.marks[i] > 0;
    const colour = colours.ranks[rankBin(model, i, colours)];
    if (ROLES && bright) addRim(rims, model, depth, slot, scale, colours);
    addNode(bright ? group(groups, colour) : faint, depth, slot, scale, 0);
    if (depth.role[slot] === 2) addNode(hollow, depth, slot, scale, -2);
  }
  /** @type {[Path, string][]} */
  const layers = [[faint, colours.faintNode], [found, colours.found], [ring, colours.text], [rim, colours.way]];
  for (const [colour, path] of rims) layers.push([path, colour]);
  for (const [colour, path] of groups) layers.push([path, colour]);
  layers.push([hollow, colours.background]);
  return layers.map(([path, colour]) => ({ path, colour, many }));
}

/** @param {Model} model @param {View} view @param {number[]} slots
 * @param {Scale} scale @param {{width: number, height: number}} size
 * @param {{marks: Uint8Array|null, way: number[]}} lit @param {Set<number>} hits @returns {Words[]} */
function labels(model, view, slots, scale, size, lit, hits) {
  const depth = model.depths[view.depth], route = view.depth === "route";
  const onWay = new Set(lit.way), taken = [];
  /** @type {Label[]} */
  const wanted = [];
  for (const slot of slots) {
    const i = depth.node[slot], [mx, my] = nodeMiddle(depth, slot);
    const [w, h] = nodeSize(depth, slot, scale);
    const x = (mx - scale.x0) * scale.sx, y = (my - scale.y0) * scale.sy;
    if (x < -20 || x > size.width || y < -20 || y > size.height + 20) continue;
    const state = route && depth.role[slot] === 0;
    const inline = state && kindOf(model, i) === "logits";
    taken.push({ left: x - w, right: x + w, top: y - h, bottom: y + h });
    if (lit.marks && !lit.marks[i]) continue;
    const weight = depth.strength[slot] + (i === view.selected ? 8 : 0) + (onWay.has(i) ? 4 : 0)
      + (inline ? 9 : 0) + (hits.has(i) ? 3 : 0) + (state ? changed(model, depth, slot) : 0)
      + (route && depth.role[slot] === 1 && promotedRank(model, i) < FIRST_RANKS ? 2 : 0);
    const head = kindOf(model, i) === "head";
    const short = head ? (route ? nodeName(model, i).split("@")[0] : "H" + model.nodes.head[i])
      : kindOf(model, i) === "expert" ? expertName(model, i) : "";
    // In the route, a head is drawn between two columns, so its label has the layer too.
    let text = route && head ? short + " " + clip(promoted(model, i), 14) : clip(shortLabel(model, i), 26);
    if (ROLES) text = withRole(model, i, text);
    const wide = textWidth(text), near = i === view.selected ? 7 : 4;
    const right = [x + w + near, y], left = [x - w - near - wide, y];
    const under = [x + w - wide, y + h + 9], above = [x - 4, y - 13], middle = [x - wide / 2, y - 13];
    wanted.push({
      text, weight, must: i === view.selected, short, places: !route ? [right, ...(lane(depth, slot) ? [under] : [])] : inline ? [[x - wide / 2, y - 13], [x - wide + 8, y - 13]]
        : state ? [above] : [right, left, middle],
    });
  }
  const chosen = placeLabels(wanted, size.width, size.height, taken, MOST_LABELS);
  return chosen.map((put) => ({ x: put.x, y: put.y + BASELINE, lines: [[{ text: put.text }]] }));
}

/** The weight of the label of a state in the route: larger if it promotes another token than the
 * state before.
 * @param {Model} model @param {Depth} depth @param {number} slot */
function changed(model, depth, slot) {
  const i = depth.node[slot], before = depth.before.get(i);
  if (before === undefined) return 1;
  return promoted(model, before) === promoted(model, i) ? -0.5 : 0.5;
}
