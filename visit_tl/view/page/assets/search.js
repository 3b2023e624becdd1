// @ts-check
// Finds nodes by id, by position or by a token that they promote.

/** The typed text in the spelling of labels, with visible spaces. @param {string} text */
function spelled(text) { return text.replace(/ /g, "␣").toLowerCase(); }

/**
 * @param {Model} model @param {string} typed
 * @returns {{node: number, why: string}[]} The best first: ids, then nodes whose first token is
 *   the word, then those with it further down, then those with a token that only contains it.
 */
function search(model, typed) {
  const query = typed.trim();
  if (!query) return [];
  const byId = searchId(model, query);
  if (byId.length) return byId;
  const word = spelled(query), found = [];
  const matching = new Map();
  model.texts.forEach((text, i) => {
    const low = text.toLowerCase();
    if (low === word || low === "␣" + word) matching.set(i, 0);
    else if (low.includes(word)) matching.set(i, 1);
  });
  for (let i = 0; i < model.count; i++) {
    const flat = model.nodes[isNegative(model, i) ? "bottom" : "top"][i];
    let best = Infinity, why = "";
    for (let k = 0; k < flat.length; k += 2) {
      if (!matching.has(flat[k])) continue;
      const place = matching.get(flat[k]) * 10 + k / 2;
      if (place < best) {
        best = place;
        why = "reads " + model.texts[flat[k]] + (k ? " as " + ["", "2nd", "3rd"][k / 2] : " first");
        if (k > 4) why = "reads " + model.texts[flat[k]] + " as " + (k / 2 + 1) + "th";
      }
    }
    if (best < Infinity) found.push({ node: i, why, best, prob: model.nodes.prob[i] });
  }
  const order = found.sort((a, b) => a.best - b.best || b.prob - a.prob || a.node - b.node);
  if (GRADIENTS) order.push(...searchGradients(model, matching, new Set(order.map((hit) => hit.node))));
  if (FEATURES) order.push(...searchFeatures(model, query, new Set(order.map((hit) => hit.node))));
  const tokens = searchTokens(model, word), seen = new Set(tokens.map((hit) => hit.node));
  return [...tokens, ...order.filter((hit) => !seen.has(hit.node))];
}

/** Matching tokens of the prompt, by the states in which they enter the model. @param {Model} model
 * @param {string} word */
function searchTokens(model, word) {
  const found = [];
  for (const [position, node] of inputs(model)) {
    const low = (model.graph.tokens[position] || "").toLowerCase();
    if (low === word || low === "␣" + word) {
      found.push({ node, why: "token " + tokenAt(model, position) + " of the prompt" });
    }
  }
  return found;
}

/** `L29H1`, `29.1`, `a9.h6`, `L9H6@4`, the start of an id, or `@4` for a position.
 * @param {Model} model @param {string} query @returns {{node: number, why: string}[]} */
function searchId(model, query) {
  const foreign = /^a?(\d{1,9})\.h?(\d{1,9})(@\d+)?$/i.exec(query);
  const name = foreign ? "L" + Number(foreign[1]) + "H" + Number(foreign[2]) + (foreign[3] || "") : query;
  const own = name.replace(new RegExp("@" + model.graph.position + "$"), "").toLowerCase();
  const place = /^@(\d+)$/.exec(query), found = [];
  const looksLikeId = place || /^(l\d+[a-z.]|logits|final_norm)/i.test(own);
  if (!looksLikeId) return [];
  for (const [id, node] of model.byName) {
    const low = id.toLowerCase();
    if (place ? positionOf(model, node) === Number(place[1])
      && kindOf(model, node) === "resid_pre" : low === own) {
      found.push({ node, why: "id" });
    } else if (place && kindOf(model, node) === "value" && model.nodes.key[node] === Number(place[1])) {
      found.push({ node, why: "a memory of " + tokenAt(model, Number(place[1])) });
    } else if (!place && low.startsWith(own) && !/[a-z0-9]/.test(low[own.length] || "")) {
      found.push({ node, why: "part of " + query });
    } else if (!place && low.startsWith(own) && /[a-z.]$/.test(own)) {
      found.push({ node, why: "id begins so" });
    }
  }
  return found.sort((a, b) => Number(b.why === "id") - Number(a.why === "id"));
}
