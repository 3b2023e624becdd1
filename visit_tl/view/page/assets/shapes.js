// @ts-check
// Nodes and edges as polygons, in the coordinates of the picture; sizes are in px on the screen.

/**
 * @typedef {Object} Scale From the picture to the screen.
 * @property {number} x0 Left edge of what is seen, in the picture.
 * @property {number} y0 Top edge.
 * @property {number} sx Px on the screen for one px of the picture.
 * @property {number} sy
 *
 * @typedef {{x: number[], y: number[], starts: number[]}} Path Closed polygons, one after the other, all
 *   with the same sense of rotation, and the index where each starts.
 */

const NODE_WIDTH = 10;
const LANE_TOP = 6; // px, as in `layout.py`

/** @returns {Path} */
function emptyPath() { return { x: [], y: [], starts: [] }; }

/** Half the width and half the height of a node on the screen, in px.
 * @param {Depth} depth @param {number} slot @param {Scale} scale */
function nodeSize(depth, slot, scale) {
  if (depth.role.length) return depth.role[slot] === 1 ? [5.5, 5.5] : [4.5, 4.5];
  return [Math.min(Math.max(NODE_WIDTH * scale.sx, 4), 12) / 2,
    Math.max(depth.height[slot] * scale.sy, 3) / 2];
}

/** The middle of a node, in the picture. @param {Depth} depth @param {number} slot */
function nodeMiddle(depth, slot) {
  if (depth.role.length) return [depth.x[slot], depth.y[slot]];
  return [depth.x[slot] + NODE_WIDTH / 2, depth.y[slot] + depth.height[slot] / 2];
}

/** Whether a node is in the lane at the top. @param {Depth} depth @param {number} slot */
function lane(depth, slot) { return depth.y[slot] <= LANE_TOP; }

/** @param {Path} path @param {Depth} depth @param {number} slot @param {Scale} scale
 * @param {number} more Px to add on every side. */
function addNode(path, depth, slot, scale, more) {
  const [x, y] = nodeMiddle(depth, slot), [w, h] = nodeSize(depth, slot, scale);
  path.starts.push(path.x.length);
  const dx = (w + more) / scale.sx, dy = (h + more) / scale.sy;
  const role = depth.role.length ? depth.role[slot] : -1;
  if (role === 0 || role === 2) {
    for (let k = 0; k <= 8; k++) {
      path.x.push(x + dx * Math.cos(k * Math.PI / 4));
      path.y.push(y + dy * Math.sin(k * Math.PI / 4));
    }
  } else if (role === 1) {
    path.x.push(x - dx, x, x + dx, x, x - dx);
    path.y.push(y, y - dy, y, y + dy, y);
  } else {
    path.x.push(x - dx, x + dx, x + dx, x - dx, x - dx);
    path.y.push(y - dy, y - dy, y + dy, y + dy, y - dy);
  }
}

/**
 * The middle line of an edge on the screen, as points; a smooth step from left to right.
 * @param {number[]} a Start, on the screen. @param {number[]} b End.
 * @returns {number[][]}
 */
function curve(a, b) {
  const points = [], bend = (b[0] - a[0]) / 2, rise = Math.abs(b[1] - a[1]);
  // A level or a short line needs only two points.
  const size = rise + Math.abs(bend);
  const parts = rise < 1 || size < 16 ? 1 : Math.min(Math.max(Math.ceil(size / 9), 3), 12);
  for (let k = 0; k <= parts; k++) {
    const t = k / parts, u = 1 - t;
    points.push([
      u * u * u * a[0] + 3 * u * u * t * (a[0] + bend) + 3 * u * t * t * (b[0] - bend) + t * t * t * b[0],
      (u * u * u + 3 * u * u * t) * a[1] + (3 * u * t * t + t * t * t) * b[1],
    ]);
  }
  return points;
}

/** A line of some width as a polygon. @param {Path} path @param {number[][]} points On the screen.
 * @param {number} width @param {Scale} scale @param {boolean} upright Whether the width is measured
 * vertically, as in a Sankey diagram, where a steep line is narrower, but not made narrower than 1.3 px. */
