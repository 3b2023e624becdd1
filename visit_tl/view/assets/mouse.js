// @ts-check
// The mouse on the figure, and the buttons that do the same.

/** A point of the figure, in px. @param {HTMLElement} figure @param {MouseEvent} event
 * @returns {[number, number]} */
function inside(figure, event) {
  const box = figure.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/**
 * Plotly drags; a press without a move is a click.
 * @param {any} figure
 * @param {{click: (event: MouseEvent) => void, hover: (event: MouseEvent) => void, leave: () => void,
 *   zoom: (by: number, x: number, y: number) => void}} act
 */
function bindMouse(figure, act) {
  /** @type {number[]|null} */
  let down = null;
  figure.addEventListener("pointerdown", (/** @type {MouseEvent} */ e) => { down = [e.clientX, e.clientY]; }, true);
  window.addEventListener("pointerup", (e) => {
    const still = down && Math.hypot(e.clientX - down[0], e.clientY - down[1]) < 4;
    down = null;
    if (!still || e.button !== 0) return;
    byId("frame").focus({ preventScroll: true });
    act.click(e);
  }, true);
  figure.addEventListener("mousemove", act.hover);
  figure.addEventListener("mouseleave", act.leave);
  figure.addEventListener("wheel", (/** @type {WheelEvent} */ e) => {
    // A plain wheel scrolls the page, which may be a notebook.
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    act.leave();
    act.zoom(e.deltaY < 0 ? 0.8 : 1.25, ...inside(figure, e));
  }, { passive: false });
}

/** @param {any} figure @param {{zoom: (by: number) => void, fit: () => void}} act */
function bindButtons(figure, act) {
  byId("in").addEventListener("click", () => act.zoom(0.7));
  byId("out").addEventListener("click", () => act.zoom(1 / 0.7));
  byId("fit").addEventListener("click", act.fit);
  byId("save").addEventListener("click", () => Plotly.downloadImage(figure, {
    format: "svg", filename: "visit_tl", width: figure.clientWidth, height: figure.clientHeight }));
  new ResizeObserver(() => {
    const { width, height } = figure.layout;
    if (figure.clientWidth !== width || figure.clientHeight !== height) act.fit();
  }).observe(figure);
}
