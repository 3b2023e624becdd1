// @ts-check
// Paths through the graph, here called ways: what leads to a node and from it, and the best paths.

/**
 * Marks every ancestor (1), every descendant (2) and the node itself (3).
 * @param {Model} model @param {number} start @returns {Uint8Array}
 */
function reach(model, start) {
  const marks = new Uint8Array(model.count);
  const { source, target } = model.edges;
  for (const [bit, edges, end] of /** @type {[number, number[][], number[]][]} */ (
    [[1, model.into, source], [2, model.outOf, target]])) {
    const waiting = [start];
    while (waiting.length) {
      for (const edge of edges[/** @type {number} */ (waiting.pop())]) {
        if (!marks[end[edge]]) {
          marks[end[edge]] = bit;
          waiting.push(end[edge]);
        }
      }
    }
  }
  marks[start] = 3;
  return marks;
}

/**
 * The worth of each edge in a way: the logarithm of its share among the edges of its kind into its
 * target. For an edge from a head or a memory, the share is first multiplied by how near that node
 * brings the target to the top. A way enters a memory from the state that the memory was made from.
 * It enters from the key, which only says how much of the memory is read, if that state is not in
 * the graph.
 * @param {Model} model @returns {Float64Array}
 */
function worths(model) {
  const { source, target, kind, score } = model.edges;
  const totals = new Map(), found = new Float64Array(source.length);
  const size = (/** @type {number} */ e) => Math.abs(score[e] || 0);
  for (let e = 0; e < source.length; e++) {
    const key = target[e] * 4 + kind[e];
    totals.set(key, (totals.get(key) || 0) + size(e));
  }
  for (let e = 0; e < source.length; e++) {
    const total = totals.get(target[e] * 4 + kind[e]), from = kindOf(model, source[e]);
    if (from === "key" && model.into[target[e]].length > 1) { found[e] = -Infinity; continue; }
    const carries = from === "value" || from === "head"
      ? 1 - rankPlace(promotedRank(model, source[e]), model.graph.vocabulary) : 1;
    found[e] = Math.log((total > 0 ? size(e) / total : 0) * carries);
  }
  return found;
}

/**
 * The best way from every node to one. Nodes are in the order of the forward pass, so one pass
 * finds them all.
 * @param {Model} model @param {Float64Array} worth @param {number} end
 * @returns {{best: Float64Array, next: Int32Array}} For every node, the sum of worths and the edge to take.
 */
function waysTo(model, worth, end) {
  const best = new Float64Array(model.count).fill(-Infinity);
  const next = new Int32Array(model.count).fill(-1);
  best[end] = 0;
  for (let node = end; node >= 0; node--) {
    if (best[node] === -Infinity) continue;
    for (const edge of model.into[node]) {
      const source = model.edges.source[edge], value = best[node] + worth[edge];
      if (value > best[source]) {
        best[source] = value;
        next[source] = edge;
      }
    }
  }
  return { best, next };
}

/** The nodes of a way, its ends included.
 * @param {Model} model @param {{next: Int32Array}} ways @param {number} start @returns {number[]} */
function follow(model, ways, start) {
  const nodes = [start];
  while (ways.next[start] >= 0) {
    start = model.edges.target[ways.next[start]];
    nodes.push(start);
  }
  return nodes;
}

/** For each position, the state with which the graph begins there.
 * @param {Model} model @returns {Map<number, number>} */
function inputs(model) {
  const found = new Map();
  for (let i = 0; i < model.count; i++) {
    const position = positionOf(model, i);
    if (kindOf(model, i) === "resid_pre" && !found.has(position)
        && model.nodes.layer[i] === model.graph.layers[0]) found.set(position, i);
  }
  return found;
}

/** Where the ways from each position may start: at the state that enters the model there or, if the
 * graph has none, at the memories that were made there.
 * @param {Model} model @returns {Map<number, number[]>} */
function starts(model) {
  const entering = inputs(model), found = new Map();
  for (const [position, node] of entering) found.set(position, [node]);
  for (let i = 0; i < model.count; i++) {
    const position = model.nodes.key[i];
    if (kindOf(model, i) !== "value" || entering.has(position) || position === positionOf(model, i)) continue;
    const list = found.get(position);
    if (list) list.push(i); else found.set(position, [i]);
  }
  return found;
}

/**
 * The best way into a node from each token of the prompt. Ways from tokens that equal what the node
 * promotes, or the target, come first; apart from that they are sorted by worth.
 * @param {Model} model @param {Float64Array} worth @param {number} end
 * @returns {{position: number, nodes: number[], heads: number[], same: boolean, worth: number}[]}
 */
function waysFromInput(model, worth, end) {
  const ways = waysTo(model, worth, end), found = [];
  const wanted = [promoted(model, end), model.graph.target];
  for (const [position, list] of starts(model)) {
    const start = list.reduce((a, b) => (ways.best[b] > ways.best[a] ? b : a));
    if (ways.best[start] === -Infinity) continue;
    const nodes = follow(model, ways, start);
    found.push({
      position, nodes, worth: ways.best[start], same: wanted.includes(model.graph.tokens[position]),
      heads: nodes.filter((i) => kindOf(model, i) === "head"),
    });
  }
  return found.sort((a, b) => Number(b.same) - Number(a.same) || b.worth - a.worth);
}
