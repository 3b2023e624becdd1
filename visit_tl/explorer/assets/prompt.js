// @ts-check
// The prompt and its options.

/** @param {any} about @param {Talk} talk @param {{run: () => void, note: (words: string, bad?: boolean) => void}} act */
function makePrompt(about, talk, act) {
  const text = el("textarea", {
    class: "prompt", rows: "1", spellcheck: "false", "aria-label": "prompt; Enter runs it, Shift and Enter begin a line",
    placeholder: "Type a prompt; Enter runs it", maxlength: about.limits.characters,
  });
  const chips = el("div", { class: "chips typed", hidden: true, "aria-label": "tokens of the prompt", role: "group" });
  const target = el("input", { type: "text", maxlength: "200", placeholder: "the prediction", size: "12" });
  const position = el("input", { type: "number", step: "1", value: "-1" });
  const first = el("input", { type: "number", min: "0", placeholder: "first", "aria-label": "first layer" });
  const last = el("input", { type: "number", min: "0", placeholder: "last", "aria-label": "last layer" });
  const expand = el("input", { type: "number", min: "0", max: about.limits.expand, value: "0" });
  const bos = select([["", "as usual"], ["yes", "yes"], ["no", "no"]], "", () => live());
  const chat = el("input", { type: "checkbox", change: () => live() });
  const segments = el("input", { type: "text", maxlength: "200", placeholder: "0:8,8:15", size: "10" });
  const model = select(about.models.map((/** @type {any} */ one, /** @type {number} */ i) => [String(i), one.name]), "0", () => live());
  const run = el("button", { type: "submit", class: "run", text: "Run" });
  let shown = "";

  /** @param {State} state @returns {State} */
  function read(state) {
    const range = first.value === "" && last.value === "" ? []
      : [Number(first.value || 0), Number(last.value || about.models[Number(model.value)].layers - 1)];
    // What is no whole number is refused by name, not rounded; an empty field is the usual value.
    const number = (/** @type {any} */ field, /** @type {number} */ usual) => (field.value === "" ? usual : Number(field.value));
    const second = state.beside === "segments" || state.beside === "prompt" ? state.second : "";
    return {
      ...state, second, prompt: text.value, model: Number(model.value), chat: chat.checked, bos: bos.value, target: target.value,
      position: number(position, -1), layers: range, expand: number(expand, 0),
      segments: segments.value, saved: "",
    };
  }

  /** @param {State} state */
  function write(state) {
    if (text.value !== state.prompt) text.value = state.prompt;
    target.value = state.target;
    position.value = String(state.position);
    [first.value, last.value] = state.layers.length ? state.layers.map(String) : ["", ""];
    expand.value = String(state.expand);
    bos.value = state.bos;
    chat.checked = state.chat;
    segments.value = state.segments;
    model.value = String(state.model);
    shown = JSON.stringify(firstRun(state));
    hideWhatWasRun();
    live();
  }

  /** What was run stands above its picture, with its tokens. At once, not when the server has answered:
   * what lies below would move under a hand that is about to click. */
  function hideWhatWasRun() { chips.hidden = JSON.stringify(firstRun(read(usualState()))) === shown; }

  const live = liveTokens(talk, () => firstRun(read(usualState())), (found) => {
    chips.replaceChildren(...chipList(found.tokens, found.count, -1, null));
    chips.dataset.count = found.count;
    hideWhatWasRun();
    if (found.count > about.limits.tokens) act.note("the explorer takes " + about.limits.tokens + " tokens", true);
  }, (why) => act.note(why, true));

  text.addEventListener("input", live);
  text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    act.run();
  });
  const chatField = labelled("chat template", chat, "put the model's chat template around the prompt, as a message of the user");
  chatField.hidden = !about.models.some((/** @type {any} */ one) => one.chat);
  const fields = el("div", { class: "fields options", hidden: true }, [
    labelled("target", target, "the token to follow, with its space; empty is the prediction"),
    labelled("position", position, "negative ones count from the end"),
    el("span", { class: "field" }, [el("span", { text: "layers" }), first, last]),
    labelled("expand", expand, "steps that memories are followed back"),
    labelled("BOS", bos), chatField,
    labelled("segments", segments, "ranges of tokens that see each other; empty is causal"),
  ]);
  const options = button("Options", () => {
    fields.hidden = !fields.hidden;
    options.setAttribute("aria-expanded", String(!fields.hidden));
  }, { "aria-expanded": "false" });
  const form = el("form", { class: "ask-prompt", submit: (/** @type {Event} */ event) => { event.preventDefault(); act.run(); } }, [
    el("div", { class: "line" }, [text, options, run]), fields, chips,
  ]);
  return { element: form, model, read, write, focus: () => text.focus(), form };
}
