// @ts-check
// Bars of signed numbers, for pages that have gradients or reasons.

/** A bar from the middle, to the left if the number is negative.
 * @param {number|null} value @param {number} largest */
function signedTrack(value, largest) {
  const size = largest > 0 ? 50 * Math.abs(value || 0) / largest : 0, below = (value || 0) < 0;
  return make("span", { class: "track signed" }, [make("span", {
    class: "fill " + (below ? "minus" : "plus"),
    style: { width: size + "%", marginLeft: (below ? 50 - size : 50) + "%" },
  })]);
}
