// @ts-check
// Writes the view as the part of the address after #, and reads it back. Text is encoded; invalid
// values are ignored.

/** @param {Model} model @param {View} view @param {View} usual @returns {string} */
function writeFragment(model, view, usual) {
  const [from, to] = view.layers[view.depth];
  /** @type {[string, string, string][]} name, value, usual value */
  const facts = [
    ["depth", view.depth, ""],
    ["layers", from + "-" + to, ""],
    ["node", view.selected < 0 ? "" : nodeName(model, view.selected), ""],
    ["way", String(view.way), "-1"],
    ["at", String(view.position), String(usual.position)],
    ["nodes", String(view.nodes), String(usual.nodes)],
    ["edges", String(view.edges), String(usual.edges)],
    ["without", view.without.join(","), ""],
    ["rank", view.rank === null ? "" : String(view.rank), ""],
    ["strength", String(view.strength), "0"],
    ["by", view.by, usual.by],
    ["find", view.query, ""],
    ["second", view.second, ""],
    ["theme", view.theme, usual.theme],
  ];
  return facts.filter(([, value, common]) => value !== common)
    .map(([name, value]) => name + "=" + encodeURIComponent(value)).join("&");
}

/** @param {Model} model @param {string} fragment @param {View} usual @returns {View} */
function readFragment(model, fragment, usual) {
  const view = { ...usual, layers: { ...usual.layers }, without: [...usual.without] };
  /** @type {{[name: string]: string}} */
  const given = {};
  for (const part of fragment.replace(/^#/, "").split("&")) {
    const cutAt = part.indexOf("=");
    try {
      given[part.slice(0, cutAt)] = decodeURIComponent(part.slice(cutAt + 1));
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
    }
  }
  const whole = (/** @type {string} */ name, /** @type {number} */ low) =>
    /^\d{1,9}$/.test(given[name] || "") && Number(given[name]) >= low ? Number(given[name]) : null;
  if (given.depth in model.depths) view.depth = given.depth;
  const range = /^(\d{1,9})-(\d{1,9})$/.exec(given.layers || "");
  const [first, last] = model.graph.layers;
  if (range) {
    const from = Math.min(Math.max(Number(range[1]), first), last);
    view.layers[view.depth] = [from, Math.min(Math.max(Number(range[2]), from), last)];
  }
  const node = model.byName.get(given.node || "");
  if (node !== undefined) view.selected = node;
  view.way = whole("way", 0) ?? -1;
  const at = whole("at", 0);
  const pictures = model.depths.everything.pictures;
  if (at !== null && pictures.some((picture) => picture.position === at)) view.position = at;
  view.nodes = whole("nodes", 1) ?? usual.nodes;
  view.edges = whole("edges", 1) ?? usual.edges;
  view.rank = whole("rank", 0);
  const strength = Number(given.strength);
  if (strength >= 0 && strength <= 1) view.strength = strength;
  view.without = (given.without || "").split(",").filter((k) => model.words.kinds.includes(k));
  if (measures(model).includes(given.by)) view.by = given.by;
  view.query = given.find || "";
  view.second = given.second || "";
  if (given.theme === "light" || given.theme === "dark") view.theme = given.theme;
  return view;
}
