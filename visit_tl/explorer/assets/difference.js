// @ts-check
// What differs between two pictures: what appeared, vanished and changed rank.

/** @param {any} diff @param {(node: string) => void} choose */
function differenceView(diff, choose) {
  if (!diff) return [el("p", { class: "quiet", text: "The two follow different targets or are of different shapes, so their ranks are not compared." })];
  const [changed, appeared, vanished, same] = diff.counts;
  const id = (/** @type {any} */ one) => button(one.id, () => choose(one.id), { class: "link" });
  const parts = [el("p", { text: changed + " nodes changed the target's rank, " + appeared + " appeared, " + vanished + " vanished, " + same + " are as before." })];
  if (diff.changed.length) {
    parts.push(el("h3", { text: "Changed rank" }), table(["node", "said", "rank", "says", "rank"], diff.changed.map((/** @type {any} */ one) => [
      id(one), one.says_before, String(one.rank_before), one.says_after, String(one.rank_after)]), "nodes that changed rank"));
  }
  for (const [title, list, when] of [["Appeared", diff.appeared, "after"], ["Vanished", diff.vanished, "before"]]) {
    if (list.length) {
      parts.push(el("h3", { text: title }), table(["node", "says", "rank"], list.map((/** @type {any} */ one) => [
        id(one), one["says_" + when], String(one["rank_" + when])]), title + " nodes"));
    }
  }
  return parts;
}
