// @ts-check
// The state as the part of the address after #, and back. What cannot be read is ignored.

/** @param {State} state @param {State} usual */
function writeAddress(state, usual) {
  const facts = [];
  for (const name in usual) {
    const value = /** @type {any} */ (state)[name];
    if (JSON.stringify(value) === JSON.stringify(/** @type {any} */ (usual)[name])) continue;
    facts.push(name + "=" + encodeURIComponent(typeof value === "string" ? value : JSON.stringify(value)));
  }
  return "#" + facts.join("&");
}

/** @param {string} fragment @param {State} usual @returns {State} */
function readAddress(fragment, usual) {
  /** @type {any} */
  const found = { ...usual };
  for (const part of fragment.replace(/^#/, "").split("&")) {
    const cut = part.indexOf("="), name = part.slice(0, cut);
    if (cut < 0 || !Object.hasOwn(usual, name)) continue;
    try {
      const text = decodeURIComponent(part.slice(cut + 1)), like = /** @type {any} */ (usual)[name];
      const value = typeof like === "string" ? text : JSON.parse(text);
      if (typeof value === typeof like && Array.isArray(value) === Array.isArray(like)) found[name] = value;
    } catch (error) {
      if (!(error instanceof URIError || error instanceof SyntaxError)) throw error;
    }
  }
  const texts = (/** @type {any[]} */ list) => list.filter((one) => typeof one === "string");
  found.others = texts(found.others);
  found.layers = found.layers.length === 2 && found.layers.every(Number.isInteger) ? found.layers : [];
  found.changes = found.changes.filter((/** @type {any} */ one) => one && typeof one.node === "string"
    && typeof one.how === "string").map((/** @type {any} */ one) => (
    { node: one.node, how: one.how, factor: Number(one.factor) || 0 }));
  if (found.theme !== "dark") found.theme = "light";
  return found;
}
