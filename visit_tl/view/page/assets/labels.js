// @ts-check
// Labels in the figure: only those that fit are shown.

const LETTER = 6.9; // px of a letter at 12 px, a little more than the mean
const LINE = 13.5; // px of a line of text, less its leading

/** Isolates right-to-left text, so that it does not reorder what is beside it.
 * @param {string} text */
function isolated(text) {
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]|[\ud802\ud803\ud83a\ud83b]/.test(text)
    ? "\u2068" + text + "\u2069" : text;
}

/** Width of a text in px; wide characters count 1.8 letters. @param {string} text */
function textWidth(text) {
  let letters = 0;
  for (const letter of text) letters += letter.charCodeAt(0) < 0x1100 ? 1 : 1.8;
  return letters * LETTER;
}

/**
 * @typedef {Object} Label
 * @property {string} text
 * @property {string} [short] What to show if there is no room for the text.
 * @property {boolean} [must] Whether it is shown even if it touches something.
 * @property {number} weight
 * @property {number[][]} places Possible places, the best first: left end and middle of the line, in px.
 *
 * @typedef {{left: number, right: number, top: number, bottom: number}} Area
 */

/**
 * The labels that fit, chosen by weight: none touches another one or a taken area.
 * @param {Label[]} wanted @param {number} width @param {number} height Of the window, in px.
 * @param {Area[]} taken @param {number} most
 * @returns {{label: number, text: string, x: number, y: number}[]} In the order of `wanted`.
 */
function placeLabels(wanted, width, height, taken, most) {
  const grid = new Grid();
  taken.forEach((area) => grid.put(area));
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[b].weight - wanted[a].weight || a - b);
  const chosen = [];
  for (const label of order) {
    if (chosen.length >= most) break;
    const put = roomFor(wanted[label], grid, width, height);
    if (!put) continue;
    grid.put(put.area);
    chosen.push({ label, text: put.text, x: put.x, y: put.y });
  }
  return chosen.sort((a, b) => a.label - b.label);
}

/** The first place where a label has room. @param {Label} label @param {Grid} grid
 * @param {number} width @param {number} height */
function roomFor(label, grid, width, height) {
  for (const text of [label.text, label.short]) {
    if (!text) continue;
    const wide = textWidth(text);
    for (const [x, y] of text === label.text ? label.places : label.places.slice(0, 1)) {
      const area = { left: x, right: x + wide, top: y - LINE / 2, bottom: y + LINE / 2 };
      const inside = area.left >= 0 && area.right <= width && area.top >= 0 && area.bottom <= height;
      if (inside && (label.must || !grid.touches(area))) return { text, x, y, area };
    }
  }
  return null;
}

/** Areas, stored by grid cell, so that each is compared only with its neighbours. */
class Grid {
  constructor() {
    /** @type {Map<number, Area[]>} */
    this.cells = new Map();
  }

  /** @param {Area} area @returns {number[]} */
  keys(area) {
    const CELL = 64, keys = [];
    for (let x = Math.floor(area.left / CELL); x <= Math.floor(area.right / CELL); x++) {
      for (let y = Math.floor(area.top / CELL); y <= Math.floor(area.bottom / CELL); y++) keys.push(x * 10007 + y);
    }
    return keys;
  }

  /** @param {Area} area */
  put(area) {
    for (const key of this.keys(area)) {
      const list = this.cells.get(key);
      if (list) list.push(area); else this.cells.set(key, [area]);
    }
  }

  /** @param {Area} area */
  touches(area) {
    return this.keys(area).some((key) => (this.cells.get(key) || []).some((other) =>
      area.left < other.right && other.left < area.right && area.top < other.bottom && other.top < area.bottom));
  }
}
