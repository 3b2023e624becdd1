// @ts-check
// Finds the node or edge under the mouse and the neighbours of a node; builds the tooltips.

/** The node or the edge under a point of the figure, in px.
 * @param {Model} model @param {View} view @param {Drawn} drawn @param {number} x @param {number} y
 * @returns {{node: number, edge: number}} Each -1 if there is none. */
function pick(model, view, drawn, x, y) {
  const depth = model.depths[view.depth], { scale } = drawn, nothing = { node: -1, edge: -1 };
  const px = x - drawn.left, py = y - drawn.top;
  if (px < -4 || py < -4 || px > drawn.width + 4 || py > drawn.height + 4) return nothing;
  let best = 1, node = -1;
  for (const slot of drawn.slots) {
    const [mx, my] = nodeMiddle(depth, slot), [w, h] = nodeSize(depth, slot, scale);
    const dx = Math.abs((mx - scale.x0) * scale.sx - px) / (w + 4);
    const dy = Math.abs((my - scale.y0) * scale.sy - py) / (h + 4);
    // Of two nodes at one place, take the later one, which is drawn on top.
    if (Math.max(dx, dy) <= best) {
      best = Math.max(dx, dy);
      node = depth.node[slot];
    }
  }
  if (node >= 0) return { node, edge: -1 };
  let edge = -1, nearest = 4;
  drawn.edges.forEach((e, k) => {
    const line = drawn.lines[k], a = line[0], b = line[line.length - 1], room = 6 + drawn.widths[k] / 2;
    if (px < a[0] - room || px > b[0] + room) return;
    if (py < Math.min(a[1], b[1]) - room || py > Math.max(a[1], b[1]) + room) return;
    const far = distance(line, px, py) - drawn.widths[k] / 2;
    if (far < nearest) {
      nearest = far;
      edge = e;
    }
  });
  return { node: -1, edge };
}

/** The nodes at the other ends of the drawn edges of the chosen node, the strongest edge first.
 * @param {Model} model @param {View} view @param {Drawn} drawn @param {boolean} back */
function along(model, view, drawn, back) {
  const edges = model.depths[view.depth].edges, near = back ? edges.target : edges.source;
  const far = back ? edges.source : edges.target;
  const size = (/** @type {number} */ e) => (edges.strength && edges.strength.length ? edges.strength[e]
    : Math.abs(edges.score[e] || 0));
  return drawn.edges.filter((e) => near[e] === view.selected).sort((a, b) => size(b) - size(a))
    .map((e) => far[e]);
}

/** The drawn nodes above and below the chosen one, with itself.
 * @param {Model} model @param {View} view @param {Drawn} drawn */
function column(model, view, drawn) {
  const depth = model.depths[view.depth], own = depth.slot[view.selected];
  if (own < 0) return [view.selected];
  const [x] = nodeMiddle(depth, own);
  return drawn.slots.filter((slot) => slot === own || Math.abs(nodeMiddle(depth, slot)[0] - x) < NODE_WIDTH)
    .sort((a, b) => nodeMiddle(depth, a)[1] - nodeMiddle(depth, b)[1] || a - b)
    .map((slot) => depth.node[slot]);
}

/** The node that a click on an edge chooses: in the route the head, elsewhere the end of the edge.
 * @param {Model} model @param {View} view @param {number} edge */
function edgeNode(model, view, edge) {
  const edges = model.depths[view.depth].edges;
  return view.depth === "route" && edges.kind[edge] === 2 ? edges.source[edge] : edges.target[edge];
}

/** @param {Model} model @param {number} i @returns {HTMLElement[]} */
function nodeTip(model, i) {
  const n = model.nodes, lines = [make("b", {}, [token(nodeName(model, i) + " · " + nodeTitle(model, i))])];
  const say = (/** @type {string} */ text) => lines.push(make("div", {}, [token(text)]));
  if (FEATURES && featureOf(model, i)) featureFacts(model, i).forEach(([name, value]) => say(name + ": " + value));
  if (n.token[i] >= 0) say("made by " + madeBy(model, i));
  if (SEGMENTS && isLater(model, i)) say(LATER);
  for (const side of /** @type {("top"|"bottom")[]} */ (["top", "bottom"])) {
    lines.push(make("div", {}, [make("span", { text: side + ": " }),
      ...reads(model, i, side).flatMap((read) => [token(read.text), make("span", { text: " " + number(read.prob) + "  " })])]));
  }
  lines.push(make("div", {}, [make("span", { text: "target " }), token(model.graph.target),
    make("span", { text: ": rank " + n.rank[i] + " of 0.." + (model.graph.vocabulary - 1) + ", p = " + number(n.prob[i]) })]));
  say("norm " + number(n.norm[i]) + " · entropy " + number(n.entropy[i]) + " nats"
    + (n.coefficient[i] === null ? "" : " · coefficient " + number(n.coefficient[i])));
  if (GRADIENTS) lines.push(...gradientTip(model, i));
  if (LENS) say("read by " + readBy(model, i));
  if (ROLES && n.roles[i]) say("roles: " + rolesOf(model, i).join(", "));
  if (n.hook[i] >= 0) say(n.hooks[n.hook[i]] + "[" + n.index[i].join(", ") + "]");
  return lines;
}

/** @param {Model} model @param {View} view @param {number} edge @returns {HTMLElement[]} */
function edgeTip(model, view, edge) {
  const edges = model.depths[view.depth].edges, s = edges.source[edge], t = edges.target[edge];
  const line = (/** @type {string} */ text) => make("div", {}, [token(text)]);
  if (view.depth !== "route") {
    return [make("b", {}, [token(nodeName(model, s) + " → " + nodeName(model, t))]),
      line(edgeFact(model, edges.kind[edge], edges.score[edge], t))];
  }
  const via = edges.via ? edges.via[edge] : -1;
  if (via < 0) return [make("b", { text: nodeName(model, s) + " → " + nodeName(model, t) }), line("residual stream")];
  const n = model.nodes, head = edges.kind[edge] === 1 ? t : s;
  const where = kindOf(model, head) === "head" ? positionOf(model, head) : model.graph.position;
  return [
    make("b", {}, [token(nodeName(model, head) + " at " + tokenAt(model, where) + " reads " + tokenAt(model, n.key[via]))]),
    line("attention " + number(n.coefficient[via]) + "; the memory says " + promoted(model, via)
      + ", target rank " + promotedRank(model, via)),
    line("adds " + number((edges.score[edge] || 0) * 100) + " % of the stream's norm"),
  ];
}
