// @ts-check
// What was looked at, with undo and redo, and what is put beside it.

/** @param {State} first */
function makePast(first) {
  const MOST = 200;
  let list = [first], at = 0;
  return {
    /** @param {State} state */
    add(state) {
      list = [...list.slice(0, at + 1), state].slice(-MOST);
      at = list.length - 1;
    },
    /** @param {State} state */
    replace(state) { list[at] = state; },
    /** @param {number} by @returns {State|null} */
    step(by) {
      if (at + by < 0 || at + by >= list.length) return null;
      at += by;
      return list[at];
    },
    /** @param {number} to */
    go(to) { return this.step(to - at); },
    get list() { return list; },
    get at() { return at; },
  };
}

/** @param {any} past @param {any} act */
function makeHistory(past, act) {
  const list = el("ol", { class: "past" });
  return {
    element: el("div", {}, [el("h2", { text: "History" }), list]),
    write() {
      list.replaceChildren(...past.list.map((/** @type {State} */ state, /** @type {number} */ i) => el("li", {}, [
        button(summary(state) || "nothing yet", () => act.go(i), { class: "link", "aria-current": i === past.at ? "step" : null }),
      ])));
    },
  };
}

/** @param {any} about @param {any} act */
function makeCompare(about, act) {
  const text = el("textarea", { rows: "2", spellcheck: "false", "aria-label": "second prompt" });
  const spans = el("input", { type: "text", placeholder: "0:8,8:15", "aria-label": "segments of the second picture" });
  const differs = el("div", { class: "differs" }), file = el("p", { class: "quiet", text: FROM_FILE });
  /** Beside what is typed, run or not. @param {Partial<State>} changes */
  const beside = (changes) => act.commit({ ...act.typed(), changes: [], others: [], ...changes });
  const model = button("Put the other model beside it", () => beside({ beside: "model", second: "" }));
  model.title = about.models.length < 2 ? "vt.explore(model, other_model=...) opens two" : "";
  const prompt = button("Put this prompt beside it", () => { if (text.value) beside({ beside: "prompt", second: text.value }); });
  const mask = button("Put this mask beside it", () => beside({ beside: "segments", second: spans.value }));
  return {
    element: el("div", {}, [
      el("h2", { text: "Compare" }), file,
      el("label", { class: "column" }, [el("span", { text: "another prompt" }), text]),
      prompt,
      el("label", { class: "column" }, [el("span", { text: "the same under a mask of segments" }), spans]),
      mask,
      el("h3", { text: "Models" }), model,
      el("p", {}, [button("One picture", () => beside({ beside: "", second: "" }))]), differs,
    ]),
    /** @param {State} state */
    write(state) {
      if (state.beside === "prompt") text.value = state.second;
      if (state.beside === "segments") spans.value = state.second;
      const saved = state.saved !== "";
      file.hidden = !saved;
      prompt.disabled = mask.disabled = saved;
      model.disabled = saved || about.models.length < 2;
    },
    /** @param {any} diff */
    difference(diff) { differs.replaceChildren(...(diff === undefined ? [] : differenceView(diff, act.find))); },
  };
}
