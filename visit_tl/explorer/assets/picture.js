// @ts-check
// One picture: the page of a graph in a frame, with its tokens and prediction; the states beside it.

/** @param {Talk} talk @param {number} number
 * @param {{chosen: (slot: number, node: any) => void, view: (slot: number, view: string) => void,
 *   position: (position: number) => void, theme: () => string, started: () => string}} act */
function makeSlot(talk, number, act) {
  const title = el("h2", {}), says = el("p", { class: "says" }), chips = el("div", { class: "chips" });
  const states = el("div", { class: "states" }), holder = el("div", { class: "holder" });
  const toggles = ["graph", "states"].map((name) => button(name === "graph" ? "Graph" : "States", () => show(name, true), { "aria-pressed": "false" }));
  const element = el("section", { class: "slot", "aria-label": number ? "second picture" : "picture", hidden: true }, [
    title, el("div", { class: "slot-head" }, [says, el("div", { class: "toggles", role: "group", "aria-label": "what is shown" }, toggles)]),
    chips, holder, states,
  ]);
  /** @type {any} */
  let frame = null, coming = null;
  let key = "", chosenBy = false, svg = /** @type {((text: string) => void)|null} */ (null);

  /** @returns {Document|ShadowRoot} */
  function root() { return /** @type {any} */ (element.getRootNode()); }

  /** @param {string} name @param {boolean} [byHand] */
  function show(name, byHand) {
    chosenBy = chosenBy || Boolean(byHand);
    holder.hidden = name !== "graph";
    states.hidden = name !== "states";
    toggles.forEach((toggle, i) => toggle.setAttribute("aria-pressed", String((i === 0) === (name === "graph"))));
  }

  /** @param {any} event */
  function tellStates(event) {
    element.hidden = false;
    states.replaceChildren(statesTable(event));
    chips.replaceChildren(...chipList(event.tokens, event.tokens.length, event.position, number ? null : act.position));
    says.replaceChildren(el("span", { class: "quiet", text: "predicts " }), ...event.prediction.slice(0, 5).map(([text, p]) => el("span", { class: "read" }, [bdi(text), " " + digits(p)])),
      el("span", { class: "quiet" }, ["target ", bdi(event.target), ": rank " + event.rank + ", p " + digits(event.prob)]));
    if (!frame && !chosenBy) show("states");
  }

  /** What a file says of the run that it was made from; it holds no states. @param {any} event */
  function tellFile(event) {
    element.hidden = false;
    states.replaceChildren(el("p", { class: "quiet", text: "A saved graph holds no table of states. Run its prompt to see them." }));
    chips.replaceChildren(...chipList(event.tokens, event.tokens.length, event.position, null));
    says.replaceChildren(el("span", { class: "quiet" }, ["a graph from a file, of ", bdi(event.model), "; target ", bdi(event.target)]));
  }

  /** Load a picture behind the one that is shown; it takes its place when it is drawn.
   * @param {string} wanted @param {boolean} [again] Also if it is shown already. */
  async function load(wanted, again) {
    element.hidden = false;
    if (wanted === key && !again) return;
    key = wanted;
    if (coming) coming.remove();
    const made = el("iframe", { sandbox: "allow-scripts allow-downloads", class: "coming", title: number ? "second graph" : "graph" });
    coming = made;
    const source = await talk.picture(wanted, act.theme());
    if (coming !== made) return;
    if (source.srcdoc !== undefined) made.srcdoc = source.srcdoc;
    else made.src = source.src;
    holder.append(made);
  }

  /** @param {MessageEvent} event */
  function hear(event) {
    const said = event.data;
    if (!said || said.from !== "visit_tl picture") return;
    if (coming && event.source === coming.contentWindow && said.what === "ready") {
      if (act.started()) post(coming, "view", act.started());
      if (frame) frame.remove();
      frame = coming;
      coming = null;
      frame.classList.remove("coming");
      frame.dataset.key = key;
      if (!chosenBy) show("graph");
      element.dataset.shown = String(Number(element.dataset.shown || 0) + 1);
      return;
    }
    if (!frame || event.source !== frame.contentWindow) return;
    // What a picture shows changes by itself when another one comes, which may lack the chosen node.
    // Only where the reader is in the picture it says what both should show.
    const inside = root().activeElement === frame;
    if (said.what === "chosen" && (inside || number === 0)) act.chosen(number, said.value);
    if (said.what === "view" && inside) act.view(number, cleanView(String(said.value)));
    if (said.what === "svg" && svg) svg(String(said.value));
  }

  /** @param {any} to @param {string} what @param {string} value */
  function post(to, what, value) {
    if (to && to.contentWindow) to.contentWindow.postMessage({ to: "visit_tl picture", what, value }, "*");
  }

  window.addEventListener("message", hear);
  show("graph");
  return {
    element, load, tellStates, tellFile,
    /** @param {string} words */
    name: (words) => { title.textContent = words; },
    /** Show the same as the other picture. @param {string} view */
    follow(view) {
      post(frame, "view", view);
    },
    theme: () => { post(frame, "theme", act.theme()); },
    /** @returns {Promise<string>} The picture as it is seen. */
    svg: () => new Promise((done, fail) => {
      if (!frame) return fail(new Error("there is no picture yet"));
      svg = done;
      post(frame, "svg", "");
    }),
    clear() {
      element.hidden = true;
      for (const one of [frame, coming]) if (one) one.remove();
      frame = coming = null;
      key = "";
    },
    close: () => window.removeEventListener("message", hear),
  };
}

/** The view without the theme, which is the explorer's. @param {string} view */
function cleanView(view) { return view.replace(/(^#|&)theme=[a-z]+/, "$1").replace(/^#&?/, "#").replace("&&", "&"); }
