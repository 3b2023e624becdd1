// @ts-check
// Features of SAEs and transcoders: their names, labels and facts, and a rim around them. Only pages of
// graphs with features contain this file, and only they contain the lines of other files that begin with
// `if (FEATURES`.

const FEATURES = true;
const FEATURE_RIM = 3; // px around a node

/** What is known of a feature, an error or a bias: its site, its part of the id, the index of its
 * explanation in the texts (-1 for none), and the words about its SAE.
 * @param {Model} model @param {number} i @returns {[string, string, number, string]|undefined} */
function featureOf(model, i) { return model.nodes.features[i]; }

/** The id of a feature, without a position. @param {Model} model @param {number} i */
function featureName(model, i) {
  const own = featureOf(model, i);
  return own ? "L" + model.nodes.layer[i] + "." + own[0] + "." + own[1] : "";
}

/** What somebody says that a feature is; empty if nobody did. @param {Model} model @param {number} i */
function explanationOf(model, i) {
  const own = featureOf(model, i);
  return own && own[2] >= 0 ? model.texts[own[2]] : "";
}

/** The label of a feature in a figure. @param {Model} model @param {number} i */
function featureLabel(model, i) {
  const own = featureOf(model, i), says = (isNegative(model, i) ? "− " : "") + clip(promoted(model, i), 14);
  return (own ? own[1] + " " : "") + (clip(explanationOf(model, i), 24) || says);
}

/** The facts of a feature as names and values. @param {Model} model @param {number} i @returns {string[][]} */
function featureFacts(model, i) {
  const own = featureOf(model, i), said = explanationOf(model, i);
  if (!own) return [];
  return [...(said ? [["said to be", said]] : []), ["SAE", own[3]]];
}

/** Add a rim to a feature, an error or a bias. @param {Map<string, Path>} rims By colour.
 * @param {Model} model @param {Depth} depth @param {number} slot @param {Scale} scale @param {any} colours */
function addFeatureRim(rims, model, depth, slot, scale, colours) {
  if (featureOf(model, depth.node[slot])) addNode(group(rims, colours.feature), depth, slot, scale, FEATURE_RIM);
}

/** Features whose explanation contains a word. @param {Model} model @param {string} typed @param {Set<number>} seen
 * @returns {{node: number, why: string}[]} */
function searchFeatures(model, typed, seen) {
  const word = typed.trim().toLowerCase(), found = [];
  for (const name in model.nodes.features) {
    const node = Number(name), said = explanationOf(model, node);
    if (!seen.has(node) && said.toLowerCase().includes(word)) found.push({ node, why: "said to be " + said });
  }
  return found;
}
