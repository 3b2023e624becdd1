// @ts-check
// The controls: each changes one part of the view and shows its present value.

/** @param {string} id @returns {any} */
function byId(id) { return document.getElementById(id); }

/**
 * @param {Model} model @param {() => View} view
 * @param {(change: Partial<View>, sight?: "fit"|"keep") => void} change
 */
function bindControls(model, view, change) {
  for (const input of document.querySelectorAll("input[name=depth]")) {
    input.addEventListener("change", () => change({ depth: /** @type {any} */ (input).value }, "fit"));
  }
  const from = byId("from"), to = byId("to");
  const range = (/** @type {number} */ a, /** @type {number} */ b) =>
    change({ layers: { ...view().layers, [view().depth]: [a, b] } }, "fit");
  from.addEventListener("input", () => range(Number(from.value), Math.max(Number(from.value), Number(to.value))));
  to.addEventListener("input", () => range(Math.min(Number(from.value), Number(to.value)), Number(to.value)));
  for (const id of ["nodes", "edges"]) {
    byId(id).addEventListener("change", () => change({ [id]: atLeast(byId(id).value, 1, /** @type {any} */ (view())[id]) }));
  }
  byId("rank").addEventListener("change", () => change({
    rank: byId("rank").value === "" ? null : atLeast(byId("rank").value, 0, 0),
  }));
  byId("strength").addEventListener("input", () => change({ strength: Number(byId("strength").value) / 100 }));
  byId("by").replaceChildren(...["strength", ...measures(model)].map((name) => make("option", { value: name, text: name })));
  byId("by").disabled = measures(model).length === 0;
  byId("by").addEventListener("change", () => change({ by: byId("by").value }));
  byId("position").addEventListener("change", () => change({ position: Number(byId("position").value), selected: -1 }, "fit"));
  byId("theme").addEventListener("click", () => change({ theme: view().theme === "dark" ? "light" : "dark" }));
  byId("kinds").addEventListener("change", () => {
    const boxes = [...document.querySelectorAll("#kinds input")];
    change({ without: boxes.filter((box) => !(/** @type {any} */ (box).checked)).map((box) => /** @type {any} */ (box).value) });
  });
  byId("reset").addEventListener("click", () => change({ rank: null, strength: 0, by: "strength", without: [] }));
}

/** @param {string} text @param {number} low @param {number} otherwise */
function atLeast(text, low, otherwise) {
  const value = Math.round(Number(text));
  return text.trim() !== "" && value >= low ? value : otherwise;
}

/** Show the view in the controls. @param {Model} model @param {View} view @param {Drawn} drawn */
function showControls(model, view, drawn) {
  for (const input of document.querySelectorAll("input[name=depth]")) {
    /** @type {any} */ (input).checked = /** @type {any} */ (input).value === view.depth;
  }
  const [from, to] = view.layers[view.depth], route = view.depth === "route";
  byId("from").value = from;
  byId("to").value = to;
  const span = Math.max(model.graph.layers[1] - model.graph.layers[0], 1);
  byId("between").style.left = 100 * (from - model.graph.layers[0]) / span + "%";
  byId("between").style.right = 100 * (model.graph.layers[1] - to) / span + "%";
  byId("range").textContent = from === to ? "layer " + from : "layers " + from + "–" + to;
  byId("nodes").value = view.nodes;
  byId("edges").value = view.edges;
  byId("rank").value = view.rank === null ? "" : view.rank;
  byId("by").value = view.by;
  byId("strength").value = Math.round(view.strength * 100);
  byId("strength-value").textContent = Math.round(view.strength * 100) + "%";
  const alone = model.depths[view.depth].pictures.length < 2;
  byId("position").disabled = route || alone;
  byId("position").value = String(view.position);
  byId("theme").textContent = view.theme === "dark" ? "light" : "dark";
  const hiddenNodes = drawn.allNodes - drawn.slots.length, hiddenEdges = drawn.allEdges - drawn.edges.length;
  byId("counts").textContent = hiddenNodes + " of " + drawn.allNodes + " nodes and " + hiddenEdges
    + " of " + drawn.allEdges + " edges hidden";
  showKinds(model, view);
}

/** @param {Model} model @param {View} view */
function showKinds(model, view) {
  const list = byId("kinds"), depth = model.depths[view.depth];
  if (list.dataset.depth !== view.depth) {
    const there = new Set(depth.node.map((i) => kindOf(model, i)));
    list.replaceChildren(...model.words.kinds.filter((/** @type {string} */ kind) => there.has(kind))
      .map((/** @type {string} */ kind) => make("label", {}, [
        make("input", { type: "checkbox", value: kind }), make("span", { text: kind }),
      ])));
    list.dataset.depth = view.depth;
  }
  for (const box of list.querySelectorAll("input")) box.checked = !view.without.includes(box.value);
  byId("kinds-count").textContent = view.without.length ? view.without.length + " hidden" : "all";
}

/** The results of a search, as buttons. @param {Model} model @param {{node: number, why: string}[]} hits
 * @param {(node: number) => void} select */
function showHits(model, hits, select) {
  const MOST = 60, list = byId("hits");
  list.replaceChildren(...hits.slice(0, MOST).map((hit) => make("button", {
    type: "button", class: "row", role: "option", click: () => select(hit.node),
  }, [
    make("span", { class: "id", text: nodeName(model, hit.node) + " " }), token(promoted(model, hit.node)),
    make("span", { class: "value" }, [token(hit.why + ", target rank " + promotedRank(model, hit.node))]),
  ])));
  byId("found").textContent = byId("search").value.trim() === "" ? ""
    : hits.length + (hits.length === 1 ? " node" : " nodes") + (hits.length > MOST ? ", the first " + MOST + " listed" : "");
}
