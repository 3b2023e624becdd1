// @ts-check
// What the explorer shows, as plain data. The requests for the server are made from it.

/**
 * @typedef {{node: string, how: string, factor: number}} Change
 * @typedef {Object} State
 * @property {string} prompt
 * @property {number} model
 * @property {boolean} chat
 * @property {string} bos `""` for the model's own default, `yes` or `no`.
 * @property {string} target
 * @property {number} position
 * @property {number[]} layers Empty for all.
 * @property {number} expand
 * @property {string} segments
 * @property {Change[]} changes
 * @property {string[]} others
 * @property {string} beside `""`, `prompt`, `model` or `segments`: what the second picture differs in.
 * @property {string} second The second prompt, or the second segments.
 * @property {string} saved The key of an opened file.
 * @property {string} view What the picture shows, as the page writes it.
 * @property {string} panel
 * @property {string} theme
 */

/** @returns {State} */
function usualState() {
  return {
    prompt: "", model: 0, chat: false, bos: "", target: "", position: -1, layers: [], expand: 0, segments: "",
    changes: [], others: [], beside: "", second: "", saved: "", view: "", panel: "",
    theme: window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
  };
}

/** The request of the first picture. @param {State} state */
function firstRun(state) {
  return {
    prompt: state.prompt, model: state.model, chat: state.chat,
    bos: state.bos === "" ? null : state.bos === "yes", target: state.target, position: state.position,
    layers: state.layers.length === 2 ? state.layers : null, expand: state.expand, segments: state.segments,
    changes: /** @type {Change[]} */ ([]), others: /** @type {string[]} */ ([]),
    saved: state.saved || null,
  };
}

/** What is asked of the server. @param {State} state */
function asked(state) {
  const first = firstRun(state), runs = [first];
  if (state.saved === "") {
    if (state.changes.length) runs.push({ ...first, changes: state.changes, others: state.others });
    else if (state.beside === "prompt" && state.second) runs.push({ ...first, prompt: state.second });
    else if (state.beside === "model") runs.push({ ...first, model: 1 - state.model });
    else if (state.beside === "segments") runs.push({ ...first, segments: state.second });
  }
  return { runs, same_target: !(state.beside === "prompt" && !state.changes.length) };
}

/** One line for the history. @param {State} state */
function summary(state) {
  const words = [state.saved ? "file: " + state.prompt : state.prompt];
  if (state.target) words.push("target " + state.target.replaceAll(" ", "␣"));
  if (state.position !== -1) words.push("position " + state.position);
  if (state.layers.length) words.push("layers " + state.layers.join("–"));
  if (state.expand) words.push("expand " + state.expand);
  if (state.bos) words.push("BOS " + state.bos);
  if (state.chat) words.push("chat template");
  if (state.segments) words.push("segments " + state.segments);
  for (const change of state.changes) words.push(changeWords(change));
  if (state.beside && !state.changes.length) words.push("beside: " + (
    state.beside === "model" ? "the other model" : state.beside === "segments" ? "segments " + state.second : state.second));
  return words.join(" · ");
}

/** @param {Change} change */
function changeWords(change) {
  return change.node + " " + (change.how === "scale" ? "× " + digits(change.factor) : change.how);
}
