// @ts-check
// What the mouse does on the figure, and the buttons that do the same.

/** A point of the figure, in px. @param {HTMLElement} figure @param {MouseEvent} event
 * @returns {[number, number]} */
function inside(figure, event) {
  const box = figure.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

/**
 * A press that moves drags the picture; one without a move is a click.
 * @param {any} figure
 * @param {{click: (event: MouseEvent) => void, hover: (event: MouseEvent) => void, leave: () => void,
 *   moved: (dx: number, dy: number) => void, zoom: (by: number, x: number, y: number) => void}} act
 */
function bindMouse(figure, act) {
  const STILL = 4; // px
  /** @type {{x: number, y: number, moves: boolean}|null} */
  let down = null;
  figure.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => {
    if (e.button === 0 && e.isPrimary) down = { x: e.clientX, y: e.clientY, moves: false };
  });
  window.addEventListener("pointermove", (e) => {
    if (!down || !e.isPrimary) return;
    const dx = e.clientX - down.x, dy = e.clientY - down.y;
    if (!down.moves && Math.hypot(dx, dy) < STILL) return;
    down.moves = true;
    act.leave();
    shift(figure, dx, dy);
  });
  window.addEventListener("pointerup", (e) => {
    const from = down;
    if (!from || !e.isPrimary) return;
    down = null;
    byId("frame").focus({ preventScroll: true });
    if (from.moves) act.moved(e.clientX - from.x, e.clientY - from.y);
    else act.click(e);
  });
  window.addEventListener("pointercancel", () => {
    if (down && down.moves) shift(figure, 0, 0);
    down = null;
  });
  figure.addEventListener("mousemove", (/** @type {MouseEvent} */ e) => { if (!down || !down.moves) act.hover(e); });
  figure.addEventListener("mouseleave", act.leave);
  figure.addEventListener("wheel", (/** @type {WheelEvent} */ e) => {
    // A plain wheel scrolls the page, which may be a notebook.
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    act.leave();
    act.zoom(e.deltaY < 0 ? 0.8 : 1.25, ...inside(figure, e));
  }, { passive: false });
}

/** @param {any} figure
 * @param {{zoom: (by: number) => void, fit: () => void, size: () => {width: number, height: number}}} act */
function bindButtons(figure, act) {
  byId("in").addEventListener("click", () => act.zoom(0.7));
  byId("out").addEventListener("click", () => act.zoom(1 / 0.7));
  byId("fit").addEventListener("click", act.fit);
  byId("save").addEventListener("click", () => savePicture(figure));
  new ResizeObserver(() => {
    const { width, height } = act.size();
    if (figure.clientWidth !== width || figure.clientHeight !== height) act.fit();
  }).observe(figure);
}
