// @ts-check
// The page inside the explorer's frame: it tells the page around it what is chosen, and is told what to
// show. Only framed pages contain this file, and only they contain the lines of other files that begin
// with `if (FRAMED`. Node ids, numbers and the view go out; the page around inserts them as text.

const FRAMED = true;

/** @param {string} what @param {any} value */
function tellAround(what, value) {
  window.parent.postMessage({ from: "visit_tl picture", what, value }, "*");
}

/** What the page around needs to know of the chosen node. @param {Model} model @param {number} i */
function chosenNode(model, i) {
  if (i < 0) return null;
  const n = model.nodes;
  return {
    id: nodeName(model, i), kind: kindOf(model, i), says: promoted(model, i), title: nodeTitle(model, i),
    layer: n.layer[i], head: n.head[i], key: n.key[i], position: positionOf(model, i),
    looks: (n.attention[i] || []).map((/** @type {number|null} */ a) => a || 0),
  };
}

/** @param {HTMLElement} figure
 * @param {{show: (fragment: string) => void, change: (change: any) => void}} act */
function bindFrame(figure, act) {
  window.addEventListener("message", (event) => {
    const said = event.data;
    if (event.source !== window.parent || !said || said.to !== "visit_tl picture") return;
    if (said.what === "view") act.show(String(said.value));
    if (said.what === "theme" && ["light", "dark"].includes(said.value)) act.change({ theme: said.value });
    if (said.what === "svg") {
      const drawing = /** @type {Element} */ (figure.querySelector("svg"));
      tellAround("svg", new XMLSerializer().serializeToString(drawing));
    }
  });
  // Two pictures side by side leave little room: the filters come when they are asked for.
  const filters = /** @type {HTMLElement} */ (document.querySelector(".filters"));
  const more = make("button", { type: "button", id: "more", text: "filters", "aria-expanded": "false", click: () => {
    more.setAttribute("aria-expanded", String(filters.classList.toggle("open")));
  } });
  filters.before(make("div", {}, [more]));
  tellAround("ready", "");
}
