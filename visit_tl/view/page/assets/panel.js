// @ts-check
// The panel beside the picture, with the facts of the chosen node. Text is inserted as text nodes.

/**
 * An element with its content.
 * @param {string} tag @param {{[name: string]: any}} facts Attributes; `text` is the content.
 * @param {(Node|null)[]} [children] @returns {HTMLElement}
 */
function make(tag, facts, children) {
  const element = document.createElement(tag);
  for (const name in facts) {
    if (name === "text") element.textContent = facts[name];
    else if (name === "style") Object.assign(element.style, facts[name]);
    else if (name === "click") element.addEventListener("click", facts[name]);
    else if (facts[name] !== null) element.setAttribute(name, facts[name]);
  }
  for (const child of children || []) if (child) element.append(child);
  return element;
}

/** A token as text with its own writing direction. @param {string} text */
function token(text) { return make("bdi", { text }); }

/** A row of a bar chart. @param {HTMLElement} name @param {number|null} share In [0, 1].
 * @param {string} words @param {(() => void)|null} click @param {string} [mark] */
function bar(name, share, words, click, mark) {
  const inner = [
    make("span", { class: "name" }, [name]),
    make("span", { class: "track" }, [
      make("span", { class: "fill", style: { width: 100 * Math.min(share || 0, 1) + "%" } }),
    ]),
    make("span", { class: "value", text: words }),
  ];
  const row = click ? make("button", { type: "button", class: "row", click }, inner)
    : make("div", { class: "row" }, inner);
  if (mark) row.classList.add(mark);
  return row;
}

/** @param {string} title @param {(Node|null)[]} content @param {string} name */
function section(title, content, name) {
  return make("section", { "data-part": name }, [make("h3", { text: title }), ...content]);
}

/**
 * Fill the panel.
 * @param {HTMLElement} panel @param {Model} model @param {View} view
 * @param {{worth: Float64Array, select: (node: number, way?: number) => void,
 *   copy: (text: string, button: HTMLElement) => void, colours: any,
 *   second: (text: string) => void}} tools
 */
function showPanel(panel, model, view, tools) {
  const i = view.selected;
  panel.replaceChildren();
  if (i < 0) {
    panel.append(...overview(model, tools));
    return;
  }
  const kind = kindOf(model, i), position = positionOf(model, i);
  panel.append(make("h2", {}, [
    make("span", { class: "dot", style: { background: tools.colours.ranks[rankBin(model, i, tools.colours)] } }),
    make("span", { class: "id", text: nodeName(model, i) }),
    token(" " + promoted(model, i)),
  ]));
  panel.append(make("p", { class: "what" }, [
    make("span", { text: nodeTitle(model, i) + "; at " }), token(tokenAt(model, position)),
  ]));
  if (isZero(model, i)) {
    panel.append(make("p", { text: "A vector of zeros: it says nothing, and the tokens and the rank below are those of no vector." }));
  }
  if (isNegative(model, i)) {
    panel.append(make("p", { text: "Subtracted: it promotes its bottom tokens." }));
  }
  const closed = (model.nodes.unopened || {})[i];
  if (closed !== undefined) {
    panel.append(make("p", { text: "Not opened: " + model.texts[closed] + "." }));
  }
  panel.append(numbersOf(model, i), rankOf(model, view, i, tools));
  panel.append(readsOf(model, i, "top"));
  if (kind === "logits" || STREAM.includes(kind)) panel.append(moversOf(model, i, tools));
  if (model.nodes.attention[i]) panel.append(attentionOf(model, i, tools));
  panel.append(waysOf(model, view, i, tools), readsOf(model, i, "bottom"));
  panel.append(neighbours(model, i, "into", tools), neighbours(model, i, "outOf", tools));
  panel.append(hookOf(model, i, tools));
  if (GRADIENTS) addGradients(panel, model, i, tools);
  if (REASONS) addReasons(panel, model, i);
}

/** What the panel shows while no node is chosen. @param {Model} model @param {any} tools */
function overview(model, tools) {
  const end = model.byName.get("logits");
  const start = end === undefined ? null : make("button", {
    type: "button", class: "row", click: () => tools.select(end),
  }, [make("span", { text: "Start at the prediction: " }), token(promoted(model, end))]);
  return [
    make("h2", { text: "Choose a node" }),
    make("p", { text: "A click lights all that leads to it and all that it leads to, and shows here what is known of it." }),
    ...(start ? [start] : []),
  ];
}

