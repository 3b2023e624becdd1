// @ts-check
// The panel of questions.

/** @param {any} about @param {any} act */
function makeAsk(about, act) {
  const chosen = el("p", { class: "what" }), answer = el("div", { class: "answer", role: "status" });
  const key = el("select", { "aria-label": "the position that the head looked at" });
  const reference = select(about.references, about.references[0][0], () => {}, { "aria-label": "reference circuit" });
  /** @type {any} */
  let node = null;
  /** @type {any[]} */
  let tokens = [];
  let file = false;
  const about_ = el("p", { class: "quiet", hidden: true });
  const why = button("Why did it look there?", () => ask("why"));
  const origin = button("Where did it come from?", () => ask("origin"));
  const lower = button("What would lower the loss?", () => ask("lower"));
  const circuit = button("Is it this circuit?", () => ask("circuit"));
  const element = el("div", {}, [
    el("h2", { text: "Ask about the run" }), about_, chosen, el("div", { class: "fields" }, [why, key]),
    el("div", { class: "fields" }, [origin, lower]), el("div", { class: "fields" }, [circuit, reference]), answer,
  ]);

  /** @param {string} what */
  function ask(what) {
    answer.replaceChildren(el("p", { class: "quiet", text: "computing …" }));
    act.ask({ what, node: node ? node.id : "", key: Number(key.value) || 0, query: node && what === "why" ? node.position : null, reference: reference.value });
  }

  return {
    element,
    /** @param {any} given */
    choose(given) {
      node = given;
      chosen.replaceChildren(...(node ? [el("b", { text: node.id }), " says ", bdi(node.says)] : ["Choose a node in the picture; a head, to ask why it looked."]));
      origin.disabled = lower.disabled = file;
      why.disabled = key.disabled = file || !node || node.head < 0;
      const looks = node ? node.looks : [];
      key.replaceChildren(...tokens.map((token, i) => el("option", { value: String(i), text: token.text + "@" + i + (looks[i] ? ", attention " + digits(looks[i]) : "") })));
      const most = looks.length ? looks.indexOf(Math.max(...looks)) : 0;
      key.value = String(node && node.key >= 0 ? node.key : most);
    },
    /** @param {any[]} given @param {State} state */
    tokens(given, state) {
      tokens = given;
      file = state.saved !== "";
      about_.hidden = !file && !state.changes.length;
      about_.textContent = file ? FROM_FILE : "Questions are about the run without its changes.";
      this.choose(node);
    },
    /** @param {any} event */
    tell(event) {
      if (event.stage === "refused" || event.stage === "failed") answer.replaceChildren(el("p", { class: "bad", text: event.why }));
      if (event.stage === "busy") answer.replaceChildren(el("p", { class: "quiet", text: "waiting for another picture …" }));
      if (event.stage !== "answer") return;
      const copy = button("copy", () => copyText(event.code, copy));
      answer.replaceChildren(el("h3", {}, [bdi(event.title)]), ...event.said.map((/** @type {string} */ said) => el("p", {}, [bdi(said)])),
        table(event.table.columns, event.table.rows, event.title), el("h3", { text: "In Python" }), el("code", { text: event.code }), copy);
    },
  };
}
