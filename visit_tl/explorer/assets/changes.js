// @ts-check
// The panel of changes: what is done to the chosen node, the stack, and what it did.

/** What panels say that need a run. */
const FROM_FILE = "This picture is a graph from a file. Run its prompt to change it, to ask about it or to compare.";

/** @type {{[how: string]: string}} */
const HOWS = {
  zero: "ablate: zero", mean: "ablate: mean of the other prompts", resample: "ablate: from the second prompt",
  scale: "scale by a factor", "look away": "attention: look away", "look only": "attention: look only there",
};

/** @param {any} about @param {any} act */
function makeChanges(about, act) {
  const chosen = el("p", { class: "what" }), file = el("p", { class: "quiet", text: FROM_FILE }), list = el("ul", { class: "stack", "aria-label": "changes" });
  const how = select(about.hows.map((/** @type {string} */ name) => [name, HOWS[name]]), "zero", () => fit(), { "aria-label": "what is done" });
  const factor = el("input", { type: "number", step: "0.5", value: "0.5", "aria-label": "factor" });
  const others = el("textarea", { rows: "2", spellcheck: "false", "aria-label": "other prompts, one a line", placeholder: "as many tokens; one prompt a line" });
  const add = button("Change it", () => addChange(), { class: "main" });
  const effect = el("div", { class: "effect" }), differs = el("div", { class: "differs" });
  const othersField = el("label", { class: "column" }, [el("span", { text: "second prompt (resample: the first line, mean: all)" }), others]);
  /** @type {any} */
  let node = null;
  /** @type {State} */
  let state = usualState();

  function fit() {
    factor.hidden = how.value !== "scale";
    othersField.hidden = !(how.value === "resample" || how.value === "mean" || state.changes.some((one) => ["resample", "mean"].includes(one.how)));
    const looks = how.value.startsWith("look");
    add.disabled = !node || state.saved !== "" || state.changes.length >= about.limits.changes || (looks && node.kind !== "value" && node.kind !== "head");
  }

  function addChange() {
    if (!node) return;
    // Where a head looks is changed by its memory; of a head, the one that it looks at most.
    let id = node.id;
    if (how.value.startsWith("look") && node.kind === "head") {
      const most = node.looks.indexOf(Math.max(...node.looks));
      const [name, at] = node.id.split("@");
      id = name + ".v" + most + (at ? "@" + at : "");
    }
    const change = { node: id, how: how.value, factor: how.value === "scale" ? Number(factor.value) : 0 };
    act.commit({ changes: [...state.changes.filter((one) => one.node !== id), change], others: lines(), beside: "", second: "" });
  }

  function lines() { return others.value.split("\n").filter((/** @type {string} */ line) => line !== ""); }

  others.addEventListener("change", () => { if (state.changes.length) act.commit({ others: lines() }); });

  const element = el("div", {}, [
    el("h2", { text: "Change the run" }), file, chosen, el("div", { class: "fields" }, [how, factor, add]), othersField, list, effect, differs,
  ]);

  return {
    element,
    /** @param {any} given */
    choose(given) {
      node = given;
      chosen.replaceChildren(...(node ? [el("b", { text: node.id }), " says ", bdi(node.says), ", " + node.title] : ["Click a head, memory, neuron, state or arc in the picture."]));
      fit();
    },
    /** @param {State} now */
    write(now) {
      state = now;
      file.hidden = state.saved === "";
      if (document.activeElement !== others) others.value = state.others.join("\n");
      list.replaceChildren(...state.changes.map((change, i) => el("li", {}, [
        el("span", { text: changeWords(change) }), el("span", { class: "value", "data-node": change.node }),
        button("undo", () => act.commit({ changes: state.changes.filter((_, k) => k !== i) }), { "aria-label": "undo " + changeWords(change) }),
      ])));
      if (state.changes.length > 1) list.append(el("li", {}, [button("undo all", () => act.commit({ changes: [] }))]));
      if (!state.changes.length) effect.replaceChildren();
      fit();
    },
    /** @param {any} found */
    effects(found) {
      effect.replaceChildren(
        el("p", {}, ["measured: log p of the target ", el("b", { text: digits(found.before) }), " → ", el("b", { text: digits(found.after) }), " (" + signedDigits(found.all) + " nats; p " + digits(Math.exp(found.before)) + " → " + digits(Math.exp(found.after)) + ")"]),
        button("Copy the Python", () => act.copy(effect.querySelector("button")), { class: "copy" }));
      for (const one of found.alone) {
        const place = [...list.querySelectorAll("[data-node]")].find((/** @type {any} */ span) => span.dataset.node === one.node);
        if (place) place.textContent = signedDigits(one.effect) + (found.alone.length > 1 ? " alone" : "");
      }
    },
    /** @param {any} diff */
    difference(diff) { differs.replaceChildren(...(diff === undefined ? [] : differenceView(diff, act.find))); },
  };
}
