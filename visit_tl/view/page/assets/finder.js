// @ts-check
// The search field, its results, and the tokens of the header.

/**
 * @param {Model} model
 * @param {{change: (change: {query: string}) => void, select: (node: number) => void}} act
 */
function bindFinder(model, act) {
  const field = byId("search"), hits = byId("hits");
  field.addEventListener("input", () => {
    act.change({ query: field.value });
    hits.hidden = !field.value.trim();
  });
  field.addEventListener("focus", () => { hits.hidden = !field.value.trim(); });
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const button = hits.querySelector("button");
    if (e.key === "Enter" && button) { button.click(); byId("frame").focus(); }
    if (e.key === "ArrowDown" && button) { button.focus(); e.preventDefault(); }
  });
  hits.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const by = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[e.key];
    const next = by && /** @type {any} */ (document.activeElement)[by];
    if (next) { next.focus(); e.preventDefault(); e.stopPropagation(); }
  });
  document.addEventListener("click", (e) => {
    if (!byId("find").contains(/** @type {any} */ (e.target))) hits.hidden = true;
  });
  for (const chip of document.querySelectorAll("button.token")) {
    chip.addEventListener("click", () => {
      const position = /** @type {any} */ (chip).dataset.position;
      const node = inputs(model).get(Number(position));
      if (node !== undefined) return act.select(node);
      // The graph has no state in which this token enters: list what else it has of the token.
      field.value = "@" + position;
      act.change({ query: field.value });
      hits.hidden = false;
      field.focus();
    });
  }
}
