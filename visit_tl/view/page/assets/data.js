// @ts-check
// Reads the payload that Python wrote, and answers questions about it; draws nothing.

/**
 * @typedef {Object} Edges Edges in columns; `kind` is an index into `words.edges` or, in the route,
 *   into stream, read, write.
 * @property {number[]} source
 * @property {number[]} target
 * @property {number[]} kind
 * @property {(number|null)[]} score
 * @property {number[]} [width]
 * @property {number[]} [strength]
 * @property {number[]} [via]
 *
 * @typedef {Object} Picture One position of a depth, with its own origin.
 * @property {number} position
 * @property {number} width
 * @property {number} height
 * @property {number[]} layers
 * @property {[number, string, number][]} columns
 *
 * @typedef {Object} Depth Nodes by slot: `node[slot]` is a node of the graph.
 * @property {number[]} node
 * @property {number[]} x
 * @property {number[]} y
 * @property {number[]} strength
 * @property {number[]} height
 * @property {number[]} role In the route: state, head or memory; elsewhere empty.
 * @property {Picture[]} pictures
 * @property {[number, number][]} [rows]
 * @property {Edges} edges
 * @property {Int32Array} slot By node of the graph: its slot, or -1.
 * @property {Map<number, number>} before In the route, for each state the one before it.
 *
 * @typedef {Object} Model
 * @property {any} graph
 * @property {any} words
 * @property {any} nodes
 * @property {any} edges
 * @property {string[]} texts
 * @property {{[depth: string]: Depth}} depths
 * @property {number} count
 * @property {number[][]} into By node, the edges that end there.
 * @property {number[][]} outOf By node, the edges that start there.
 * @property {Map<string, number>} byName
 */

/** @param {any} given @returns {Model} */
function readPayload(given) {
  const count = given.nodes.kind.length;
  const into = Array.from({ length: count }, () => /** @type {number[]} */ ([]));
  const outOf = Array.from({ length: count }, () => /** @type {number[]} */ ([]));
  given.edges.target.forEach((/** @type {number} */ t, /** @type {number} */ e) => into[t].push(e));
  given.edges.source.forEach((/** @type {number} */ s, /** @type {number} */ e) => outOf[s].push(e));
  const route = given.depths.route;
  route.pictures = [{
    position: given.graph.position, width: route.width, height: route.height,
    layers: given.graph.layers, columns: route.columns.map(
      (/** @type {number[]} */ c) => [c[1], c[0] < 0 ? "out" : String(c[0]), c[0]]),
  }];
  for (const name in given.depths) {
    const depth = given.depths[name];
    for (const column of ["node", "x", "y", "strength", "height", "role", "pictures"]) {
      depth[column] = depth[column] || [];
    }
    depth.slot = new Int32Array(count).fill(-1);
    depth.node.forEach((/** @type {number} */ node, /** @type {number} */ slot) => {
      depth.slot[node] = slot;
    });
    for (const column of ["source", "target", "kind", "score", "width", "strength"]) {
      depth.edges[column] = depth.edges[column] || [];
    }
  }
  route.before = new Map(route.edges.target.map(
    (/** @type {number} */ target, /** @type {number} */ e) => [target, route.edges.source[e]],
  ).filter((/** @type {any} */ _, /** @type {number} */ e) => route.edges.kind[e] === 0));
  const model = { ...given, count, into, outOf, byName: new Map() };
  for (let i = 0; i < count; i++) model.byName.set(nodeName(model, i), i);
  return model;
}

/** @param {Model} model @param {number} i */
function kindOf(model, i) { return model.words.kinds[model.nodes.kind[i]]; }

/** The id of a node, as `graph/ids.py` prints it. @param {Model} model @param {number} i */
function nodeName(model, i) {
  const n = model.nodes, kind = kindOf(model, i), layer = "L" + n.layer[i];
  const head = layer + "H" + n.head[i], expert = layer + expertName(model, i);
  if (FEATURES && kind.startsWith("feature")) return featureName(model, i) + (n.at[i] < 0 ? "" : "@" + n.at[i]);
  /** @type {{[kind: string]: string}} */
  const special = {
    head, head_query: head + ".q", key: head + ".k" + n.key[i], value: head + ".v" + n.key[i],
    attn_neuron: layer + "O" + n.neuron[i], neuron: expert + "N" + n.neuron[i],
    neuron_key: expert + "N" + n.neuron[i] + ".k", expert, final_norm: kind, logits: kind,
  };
  return (special[kind] || expert + "." + kind) + (n.at[i] < 0 ? "" : "@" + n.at[i]);
}

/** The expert of a node as ids have it, such as E3 or, shared, ES0; empty if it is in none.
 * @param {Model} model @param {number} i */
function expertName(model, i) {
  const expert = model.nodes.expert ? model.nodes.expert[i] : undefined;
  return expert === undefined ? "" : expert < 0 ? "ES" + (-1 - expert) : "E" + expert;
}