/** @param {Model} model @param {number} i */
function numbersOf(model, i) {
  const n = model.nodes, facts = [
    ["norm", number(n.norm[i])],
    ["entropy", number(n.entropy[i]) + " nats of at most " + number(Math.log(model.graph.vocabulary))],
  ];
  if (LENS) facts.push(["read by", readBy(model, i)]);
  if (n.token[i] >= 0) facts.push(["made by", madeBy(model, i)]);
  if (FEATURES) facts.push(...featureFacts(model, i));
  if (SEGMENTS && isLater(model, i)) facts.push(["seen because", "it is in the same segment"]);
  if (ROLES && n.roles[i]) facts.push(["roles", rolesOf(model, i).join(", ")]);
  if (n.coefficient[i] !== null) facts.push([kindOf(model, i) === "expert" ? "router weight" : "coefficient", number(n.coefficient[i])]);
  if (n.attribution[i] !== undefined) {
    facts.push(["direct logit attribution", signed(n.attribution[i])]);
  }
  if (n.effect[i]) facts.push(["effect", signed(n.effect[i][0]) + (n.effect[i][1] ? " (measured)" : " (estimated)")]);
  return make("dl", { "data-part": "numbers" }, facts.map(([name, value]) => make("div", {}, [
    make("dt", { text: name }), make("dd", {}, [token(value)]),
  ])));
}

/** @param {number|null} value */
function signed(value) { return (value !== null && value > 0 ? "+" : "") + number(value); }

/** The rank of the target and, as far as the file has it, of a second token.
 * @param {Model} model @param {View} view @param {number} i @param {any} tools */
function rankOf(model, view, i, tools) {
  const field = /** @type {HTMLInputElement} */ (make("input", {
    type: "text", id: "second", placeholder: "a second token", "aria-label": "a second token",
    maxlength: "60",
  }));
  field.value = view.second;
  const answer = make("p", { id: "answer", text: secondRank(model, i, view.second) });
  field.addEventListener("input", () => {
    tools.second(field.value);
    answer.textContent = secondRank(model, i, field.value);
  });
  return section("Rank", [
    make("p", {}, [
      make("span", { text: "target " }), token(model.graph.target),
      make("span", { text: ": rank " + model.nodes.rank[i] + " of 0.." + (model.graph.vocabulary - 1)
        + ", p = " + number(model.nodes.prob[i]) }),
    ]), field, answer,
  ], "rank");
}

/** @param {Model} model @param {number} i @param {string} typed */
function secondRank(model, i, typed) {
  if (!typed.trim()) return "";
  const word = spelled(typed), options = [word, "␣" + word, spelled(typed.trim()), "␣" + spelled(typed.trim())];
  for (const wanted of options) {
    for (const side of /** @type {("top"|"bottom")[]} */ (["top", "bottom"])) {
      const list = reads(model, i, side), at = list.findIndex((read) => read.text.toLowerCase() === wanted);
      if (at < 0) continue;
      const rank = side === "top" ? String(at) : String(model.graph.vocabulary - 1 - at);
      return list[at].text + ": rank " + rank + ", p = " + number(list[at].prob);
    }
  }
  const known = Math.max(reads(model, i, "top").length, reads(model, i, "bottom").length);
  return typed.trim() + ": neither among the first " + known + " nor the last " + known
    + "; the file knows no more of this node";
}

/** @param {Model} model @param {number} i @param {"top"|"bottom"} side */
function readsOf(model, i, side) {
  const list = reads(model, i, side);
  const title = side === "top" ? "Top tokens" : "Bottom tokens";
  return section(title, list.map((read) => bar(token(read.text), side === "top" ? read.prob : 0,
    number(read.prob), null)), side);
}

/** The attention of a head to the tokens of the prompt, in their order. @param {Model} model @param {number} i
 * @param {any} tools */
function attentionOf(model, i, tools) {
  const row = model.nodes.attention[i], here = lastSeen(model, i);
  const most = Math.max(...row.map((/** @type {number|null} */ a) => a || 0));
  const rows = row.slice(0, here + 1).map((/** @type {number|null} */ a, /** @type {number} */ j) => {
    const to = readFrom(model, i, j);
    return bar(token(tokenAt(model, j)), a, number(a), to < 0 ? null : () => tools.select(to),
      a !== null && a > 0 && a === most ? "most" : "");
  });
  return section("Attention to the prompt", [make("div", { class: "scroll" }, rows)], "attention");
}

