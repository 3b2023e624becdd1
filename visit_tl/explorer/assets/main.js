// @ts-check
// The explorer: it holds one state, asks the server for what it shows, and shows what comes.

/** @param {HTMLElement} root @param {Talk} talk */
function startExplorer(root, talk) {
  root.classList.add("visit-explorer");
  const usual = usualState();
  root.dataset.theme = usual.theme;
  const owner = [...crypto.getRandomValues(new Uint8Array(12))].map((n) => (n % 36).toString(36)).join("");
  talk.quick("about", {}).then((about) => openExplorer(root, talk, usual, owner, about), (error) => {
    root.replaceChildren(el("p", { class: "bad", role: "alert", text: error.message }));
  });
}

/** @param {HTMLElement} root @param {Talk} talk @param {State} usual @param {string} owner @param {any} about */
function openExplorer(root, talk, usual, owner, about) {
  let state = talk.address ? readAddress(location.hash, usual) : usual;
  if (!state.prompt && !state.saved) state = { ...state, prompt: about.prompt };
  const past = makePast(state), status = el("p", { class: "status", role: "status" });
  const progress = el("progress", { max: "3", value: "0", "aria-label": "progress", hidden: true });
  /** @type {{cancel: () => void}|null} */
  let running = null;
  /** @type {{cancel: () => void}|null} */
  let asking = null;
  /** @type {(() => void)|null} What waits for the end of a run, refused or not. */
  let ended = null;
  /** What the pictures of this run are called; each takes its name when its first stage comes. */
  const names = ["", ""];
  /** @type {Set<number>} The slots to which something of this run has come. */
  let came = new Set();
  let refusal = "";
  let writing = 0, written = talk.address ? location.hash : "";

  const note = (/** @type {string} */ words, /** @type {boolean} */ bad = false) => {
    status.textContent = words;
    status.classList.toggle("bad", bad);
  };
  const prompt = makePrompt(about, talk, { run: () => commit(runChanges()), note });
  const slots = [0, 1].map((i) => makeSlot(talk, i, {
    chosen: (_, node) => choose(node),
    view: (slot, view) => { state = { ...state, view }; past.replace(state); write(); if (!slots[1 - slot].element.hidden) slots[1 - slot].follow(view); },
    position: (position) => commit({ position }), theme: () => state.theme, started: () => state.view,
  }));
  const find = (/** @type {string} */ node) => {
    const view = "#node=" + encodeURIComponent(node);
    state = { ...state, view };
    for (const slot of slots) slot.follow(view);
    write();
  };
  const act = {
    again: () => new Promise((done, fail) => {
      ended = () => (refusal ? fail(new Error(refusal)) : done(undefined));
      run();
    }),
    commit, find, typed: () => (state.saved ? state : runChanges()), state: () => state, svg: () => slots[0].svg(), go: (/** @type {number} */ i) => restore(past.go(i)),
    ask: (/** @type {any} */ question) => {
      if (asking) asking.cancel();
      asking = talk.stream("ask", owner + "-ask", { ...question, run: firstRun(state) }, (event) => panels.ask.tell(event));
    },
    copy: async (/** @type {HTMLElement} */ told) => {
      const { content } = await talk.file({ form: "py", ...asked(state), theme: state.theme });
      copyText(await content.text(), told);
    },
    opened: (/** @type {any} */ request) => commit({ ...usual, theme: state.theme, panel: state.panel, prompt: request.prompt, saved: request.saved }),
  };
  const changes = makeChanges(about, act), ask = makeAsk(about, act), compare = makeCompare(about, act);
  const keep = makeKeep(about, talk, act), history_ = makeHistory(past, act);
  /** @type {{[name: string]: any}} */
  const panels = { change: changes, ask, compare, keep, history: history_ };
  /** @type {{[name: string]: string}} */
  const titles = { change: "Change", ask: "Ask", compare: "Compare", keep: "Keep", history: "History" };
  const tabs = Object.keys(panels).map((name) => button(titles[name], () => openPanel(state.panel === name ? "" : name), { "aria-expanded": "false", "aria-controls": "panel-" + owner, "data-panel": name }));
  const aside = el("aside", { class: "panel", id: "panel-" + owner, "aria-label": "tools", hidden: true });
  const undo = button("Undo", () => restore(past.step(-1))), redo = button("Redo", () => restore(past.step(1)));
  const theme = button("", () => { state = { ...state, theme: state.theme === "dark" ? "light" : "dark" }; past.replace(state); dress(); write(); });
  const pictures = el("div", { class: "pictures" }, slots.map((slot) => slot.element));
  root.replaceChildren(
    el("header", {}, [
      el("h1", { text: "visit_tl" }), about.models.length > 1 ? labelled("model", prompt.model) : el("span", { class: "model", text: about.models[0].name }),
      el("nav", { "aria-label": "tools" }, [undo, redo, ...tabs, theme]),
    ]),
    prompt.element, el("div", { class: "line told" }, [progress, status]), el("main", {}, [pictures, aside]),
  );

  function runChanges() {
    const read = prompt.read(state);
    // Changes belong to one prompt: another one begins without them.
    return read.prompt === state.prompt && read.model === state.model ? read : { ...read, changes: [], others: [], view: state.view };
  }

  /** A new state, as a step of the history. @param {Partial<State>} changes_ */
  function commit(changes_) {
    state = { ...state, ...changes_ };
    past.add(state);
    write(true);
    run();
  }

  /** @param {State|null} old */
  function restore(old) {
    if (!old) return;
    state = { ...old, theme: state.theme, panel: state.panel };
    write();
    run();
  }

  function run() {
    show();
    if (running) running.cancel();
    changes.difference(undefined);
    compare.difference(undefined);
    if (!state.prompt && !state.saved) {
      for (const slot of slots) slot.clear();
      choose(null);
      progress.hidden = true;
      note("Type a prompt, and Enter.");
      refusal = "there is no picture yet";
      finish();
      return;
    }
    const given = asked(state);
    if (given.runs.length < 2) slots[1].clear();
    refusal = "";
    came = new Set();
    names[0] = state.saved ? "a graph from a file" : state.prompt;
    names[1] = (state.changes.length ? "changed: " + state.changes.map(changeWords).join(", ")
      : state.beside === "model" ? about.models[1 - state.model].name : state.beside === "segments" ? "segments " + state.second : state.second);
    progress.hidden = false;
    progress.max = 3 * given.runs.length;
    progress.value = 0;
    note("running …");
    const began = performance.now();
    running = talk.stream("run", owner, given, (event) => hear(event, began));
  }

  /** Tell whoever waits for the end of the run. */
  function finish() {
    if (ended) ended();
    ended = null;
  }

  /** @param {any} event @param {number} began */
  function hear(event, began) {
    const slot = slots[event.slot || 0], order = ["states", "heads", "whole"].indexOf(event.stage);
    if (event.slot !== undefined && !came.has(event.slot)) {
      came.add(event.slot);
      slot.name(names[event.slot]);
    }
    if (order >= 0) progress.value = 3 * event.slot + order + 1;
    if (event.stage === "states") {
      slot.tellStates(event);
      if (!event.slot) ask.tokens(event.tokens, state);
      note("states read; heads follow …");
    }
    if (event.stage === "file") {
      slot.tellFile(event);
      if (!event.slot) ask.tokens(event.tokens, state);
    }
    if (event.picture) slot.load(event.picture);
    if (event.stage === "heads") note("heads read; memories and neurons follow …");
    if (event.stage === "whole") note(event.nodes + " nodes, " + event.edges + " edges in " + digits((performance.now() - began) / 1000) + " s; largest error of the sums " + digits(event.error));
    if (event.stage === "effects") changes.effects(event.effects);
    if (event.stage === "diff") (state.changes.length ? changes : compare).difference(event.diff);
    if (event.stage === "busy") note("another picture is being computed; waiting …");
    if (event.stage === "refused" || event.stage === "failed") {
      refusal = event.why;
      // A second picture of another run would be taken for a comparison with this one.
      if (came.has(0) && !came.has(1)) slots[1].clear();
      note(event.why + (came.size || slots[0].element.hidden ? "" : " (the picture is still that of the run before)"), true);
    }
    if (event.stage === "end") {
      finish();
      progress.hidden = true;
      root.dataset.runs = String(Number(root.dataset.runs || 0) + 1);
    }
  }

  /** @param {any} node */
  function choose(node) {
    changes.choose(node);
    ask.choose(node);
  }

  /** @param {string} name */
  function openPanel(name) {
    state = { ...state, panel: Object.hasOwn(panels, name) ? name : "" };
    past.replace(state);
    arrange();
    write();
  }

  function show() {
    prompt.write(state);
    changes.write(state);
    compare.write(state);
    history_.write();
    undo.disabled = past.at === 0;
    redo.disabled = past.at === past.list.length - 1;
    arrange();
    dress();
  }

  /** Show the open panel; what is typed and was not run stays. */
  function arrange() {
    aside.hidden = !Object.hasOwn(panels, state.panel);
    if (!aside.hidden && aside.firstChild !== panels[state.panel].element) aside.replaceChildren(panels[state.panel].element);
    for (const tab of tabs) tab.setAttribute("aria-expanded", String(tab.dataset.panel === state.panel));
    root.classList.toggle("with-panel", !aside.hidden);
  }

  function dress() {
    root.dataset.theme = state.theme;
    if (talk.address) document.body.dataset.theme = state.theme;
    theme.textContent = state.theme === "dark" ? "Light" : "Dark";
    for (const slot of slots) slot.theme();
  }

  /** @param {boolean} [step] A step that the browser's back button undoes. */
  function write(step) {
    if (!talk.address) return;
    clearTimeout(writing);
    writing = window.setTimeout(() => {
      const now = writeAddress(state, usual);
      if (now === written) return;
      written = now;
      if (step) history.pushState(null, "", now);
      else history.replaceState(null, "", now);
    }, step ? 0 : 250);
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    const on = /** @type {HTMLElement} */ (event.target);
    if (!(event.ctrlKey || event.metaKey) || on.matches("input, textarea, select") || !root.contains(on === document.body ? root : on)) return;
    if (event.key === "z" && !event.shiftKey) { event.preventDefault(); restore(past.step(-1)); }
    if (event.key === "y" || (event.key === "Z" && event.shiftKey)) { event.preventDefault(); restore(past.step(1)); }
  }

  function moved() {
    if (location.hash === written) return;
    written = location.hash;
    state = readAddress(location.hash, usual);
    past.add(state);
    run();
  }

  if (talk.address) {
    document.addEventListener("keydown", key);
    window.addEventListener("hashchange", moved);
  } else {
    // In a notebook, Shift and Enter would run the cell again and single letters change it. JupyterLab
    // hears keys when they have come up to the document; before 4.1 it heard them first.
    root.addEventListener("keydown", (event) => { key(event); event.stopPropagation(); });
    root.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  choose(null);
  if (state.prompt || state.saved) run();
  else { show(); note("Type a prompt, and Enter."); prompt.focus(); }
}