/** What a node is, in words. @param {Model} model @param {number} i */
function nodeTitle(model, i) {
  const n = model.nodes, expert = expertName(model, i).replace("ES", "shared expert ")
    .replace(/^E/, "expert ");
  if (FEATURES && featureOf(model, i)) return model.words.titles[n.kind[i]].replace("{neuron}", n.neuron[i]).replace("{layer}", n.layer[i]).replace("{site}", n.features[i][0]);
  const title = model.words.titles[n.kind[i]].replace("{layer}", n.layer[i])
    .replace("{head}", n.head[i]).replace("{key_position}", n.key[i])
    .replace("{neuron}", n.neuron[i]).replace("{expert}", expert);
  return expert && kindOf(model, i) !== "expert" ? title + ", " + expert : title;
}

/** Whether the forward pass subtracts this neuron. @param {Model} model @param {number} i */
function isNegative(model, i) {
  const kind = kindOf(model, i);
  if (FEATURES && kind === "feature") return model.nodes.coefficient[i] < 0;
  return (kind === "neuron" || kind === "attn_neuron") && model.nodes.coefficient[i] < 0;
}

/**
 * Tokens with their probabilities, best first.
 * @param {Model} model @param {number} i @param {"top"|"bottom"} side
 * @returns {{text: string, prob: number}[]}
 */
function reads(model, i, side) {
  const flat = model.nodes[side][i], found = [];
  for (let k = 0; k < flat.length; k += 2) {
    found.push({ text: model.texts[flat[k]], prob: flat[k + 1] });
  }
  return found;
}

/** Whether the vector of a node is zero, so that it says nothing. @param {Model} model @param {number} i */
function isZero(model, i) { return model.nodes.norm[i] === 0; }

/** The token that a node promotes. @param {Model} model @param {number} i */
function promoted(model, i) {
  if (isZero(model, i)) return "⟨zero⟩";
  const flat = model.nodes[isNegative(model, i) ? "bottom" : "top"][i];
  return flat.length ? model.texts[flat[0]] : "⟨unread⟩";
}

/** The target's rank among what a node promotes; in the middle if it says nothing. @param {Model} model @param {number} i */
function promotedRank(model, i) {
  const rank = model.nodes.rank[i];
  if (isZero(model, i)) return Math.floor(model.graph.vocabulary / 2);
  return isNegative(model, i) ? model.graph.vocabulary - 1 - rank : rank;
}

/** The place of a rank on the scale from 0 (first) to 1 (last); see `style.rank_place`.
 * @param {number} rank @param {number} vocabulary */
function rankPlace(rank, vocabulary) {
  if (vocabulary < 2) return 0;
  const r = Math.min(Math.max(rank, 0), vocabulary - 1);
  return 0.5 + 0.5 * (Math.log(r + 1) - Math.log(vocabulary - r)) / Math.log(vocabulary);
}

/** Three significant digits, as Python's `.3g`. @param {number|null} value */
function number(value) {
  if (value === null || value === undefined) return "not a number";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-4 && size < 1e3) return String(Number(value.toPrecision(3)));
  if (size >= 1e3 && size < 1e6) return String(Math.round(value));
  return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
}

/** The position that a node is at. @param {Model} model @param {number} i */
function positionOf(model, i) {
  return model.nodes.at[i] < 0 ? model.graph.position : model.nodes.at[i];
}

/** A token of the prompt with its position. @param {Model} model @param {number} position */
function tokenAt(model, position) {
  return (position < model.graph.tokens.length ? model.graph.tokens[position] : "?") + "@" + position;
}

/** The token that made a memory. @param {Model} model @param {number} i */
function madeBy(model, i) {
  return model.texts[model.nodes.token[i]] + (model.nodes.key[i] < 0 ? "" : "@" + model.nodes.key[i]);
}

/** The label of a node in a figure. @param {Model} model @param {number} i */
function shortLabel(model, i) {
  const kind = kindOf(model, i), n = model.nodes, says = clip(promoted(model, i), 14);
  if (FEATURES && featureOf(model, i)) return featureLabel(model, i);
  if (kind === "head") return "H" + n.head[i] + " " + says;
  if (kind === "expert") return expertName(model, i) + " " + says;
  const closed = (n.unopened || {})[i];
  if (closed !== undefined) return model.texts[closed].split(" ")[0] + " " + says;
  if (kind === "value") return (n.token[i] < 0 ? "?" : clip(model.texts[n.token[i]], 10)) + " → " + says;
  if (kind === "b_O" || kind === "b_out") return kind + " " + says;
  return isNegative(model, i) ? "− " + says : says;
}

/** @param {string} text @param {number} limit */
function clip(text, limit) {
  const letters = Array.from(text);
  return letters.length > limit ? letters.slice(0, limit - 1).join("") + "…" : text;
}

/** The meaning and the value of the score of an edge.
 * @param {Model} model @param {number} kind @param {number|null} score @param {number} target */
function edgeFact(model, kind, score, target) {
  const coefficients = model.words.coefficients;
  const what = model.words.edges[kind] === "coefficient"
    ? coefficients[kindOf(model, target)] || "coefficient" : model.words.scores[kind];
  return what + " " + number(score);
}