/** What a head read at a position: the state that enters the model there if that is in the graph,
 * else the state that enters the head's block, else the memory value. @param {Model} model @param {number} i @param {number} j */
function readFrom(model, i, j) {
  const n = model.nodes, at = n.at[i] < 0 ? "" : "@" + n.at[i], there = j === model.graph.position ? "" : "@" + j;
  const names = ["L" + model.graph.layers[0] + ".resid_pre" + there,
    "L" + n.layer[i] + ".resid_pre" + there, "L" + n.layer[i] + "H" + n.head[i] + ".v" + j + at];
  for (const name of names) {
    const found = model.byName.get(name);
    if (found !== undefined && name !== nodeName(model, i)) return found;
  }
  return -1;
}

/** @param {Model} model @param {View} view @param {number} i @param {any} tools */
function waysOf(model, view, i, tools) {
  const ways = waysFromInput(model, tools.worth, i).slice(0, 6);
  if (!ways.length || (ways.length === 1 && ways[0].nodes.length === 1)) return make("span", {});
  const chosen = ways.find((way) => way.position === view.way) || ways[0];
  return section("Ways from the prompt", ways.map((way) => make("button", {
    type: "button", class: "row" + (way === chosen ? " most" : ""), "aria-pressed": String(way === chosen),
    click: () => tools.select(i, way.position),
  }, [token(tokenAt(model, way.position)), make("span", {
    class: "value", text: way.heads.length
      ? "through " + way.heads.map((head) => nodeName(model, head)).join(", ") : "along the stream",
  })])), "ways");
}

/** The heads before a state that read a memory which promotes the target, the largest share first.
 * @param {Model} model @param {number} i @param {any} tools */
function moversOf(model, i, tools) {
  const route = model.depths.route, marks = reach(model, i);
  /** @type {{head: number, via: number, score: number}[]} */
  const found = [];
  for (let e = 0; e < route.edges.source.length; e++) {
    const head = route.edges.source[e];
    if (route.edges.kind[e] !== 2 || !(marks[head] & 1) || !route.edges.via) continue;
    const via = route.edges.via[e];
    if (promotedRank(model, via) < FIRST_RANKS) found.push({ head, via, score: route.edges.score[e] || 0 });
  }
  found.sort((a, b) => b.score - a.score);
  if (!found.length) return make("span", {});
  return section("Heads that bring the target", found.slice(0, 6).map(({ head, via, score }) => bar(
    make("span", {}, [make("span", { text: nodeName(model, head) + " ← " }), token(tokenAt(model, model.nodes.key[via]))]),
    score / (found[0].score || 1), number(score), () => tools.select(head))), "movers");
}

/** @param {Model} model @param {number} i @param {"into"|"outOf"} side @param {any} tools */
function neighbours(model, i, side, tools) {
  const list = [...model[side][i]].sort((a, b) => Math.abs(model.edges.score[b] || 0)
    - Math.abs(model.edges.score[a] || 0));
  if (!list.length) return make("span", {});
  const rows = list.map((e) => {
    const other = side === "into" ? model.edges.source[e] : model.edges.target[e];
    const effect = model.edges.effect[e];
    const fact = edgeFact(model, model.edges.kind[e], model.edges.score[e], model.edges.target[e])
      + (effect ? "; effect " + signed(effect[0]) : "");
    return make("button", { type: "button", class: "row", click: () => tools.select(other) }, [
      make("span", { text: nodeName(model, other) + " " }), token(promoted(model, other)),
      make("span", { class: "value", text: fact }),
    ]);
  });
  return section(side === "into" ? "Comes from" : "Goes to", [make("div", { class: "scroll" }, rows)], side);
}

/** The hook and the index of the node in the model, with a button to copy them. @param {Model} model @param {number} i @param {any} tools */
function hookOf(model, i, tools) {
  const hook = model.nodes.hook[i];
  if (hook < 0) return make("p", { "data-part": "hook", text: "A bias: it lives at no hook." });
  const name = model.nodes.hooks[hook], index = model.nodes.index[i];
  const text = JSON.stringify(name) + ", (" + index.join(", ") + (index.length === 1 ? ",)" : ")");
  const button = make("button", { type: "button", id: "copy", text: "copy", click: () => tools.copy(text, button) });
  return section("Hook and index", [make("code", { text }), button], "hook");
}
