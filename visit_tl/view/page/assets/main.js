// @ts-check
// The page: it holds one view and redraws it after every change.

(function () {
  const model = readPayload(JSON.parse(byId("data").textContent));
  const themes = JSON.parse(byId("themes").textContent);
  const opening = JSON.parse(byId("opening").textContent);
  const figure = byId("figure"), tip = byId("tip"), panel = byId("panel"), field = byId("search");
  const worth = worths(model), [first, last] = model.graph.layers;
  /** @type {View} */
  const usual = {
    depth: opening.depth, layers: opening.layers, position: model.graph.position, nodes: opening.nodes,
    edges: opening.edges, without: [], rank: null, strength: 0, by: "strength", selected: -1, way: -1, query: "",
    second: "", theme: opening.theme,
  };
  let view = readFragment(model, location.hash, usual);
  /** @type {{marks: Uint8Array|null, way: number[]}} */
  let lit = { marks: null, way: [] };
  /** @type {Set<number>} */
  let hits = new Set();
  /** @type {Drawn} */
  let drawn;
  let seen = extent(model, view), written = "", waiting = 0, ready = false;
  /** @type {{list: number[], at: number}|null} The nodes that up and down choose among. */
  let walk = null;

  function colours() { return themes[view.theme]; }

  function draw() {
    const size = { width: Math.max(figure.clientWidth, 200), height: Math.max(figure.clientHeight, 200) };
    const made = picture(model, view, colours(), seen, size, lit, hits);
    drawn = made.drawn;
    document.documentElement.dataset.theme = view.theme;
    paint(figure, made.painted);
    if (!ready) performance.mark("drawn");
    ready = true;
    showControls(model, view, drawn);
    write();
    figure.dataset.drawn = String(Number(figure.dataset.drawn || 0) + 1);
    figure.dataset.depth = view.depth;
    if (FRAMED) tellAround("drawn", figure.dataset.drawn);
  }

  /** Show all chosen layers, or as much of them as stays readable; keep the chosen node in sight. */
  function fit() {
    const all = extent(model, view), route = view.depth === "route";
    const margin = route ? MARGIN.route : MARGIN.flow;
    const width = Math.max(figure.clientWidth - margin.l - 8, 50), height = Math.max(figure.clientHeight - margin.t - 4, 50);
    const leastX = route ? 0.4 : 0.55, leastY = route ? 0.5 : 0.45;
    const wide = Math.min(all.x1 - all.x0, width / leastX), tall = Math.min(all.y1 - all.y0, height / leastY);
    seen = { x0: all.x1 - wide, x1: all.x1, y0: all.y0, y1: all.y0 + Math.max(tall, height / 2.2) };
    keepInSight();
  }

  function keepInSight() {
    const depth = model.depths[view.depth], slot = view.selected < 0 ? -1 : depth.slot[view.selected];
    if (slot < 0) return;
    const [x, y] = nodeMiddle(depth, slot), wide = seen.x1 - seen.x0, tall = seen.y1 - seen.y0;
    if (x < seen.x0 + 10 || x > seen.x1 - 40) seen = { ...seen, x0: x - wide / 2, x1: x + wide / 2 };
    if (y < seen.y0 || y > seen.y1) seen = { ...seen, y0: y - tall / 2, y1: y + tall / 2 };
  }

  /** @param {Partial<View>} changes @param {"fit"|"keep"} [sight] What is visible afterwards: `fit`, as
   * much as stays readable; `keep`, the same as before, moved if the chosen node is outside. */
  function change(changes, sight) {
    const before = view;
    view = { ...view, ...changes };
    if (view.depth !== before.depth) view = enter(view);
    if (view.selected !== before.selected || view.way !== before.way) light();
    if (view.query !== before.query) find();
    if (sight === "fit" || view.depth !== before.depth) fit();
    if (sight === "keep") keepInSight();
    draw();
    if (view.selected !== before.selected || view.way !== before.way || view.theme !== before.theme) fill();
  }

  /** Change the layers and the position of a new depth so that it shows the chosen node. @param {View} entered @returns {View} */
  function enter(entered) {
    if (entered.selected < 0) return entered;
    const depth = model.depths[entered.depth];
    if (depth.slot[entered.selected] < 0) return entered;
    const layer = model.nodes.layer[entered.selected] < 0 ? last : model.nodes.layer[entered.selected];
    const [from, to] = entered.layers[entered.depth], route = entered.depth === "route";
    const at = route ? entered.position : positionOf(model, entered.selected);
    if (layer >= from && layer <= to) return { ...entered, position: at };
    const span = to - from, start = Math.min(Math.max(layer - Math.floor(span / 2), first), last - span);
    return { ...entered, position: at, layers: { ...entered.layers, [entered.depth]: [start, start + span] } };
  }

  function light() {
    lit = { marks: null, way: [] };
    if (view.selected < 0) return;
    lit.marks = reach(model, view.selected);
    const ways = waysFromInput(model, worth, view.selected);
    const back = ways.find((way) => way.position === view.way) || ways[0];
    const end = model.byName.get("logits");
    const on = end === undefined ? [] : follow(model, waysTo(model, worth, end), view.selected);
    lit.way = [...new Set([...(back ? back.nodes : []), ...(on.length > 1 ? on : []), view.selected])];
  }

  /** @param {number} node @param {number} [way] */
  function select(node, way) {
    const next = { ...view, selected: node, way: way === undefined ? -1 : way };
    const depth = model.depths[next.depth];
    // If this depth does not have the node, change to one that does.
    if (node >= 0 && depth.slot[node] < 0) {
      const other = ["blocks", "everything"].find((name) => model.depths[name].slot[node] >= 0);
      if (other) next.depth = other;
    }
    const entered = enter(next);
    const moved = entered.position !== view.position || entered.depth !== view.depth
      || String(entered.layers[entered.depth]) !== String(view.layers[entered.depth]);
    change(entered, moved ? "fit" : "keep");
  }

  function fill() {
    showPanel(panel, model, view, {
      worth, select: (node, way) => { walk = null; select(node, way); }, copy, colours: colours(),
      second: (text) => { view = { ...view, second: text }; write(); },
    });
    panel.scrollTop = 0;
    byId("status").textContent = view.selected < 0 ? "" : nodeName(model, view.selected) + ", "
      + promoted(model, view.selected) + ", " + nodeTitle(model, view.selected);
    if (FRAMED) tellAround("chosen", chosenNode(model, view.selected));
  }

  function find() {
    const found = search(model, view.query);
    hits = new Set(found.map((hit) => hit.node));
    showHits(model, found, (node) => { byId("hits").hidden = true; walk = null; select(node); });
  }

  function write() {
    if (FRAMED) return tellAround("view", "#" + writeFragment(model, view, usual));
    // Dragging a slider changes the view more often than a browser allows the address to change.
    clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      written = "#" + writeFragment(model, view, usual);
      // A frame without its own address (a notebook's cell) has no fragment to keep.
      if (location.protocol === "about:" || location.hash === written) return;
      history.replaceState(null, "", written);
    }, 200);
  }

  /** @param {string} text @param {HTMLElement} button */
  function copy(text, button) {
    const done = () => { button.textContent = "copied"; };
    const byHand = () => {
      const area = /** @type {HTMLTextAreaElement} */ (make("textarea", {}));
      area.value = text;
      document.body.append(area);
      area.select();
      if (document.execCommand("copy")) done();
      area.remove();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
    else byHand();
  }

  /** The picture was dragged. @param {number} dx Px on the screen. @param {number} dy */
  function moved(dx, dy) {
    const x = dx / drawn.scale.sx, y = dy / drawn.scale.sy;
    seen = { x0: seen.x0 - x, x1: seen.x1 - x, y0: seen.y0 - y, y1: seen.y1 - y };
    draw();
  }

  /** @param {number} by @param {number} [px] @param {number} [py] The point that stays. */
  function zoom(by, px, py) {
    const fx = px === undefined ? 0.5 : (px - drawn.left) / drawn.width;
    const fy = py === undefined ? 0.5 : (py - drawn.top) / drawn.height;
    const wide = seen.x1 - seen.x0, tall = seen.y1 - seen.y0, all = extent(model, view);
    // Never zoom out beyond the whole picture, horizontally or vertically.
    const bx = Math.min(by, Math.max(1.05 * (all.x1 - all.x0) / wide, 1));
    const down = Math.min(by, Math.max(1.05 * (all.y1 - all.y0) / tall, 1));
    seen = { x0: seen.x0 + wide * fx * (1 - bx), x1: seen.x1 - wide * (1 - fx) * (1 - bx),
      y0: seen.y0 + tall * fy * (1 - down), y1: seen.y1 - tall * (1 - fy) * (1 - down) };
    if (by > 1) {
      const [x, y] = [back(seen.x0, seen.x1, all.x0, all.x1), back(seen.y0, seen.y1, all.y0, all.y1)];
      seen = { x0: seen.x0 + x, x1: seen.x1 + x, y0: seen.y0 + y, y1: seen.y1 + y };
    }
    draw();
  }

  /** How far to move the visible range a..b so that it lies within low..high, or contains it.
   * @param {number} a @param {number} b @param {number} low @param {number} high */
  function back(a, b, low, high) {
    if (b - a >= high - low) return (low + high - a - b) / 2;
    return Math.max(low - a, 0) || Math.min(high - b, 0);
  }

  /** @param {MouseEvent} event */
  function hover(event) {
    const { node, edge } = pick(model, view, drawn, ...inside(figure, event));
    figure.classList.toggle("over", node >= 0 || edge >= 0);
    if (node < 0 && edge < 0) { tip.hidden = true; return; }
    tip.replaceChildren(...(node >= 0 ? nodeTip(model, node) : edgeWords(model, view, edge)));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    let x = event.clientX + 16, y = event.clientY + 16;
    if (x + box.width > window.innerWidth - 8) x = event.clientX - 16 - box.width;
    if (y + box.height > window.innerHeight - 8) y = event.clientY - 16 - box.height;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  }

  /** @param {MouseEvent} event */
  function click(event) {
    const { node, edge } = pick(model, view, drawn, ...inside(figure, event));
    walk = null;
    tip.hidden = true;
    if (node >= 0) select(node);
    else if (edge >= 0) select(edgeNode(model, view, edge));
    else select(-1);
  }

  /** Left and right go along edges; up and down go to the other nodes that left or right could reach.
   * @param {string} key */
  function step(key) {
    if (view.selected < 0) {
      const end = model.byName.get("logits");
      walk = null;
      return select(end !== undefined && drawn.slots.includes(model.depths[view.depth].slot[end]) ? end
        : model.depths[view.depth].node[drawn.slots[drawn.slots.length - 1]] ?? -1);
    }
    if (key === "ArrowUp" || key === "ArrowDown") {
      walk = walk || { list: column(model, view, drawn), at: -1 };
      if (walk.at < 0) walk.at = walk.list.indexOf(view.selected);
      walk.at = Math.min(Math.max(walk.at + (key === "ArrowUp" ? -1 : 1), 0), walk.list.length - 1);
    } else {
      const list = along(model, view, drawn, key === "ArrowLeft");
      if (!list.length) return;
      walk = { list, at: 0 };
    }
    select(walk.list[walk.at]);
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    const on = /** @type {HTMLElement} */ (event.target);
    if (event.key === "Escape") {
      byId("hits").hidden = true;
      if (on === field && field.value) { field.value = ""; change({ query: "" }); }
      else if (on === field) byId("frame").focus();
      else select(-1);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || on.matches("input, select, textarea")) return;
    if (event.key === "/") { field.focus(); field.select(); event.preventDefault(); }
    if (event.key === "+" || event.key === "=") zoom(0.7);
    if (event.key === "-") zoom(1 / 0.7);
    if (event.key === "0") { fit(); draw(); }
    const free = on === document.body || byId("frame").contains(on);
    if (free && event.key.startsWith("Arrow")) { event.preventDefault(); step(event.key); }
  }

  bindControls(model, () => view, change);
  if (GRADIENTS) bindSorting();
  bindFinder(model, { change, select: (node) => { walk = null; select(node); } });
  document.addEventListener("keydown", key);
  window.addEventListener("hashchange", () => {
    if (location.hash !== written) show(location.hash);
  });

  function restore() {
    field.value = view.query;
    find();
    light();
    fit();
    draw();
    fill();
  }

  /** @param {string} fragment */
  function show(fragment) {
    view = readFragment(model, fragment, usual);
    restore();
  }

  const here = document.querySelector(".here"), strip = document.querySelector(".tokens");
  if (here && strip) strip.scrollTop = /** @type {any} */ (here).offsetTop - strip.clientHeight;
  restore();
  bindMouse(figure, { click, hover, zoom, moved, leave: () => { tip.hidden = true; } });
  if (FRAMED) bindFrame(figure, { show, change });
  bindButtons(figure, { zoom, fit: () => { fit(); draw(); }, size: () => drawn.size });
})();
