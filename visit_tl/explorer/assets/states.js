// @ts-check
// The residual stream as a table: layers from top to bottom, the last positions from left to right.

/** The place of a rank among 17 colours; see `rankPlace` of the page. @param {number} rank @param {number} size */
function rankClass(rank, size) {
  if (size < 2) return "rank-0";
  const r = Math.min(Math.max(rank, 0), size - 1);
  const place = 0.5 + 0.5 * (Math.log(r + 1) - Math.log(size - r)) / Math.log(size);
  return "rank-" + Math.round(16 * place);
}

/** @param {any} told The event `states`. */
function statesTable(told) {
  const head = told.positions.map((/** @type {number} */ at) => {
    const token = told.tokens[at];
    return el("th", { scope: "col", class: at === told.position ? "here" : null }, [bdi(token ? token.text : "?"), el("sub", { text: String(at) })]);
  });
  const rows = told.rows.map((/** @type {string} */ name, /** @type {number} */ i) => el("tr", {}, [
    el("th", { scope: "row", text: name }),
    ...told.cells[i].map(([text, rank, prob]) => el("td", {
      class: rankClass(rank, told.vocabulary), title: "target: rank " + rank + ", p = " + digits(prob),
    }, [bdi(text)])),
  ]));
  const caption = "What each state reads as; the mark is the rank of the target " + told.target;
  return el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "states of the residual stream" }, [
    el("table", { class: "grid" }, [el("caption", { text: caption }), el("thead", {}, [el("tr", {}, [el("th", { scope: "col", text: "layer" }), ...head])]), el("tbody", {}, rows)]),
  ]);
}
