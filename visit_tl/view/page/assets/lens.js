// @ts-check
// Which lens read each node. Only pages of graphs that another lens than the logit lens read contain this
// file, and only they contain the lines of other files that begin with `if (LENS`.

const LENS = true;

/** The lens that read a node, and which of its maps. @param {Model} model @param {number} i */
function readBy(model, i) { return model.texts[model.nodes.lens[i]]; }
