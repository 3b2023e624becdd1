// @ts-check
// Gradients and reversed attention; only pages of graphs that have some contain this file, and only they
// contain the lines of other files that begin with `if (GRADIENTS`.

const GRADIENTS = true;

/** The norm of the gradient at a node, the target's rank in it (-1 if it is 0), its top and its bottom
 * tokens; undefined if there is none. @param {Model} model @param {number} i */
function gradientAt(model, i) { return (model.nodes.gradient || {})[i]; }

/** The norm of a head's reversed attention, and its row at the head's position.
 * @param {Model} model @param {number} i */
function reversedAt(model, i) { return (model.nodes.reversed || {})[i]; }

/** The measures that the filter can use. @param {Model} model */
function allMeasures(model) {
  return ["effect", "attribution", "gradient", "reversed"].filter((name) =>
    Object.keys(model.nodes[name] || {}).length > 0);
}

/** Put the words of the gradient beside those of the node, and reversed attention beside attention.
 * @param {HTMLElement} panel @param {Model} model @param {number} i @param {any} tools */
function addGradients(panel, model, i, tools) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (
    panel.querySelector("[data-part=" + name + "]"));
  const top = part("top"), bottom = part("bottom"), attention = part("attention");
  if (reversedAt(model, i)) {
    const both = bothAttentions(model, i, tools);
    if (attention) attention.replaceWith(both); else top.after(both);
  }
  const gradient = gradientAt(model, i);
  if (!gradient) return;
  const told = gradientFacts(model, gradient);
  top.before(told);
  if (gradient[1] < 0) return;
  const pair = make("div", { class: "pair" });
  told.after(pair);
  for (const [section, name] of /** @type {[HTMLElement, string][]} */ ([[top, "top"], [bottom, "bottom"]])) {
    /** @type {HTMLElement} */ (section.firstElementChild).textContent = "Forward, " + name;
    pair.append(section, gradientWords(model, gradient, name));
  }
}

/** @param {Model} model @param {any[]} gradient */
function gradientFacts(model, gradient) {
  const [norm, rank] = gradient;
  if (rank < 0) {
    return section("Gradient", [make("p", { text: "norm " + number(norm) + ": it has no words" })], "gradient");
  }
  return section("Gradient", [
    make("p", {}, [
      make("span", { text: "norm " + number(norm) + "; in it, target " }), token(model.graph.target),
      make("span", { text: " has rank " + rank + " of 0.." + (model.graph.vocabulary - 1) }),
    ]),
    make("p", { class: "what", text: "A step down the gradient adds its bottom tokens." }),
  ], "gradient");
}

/** @param {Model} model @param {any[]} gradient @param {string} side */
function gradientWords(model, gradient, side) {
  const list = readsIn(model, gradient[side === "top" ? 2 : 3]);
  return section("Backward, " + side, list.map((read) => bar(
    token(read.text), side === "top" ? read.prob : 0, number(read.prob), null)), "gradient-" + side);
}

/** @param {Model} model @param {any[]} flat Text, probability, text, probability, ... */
function readsIn(model, flat) {
  const found = [];
  for (let k = 0; k < flat.length; k += 2) found.push({ text: model.texts[flat[k]], prob: flat[k + 1] });
  return found;
}

/** A head's attention and its reversed attention to the tokens of the prompt, in their order.
 * @param {Model} model @param {number} i @param {any} tools */
function bothAttentions(model, i, tools) {
  const forward = model.nodes.attention[i] || [], [norm, row] = reversedAt(model, i);
  const here = lastSeen(model, i), count = Math.min(Math.max(forward.length, row.length), here + 1);
  const most = Math.max(...forward.slice(0, here + 1).map((/** @type {number|null} */ a) => a || 0));
  const largest = Math.max(...row.slice(0, here + 1).map((/** @type {number|null} */ r) => Math.abs(r || 0)), 0);
  const rows = Array.from({ length: count }, (_, j) => {
    const to = readFrom(model, i, j), a = forward[j];
    const inner = [
      make("span", { class: "name" }, [token(tokenAt(model, j))]),
      make("span", { class: "track" }, [
        make("span", { class: "fill", style: { width: 100 * Math.min(a || 0, 1) + "%" } }),
      ]),
      quantity("attention", a), signedTrack(row[j], largest), quantity("reversed", row[j]),
    ];
    const made = to < 0 ? make("div", { class: "row both" }, inner)
      : make("button", { type: "button", class: "row both", click: () => tools.select(to) }, inner);
    if (a && a === most) made.classList.add("most");
    return made;
  });
  const titles = make("div", { class: "row both titles", "aria-hidden": "true" }, [
    make("span", {}), make("span", { text: "attention" }), make("span", { text: "reversed" }),
  ]);
  return section("Attention, forward and reversed", [
    make("p", { text: "Norm of the reversed map " + number(norm) + "; bars in this row go to ±" + number(largest) }),
    make("div", { class: "scroll" }, [titles, ...rows]),
  ], "attention");
}

/** A number with its name for screen readers. @param {string} name @param {number|null} value */
function quantity(name, value) {
  return make("span", { class: "value " + name }, [
    make("span", { class: "unseen", text: name + " " }), make("span", { text: number(value) }),
  ]);
}

/** Lines of a tooltip. @param {Model} model @param {number} i @returns {HTMLElement[]} */
function gradientTip(model, i) {
  const gradient = gradientAt(model, i), back = reversedAt(model, i), lines = [];
  if (gradient) {
    lines.push(make("div", {}, [
      make("span", { text: "gradient norm " + number(gradient[0]) + (gradient[1] < 0 ? "" : "; a step down it adds ") }),
      ...readsIn(model, gradient[3]).flatMap((read) => [token(read.text), make("span", { text: "  " })]),
    ]));
  }
  if (back) lines.push(make("div", { text: "reversed attention: norm " + number(back[0]) }));
  return lines;
}

/** The nodes where a step down the gradient adds a word, the best place first.
 * @param {Model} model @param {Map<number, number>} matching Texts by how well they match.
 * @param {Set<number>} seen Nodes to leave out. */
function searchGradients(model, matching, seen) {
  const found = [];
  for (let i = 0; i < model.count; i++) {
    const gradient = gradientAt(model, i);
    if (!gradient || seen.has(i)) continue;
    let best = Infinity, why = "";
    readsIn(model, gradient[3]).forEach((read, k) => {
      const place = (matching.get(gradient[3][2 * k]) ?? Infinity) * 10 + k;
      if (place >= best) return;
      best = place;
      why = "a step down its gradient adds " + read.text;
    });
    if (best < Infinity) found.push({ node: i, why, best, prob: gradient[0] });
  }
  return found.sort((a, b) => a.best - b.best || b.prob - a.prob || a.node - b.node);
}

/** Make the table of heads sortable by its measured columns: largest first, or as it was. */
function bindSorting() {
  const body = document.querySelector("#heads tbody");
  if (!body) return;
  const rows = [...body.children], heads = [...document.querySelectorAll("#heads th")];
  heads.forEach((head, column) => {
    if (!head.hasAttribute("data-sort")) return;
    const value = (/** @type {Element} */ row) =>
      Number(row.children[column].getAttribute("data-value") ?? -Infinity);
    const button = make("button", { type: "button", text: head.textContent, click: () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      if (down) head.setAttribute("aria-sort", "descending");
      body.append(...(down ? [...rows].sort((a, b) => value(b) - value(a)) : rows));
    } });
    head.replaceChildren(button);
  });
}
