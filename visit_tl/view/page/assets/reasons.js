// @ts-check
// Why heads looked where they looked; only pages of graphs with reasons contain this file, and only they
// contain the lines of other files that begin with `if (REASONS`.

const REASONS = true;

/** For a head, why it looked at each of some positions: `[key, score, capped or null, attention, others,
 * pairs]`; pairs are a flat list of two texts and a number. @param {Model} model @param {number} i */
function reasonsAt(model, i) { return (model.nodes.reasons || {})[i]; }

/** Put why a head looked where it looked under its attention.
 * @param {HTMLElement} panel @param {Model} model @param {number} i */
function addReasons(panel, model, i) {
  const all = reasonsAt(model, i);
  if (!all) return;
  const before = panel.querySelector("[data-part=attention]") || panel.querySelector("[data-part=top]");
  const shown = section("Why it looked", [
    make("p", { class: "what", text: "Its score before the softmax: what was written at the query times "
      + "what was written at the key." }),
    ...all.map((/** @type {any[]} */ reason, /** @type {number} */ k) => reasonOf(model, reason, k === 0)),
  ], "why");
  if (before) before.after(shown); else panel.append(shown);
}

/** One score and its largest pairs. @param {Model} model @param {any[]} reason @param {boolean} open */
function reasonOf(model, reason, open) {
  const [key, score, capped, attention, others, pairs] = reason;
  /** @type {[string, string, number][]} */
  const rows = [];
  for (let k = 0; k < pairs.length; k += 3) {
    rows.push([model.texts[pairs[k]], model.texts[pairs[k + 1]], pairs[k + 2]]);
  }
  const most = Math.max(...rows.map((row) => Math.abs(row[2] || 0)), 0);
  const told = "score " + number(score) + (capped === null ? "" : ", " + number(capped) + " after the softcap")
    + ", attention " + number(attention);
  const summary = make("summary", {}, [
    token(tokenAt(model, key)), make("span", { text: ": " + told }),
  ]);
  return make("details", { class: "why", ...(open ? { open: "" } : {}) }, [
    summary,
    make("div", { class: "reason titles" }, [
      make("span", { text: "at the query" }), make("span", { text: "at the key" }),
      make("span", {}), make("span", { class: "value", text: "adds" }),
    ]),
    ...rows.map((row) => reasonRow(row[0], row[1], row[2], most)),
    reasonRow("all others", "", others, 0),
  ]);
}

/** @param {string} query @param {string} key @param {number} value @param {number} most */
function reasonRow(query, key, value, most) {
  return make("div", { class: "reason" }, [
    make("span", { text: query }), make("span", { text: key }),
    most > 0 ? signedTrack(value, most) : make("span", {}),
    make("span", { class: "value", text: signed(value) }),
  ]);
}
