// @ts-check
// Tokens as they are typed, and as they were run.

/** @param {{text: string, bos: boolean}[]} tokens @param {number} count @param {number} here The query
 * position, or -1. @param {((position: number) => void)|null} choose */
function chipList(tokens, count, here, choose) {
  const made = tokens.map((token, i) => {
    const facts = {
      class: "chip" + (token.bos ? " bos" : "") + (i === here ? " here" : ""),
      title: "position " + i + (token.bos ? ", a BOS put before the prompt" : "") + (i === here ? ", the position of the picture" : ""),
    };
    const inner = [bdi(token.text), el("sub", { text: String(i) })];
    if (!choose) return el("span", facts, inner);
    return el("button", { type: "button", ...facts, "aria-current": i === here ? "true" : null, click: () => choose(i) }, inner);
  });
  if (count > tokens.length) made.push(el("span", { class: "quiet", text: "… " + (count - tokens.length) + " more" }));
  return made;
}

/** Asks for tokens a moment after the last key. @param {Talk} talk @param {() => any} request
 * @param {(found: any) => void} show @param {(why: string) => void} refuse */
function liveTokens(talk, request, show, refuse) {
  const PAUSE = 120; // ms
  let waiting = 0, newest = 0;
  return () => {
    clearTimeout(waiting);
    waiting = window.setTimeout(async () => {
      const mine = ++newest;
      try {
        const found = await talk.quick("tokens", request());
        if (mine === newest) show(found);
      } catch (error) {
        if (mine === newest) refuse(/** @type {Error} */ (error).message);
      }
    }, PAUSE);
  };
}
