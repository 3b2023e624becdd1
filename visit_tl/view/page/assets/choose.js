// @ts-check
// Which nodes and edges are shown: by layers, kinds, ranks and strengths, and at most so many.

/**
 * @typedef {Object} View All settings of the picture; the fragment of the address restores them.
 * @property {string} depth
 * @property {{[depth: string]: [number, number]}} layers
 * @property {number} position
 * @property {number} nodes
 * @property {number} edges
 * @property {string[]} without Kinds that are hidden.
 * @property {number|null} rank
 * @property {number} strength
 * @property {string} by What `strength` is measured by: strength, effect, attribution,
 *   gradient or reversed.
 * @property {number} selected
 * @property {number} way Position where the shown way starts; -1 for the first in the list.
 * @property {string} query
 * @property {string} second
 * @property {string} theme
 */

const STREAM = ["resid_pre", "resid_mid", "resid_post", "logits", "final_norm"];
const FIRST_RANKS = 10;

/**
 * @param {Model} model @param {View} view @param {Set<number>} kept Nodes to show in any case.
 * @returns {{slots: number[], edges: number[], allNodes: number, allEdges: number}}
 */
function choose(model, view, kept) {
  const depth = model.depths[view.depth], [from, to] = view.layers[view.depth];
  const route = view.depth === "route", nodes = model.nodes, slots = [];
  const hidden = new Set(view.without), size = sizes(model, view);
  let allNodes = 0;
  for (let slot = 0; slot < depth.node.length; slot++) {
    const i = depth.node[slot], layer = nodes.layer[i];
    const last = layer < 0 ? model.graph.layers[1] : layer;
    if (last < from || last > to || (!route && positionOf(model, i) !== view.position)) continue;
    allNodes++;
    if (kept.has(i)) { slots.push(slot); continue; }
    const kind = kindOf(model, i), stream = STREAM.includes(kind);
    if (hidden.has(kind) || (!stream && size(slot) < view.strength)) continue;
    if (view.rank !== null && !stream && promotedRank(model, i) > view.rank) continue;
    slots.push(slot);
  }
  const worth = (/** @type {number} */ slot) => {
    const i = depth.node[slot];
    if (kept.has(i)) return 4;
    // Heads that promote the target are what the reader looks for.
    const says = kindOf(model, i) === "head" && promotedRank(model, i) < FIRST_RANKS;
    return size(slot) + (says ? 1 : 0) + (STREAM.includes(kindOf(model, i)) ? 2 : 0);
  };
  const strongest = cut(slots, worth, view.nodes);
  return { slots: strongest, allNodes, ...chooseEdges(model, view, depth, strongest, from, to) };
}

/** What was measured of a node; undefined if it was not. @param {Model} model @param {number} i
 * @param {string} name */
function measured(model, i, name) {
  if (GRADIENTS && (name === "gradient" || name === "reversed")) return (model.nodes[name][i] || [])[0];
  return name === "effect" ? (model.nodes.effect[i] || [])[0] : model.nodes.attribution[i];
}

/** Which measures the file contains. @param {Model} model */
function measures(model) {
  if (GRADIENTS) return allMeasures(model);
  return ["effect", "attribution"].filter((name) => Object.keys(model.nodes[name]).length > 0);
}

/** A function for the size of a node in [0, 1], in proportion to the largest of the file.
 * @param {Model} model @param {View} view @returns {(slot: number) => number} */
function sizes(model, view) {
  const depth = model.depths[view.depth];
  if (!measures(model).includes(view.by)) return (slot) => depth.strength[slot];
  const value = (/** @type {number} */ i) => Math.abs(measured(model, i, view.by) || 0);
  const largest = Object.keys(model.nodes[view.by]).reduce((most, i) => Math.max(most, value(Number(i))), 0);
  return (slot) => (largest > 0 ? value(depth.node[slot]) / largest : 0);
}

/** @param {Model} model @param {View} view @param {Depth} depth @param {number[]} slots
 * @param {number} from @param {number} to */
function chooseEdges(model, view, depth, slots, from, to) {
  const shown = new Set(slots.map((slot) => depth.node[slot]));
  const { source, target, strength } = depth.edges, edges = [];
  const inside = (/** @type {number} */ i) => {
    const layer = model.nodes.layer[i] < 0 ? model.graph.layers[1] : model.nodes.layer[i];
    return layer >= from && layer <= to
      && (view.depth === "route" || positionOf(model, i) === view.position);
  };
  let allEdges = 0;
  for (let e = 0; e < source.length; e++) {
    if (!inside(source[e]) || !inside(target[e])) continue;
    allEdges++;
    if (shown.has(source[e]) && shown.has(target[e])) edges.push(e);
  }
  const worth = (/** @type {number} */ e) => {
    const slot = Math.min(depth.strength[depth.slot[source[e]]], depth.strength[depth.slot[target[e]]]);
    const stream = STREAM.includes(kindOf(model, source[e])) && STREAM.includes(kindOf(model, target[e]));
    return (strength && strength.length ? strength[e] : slot) + (stream ? 2 : 0);
  };
  return { edges: cut(edges, worth, view.edges), allEdges };
}

/** The best `count` items of a list, in the order of the list.
 * @param {number[]} list @param {(item: number) => number} worth @param {number} count */
function cut(list, worth, count) {
  if (list.length <= count) return list;
  const values = new Map(list.map((item) => [item, worth(item)]));
  const best = [...list].sort((a, b) => /** @type {number} */ (values.get(b))
    - /** @type {number} */ (values.get(a)) || a - b).slice(0, count);
  return best.sort((a, b) => a - b);
}
