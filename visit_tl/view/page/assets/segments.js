// @ts-check
// Memories of later tokens, which a head sees because of a segment; only pages of graphs with segments
// contain this file, and only they contain the lines of other files that begin with `if (SEGMENTS`.

const SEGMENTS = true;
const LATER = "a later token, seen because both are in one segment";
const DASH = 9, SPACE = 5; // px along an edge

/** The last position that a node sees. Pages without segments call `positionOf` instead.
 * @param {Model} model @param {number} i */
function lastSeen(model, i) {
  const here = positionOf(model, i);
  const own = model.graph.segments.find((/** @type {number[]} */ span) => span[0] <= here && here < span[1]);
  return own ? own[1] - 1 : here;
}

/** Whether a node is the key or the value of a later token. @param {Model} model @param {number} i */
function isLater(model, i) { return model.nodes.key[i] > positionOf(model, i); }

/** Whether an edge is of the memory of a later token. @param {Model} model @param {Depth} depth @param {number} e */
function isLaterEdge(model, depth, e) {
  const { source, target, via } = depth.edges;
  if (via && via[e] >= 0) return isLater(model, via[e]);
  return isLater(model, source[e]) || isLater(model, target[e]);
}

/** Draw an edge dashed if it is of the memory of a later token; false, and nothing drawn, if not.
 * @param {Path} path @param {Model} model @param {Depth} depth @param {number} e
 * @param {number[][]} line On the screen. @param {number} width @param {Scale} scale */
function dashLater(path, model, depth, e, line, width, scale) {
  if (!isLaterEdge(model, depth, e)) return false;
  for (const dash of dashes(line, DASH, SPACE)) addLine(path, dash, width, scale, !depth.role.length);
  return true;
}

/** The dashes of a line: every second piece of it, as points.
 * @param {number[][]} line @param {number} dash @param {number} space @returns {number[][][]} */
function dashes(line, dash, space) {
  const found = [], first = line[0];
  let on = true, left = dash, piece = [first], last = first;
  for (const end of line.slice(1)) {
    for (;;) {
      const dx = end[0] - last[0], dy = end[1] - last[1], size = Math.hypot(dx, dy);
      if (size < left) break;
      last = [last[0] + dx * left / size, last[1] + dy * left / size];
      if (on) found.push([...piece, last]);
      on = !on;
      left = on ? dash : space;
      piece = [last];
    }
    left -= Math.hypot(end[0] - last[0], end[1] - last[1]);
    last = end;
    piece.push(end);
  }
  if (on && piece.length > 1) found.push(piece);
  return found;
}

/** The tooltip of an edge. Pages without segments call `edgeTip` instead.
 * @param {Model} model @param {View} view @param {number} edge @returns {HTMLElement[]} */
function edgeWords(model, view, edge) {
  const lines = edgeTip(model, view, edge);
  return isLaterEdge(model, model.depths[view.depth], edge) ? [...lines, make("div", { text: LATER })] : lines;
}