function addLine(path, points, width, scale, upright) {
  const left = [], right = [];
  path.starts.push(path.x.length);
  for (let k = 0; k < points.length; k++) {
    const a = points[Math.max(k - 1, 0)], b = points[Math.min(k + 1, points.length - 1)];
    const dx = b[0] - a[0], dy = b[1] - a[1], size = Math.hypot(dx, dy) || 1;
    const wide = upright ? Math.max(width * Math.abs(dx) / size, Math.min(width, 1.3)) : width;
    const nx = -dy / size * wide / 2, ny = dx / size * wide / 2;
    left.push([points[k][0] + nx, points[k][1] + ny]);
    right.push([points[k][0] - nx, points[k][1] - ny]);
  }
  for (const [x, y] of [...left, ...right.reverse(), left[0]]) {
    path.x.push(scale.x0 + x / scale.sx);
    path.y.push(scale.y0 + y / scale.sy);
  }
}

/**
 * Where every shown edge starts and ends, on the screen, and how wide it is there. Edges of a node
 * are stacked in the order of their other ends, so that neighbours do not cross.
 * @param {Depth} depth @param {number[]} edges @param {Scale} scale
 * @returns {Map<number, {from: number[], to: number[], width: number}>}
 */
function edgeEnds(depth, edges, scale) {
  const { source, target, width, score } = depth.edges, found = new Map();
  const route = depth.role.length > 0;
  const most = Math.max(...edges.map((e) => route && depth.edges.kind[e] ? score[e] || 0 : 0), 1e-9);
  /** @type {{[end: string]: Map<number, number[]>}} */
  const at = { from: new Map(), to: new Map() };
  for (const e of edges) {
    const s = depth.slot[source[e]], t = depth.slot[target[e]];
    const [ax, ay] = nodeMiddle(depth, s), [bx, by] = nodeMiddle(depth, t);
    const own = route ? (depth.edges.kind[e] ? 1 + 5 * (score[e] || 0) / most : 1.6)
      : (width ? width[e] : 1);
    found.set(e, {
      from: [(ax - scale.x0) * scale.sx + (route ? 0 : nodeSize(depth, s, scale)[0]), (ay - scale.y0) * scale.sy],
      to: [(bx - scale.x0) * scale.sx - (route ? 0 : nodeSize(depth, t, scale)[0]), (by - scale.y0) * scale.sy],
      width: route ? own : Math.max(own * scale.sy, 0.8),
    });
    for (const [end, node] of /** @type {[string, number][]} */ ([["from", source[e]], ["to", target[e]]])) {
      const list = at[end].get(node);
      if (list) list.push(e); else at[end].set(node, [e]);
    }
  }
  if (route) return found;
  for (const [end, other] of [["from", "to"], ["to", "from"]]) {
    for (const list of at[end].values()) {
      const middle = new Map(list.map((e) => [e, found.get(e)[other][1]]));
      list.sort((a, b) => middle.get(a) - middle.get(b) || a - b);
      const slot = depth.slot[end === "from" ? source[list[0]] : target[list[0]]];
      // The residual stream is a lane with a straight top; all other edges fan out from the middle.
      let top = lane(depth, slot) ? -nodeSize(depth, slot, scale)[1]
        : -list.reduce((sum, e) => sum + found.get(e).width, 0) / 2;
      for (const e of list) {
        const edge = found.get(e);
        edge[end] = [edge[end][0], edge[end][1] + top + edge.width / 2];
        top += edge.width;
      }
    }
  }
  return found;
}

/** Px from a point to a line of points. @param {number[][]} points @param {number} x @param {number} y */
function distance(points, x, y) {
  let best = Infinity;
  for (let k = 1; k < points.length; k++) {
    const [ax, ay] = points[k - 1], [bx, by] = points[k];
    const dx = bx - ax, dy = by - ay, size = dx * dx + dy * dy || 1;
    const t = Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / size, 0), 1);
    best = Math.min(best, Math.hypot(x - ax - t * dx, y - ay - t * dy));
  }
  return best;
}
