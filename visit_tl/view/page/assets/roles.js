// @ts-check
// Roles of heads: a rim in the colour of the first role, and the role in the label. Only pages of graphs
// with roles contain this file, and only they contain the lines of other files that begin with `if (ROLES`.

const ROLES = true;
const RIM = 3; // px around a head

/** The roles of a node, the strongest first. @param {Model} model @param {number} i @returns {string[]} */
function rolesOf(model, i) {
  return (model.nodes.roles[i] || []).map((/** @type {number} */ k) => model.nodes.roleNames[k]);
}

/** Add a rim to a head that has a role. @param {Map<string, Path>} rims By colour.
 * @param {Model} model @param {Depth} depth @param {number} slot @param {Scale} scale @param {any} colours */
function addRim(rims, model, depth, slot, scale, colours) {
  const own = model.nodes.roles[depth.node[slot]];
  if (own) addNode(group(rims, colours.roles[own[0]]), depth, slot, scale, RIM);
}

/** The label of a node with its first role, but for roles that most heads have. @param {Model} model @param {number} i @param {string} text */
function withRole(model, i, text) {
  const own = rolesOf(model, i);
  return own.length && !own[0].startsWith("sink") ? text + " · " + own[0] : text;
}
