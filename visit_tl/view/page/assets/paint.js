// @ts-check
// Paints the picture as SVG elements: polygons, labels and the words at its edges. Text is inserted as
// text nodes, so that nothing in it is read as markup.

/**
 * @typedef {Object} Shape
 * @property {Path} path @property {string} colour
 * @property {boolean} many Whether all polygons are one element. Polygons that overlap then do not
 *   blend, but one element for each of very many would be slow.
 *
 * @typedef {Object} Words
 * @property {number} x Px from the left edge of the picture. @property {number} y
 * @property {{text: string, bold?: boolean}[][]} lines
 *
 * @typedef {Object} Picture What `paint` needs; in px on the screen, except for the paths of shapes.
 * @property {number} width Of the figure. @property {number} height
 * @property {{left: number, top: number, width: number, height: number}} plot
 * @property {Scale} scale
 * @property {{left: number, width: number, colour: string}[]} bands
 * @property {Shape[]} shapes @property {Words[]} labels
 * @property {Words[]} columns Over the picture. @property {Words[]} rows To the left of it.
 * @property {any} colours
 */

const SVG = "http://www.w3.org/2000/svg";
const LEADING = 15.6; // px from one line of text to the next

/** @param {string} name @param {{[name: string]: string|number}} attributes @param {Node[]} inside */
function element(name, attributes, inside = []) {
  const made = document.createElementNS(SVG, name);
  for (const key of Object.keys(attributes)) made.setAttribute(key, String(attributes[key]));
  made.append(...inside);
  return made;
}

/** Draw a picture in a figure, in place of the old one. @param {HTMLElement} figure @param {Picture} picture */
function paint(figure, picture) {
  const { width, height, plot, scale, colours } = picture;
  const halo = {
    stroke: colours.background, "stroke-width": 3, "stroke-linejoin": "round", "paint-order": "stroke",
  };
  const inner = { x: 0, y: 0, width: plot.width, height: plot.height };
  const bands = picture.bands.map((band) => element("rect", {
    x: hundredth(band.left), width: hundredth(band.width), y: 0, height: plot.height, fill: band.colour,
  }));
  const drawn = element("svg", {
    xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}`,
    "font-family": colours.font, "font-size": 12, fill: colours.text,
  }, [
    element("rect", { width, height, fill: colours.background }),
    clipped(plot, inner, "seen", element("g", { class: "plot" }, [
      ...bands, ...picture.shapes.map((shape) => polygons(shape, scale)),
      element("g", { class: "labels", ...halo }, picture.labels.map((words) => written(words, "start"))),
    ])),
    clipped(plot, { ...inner, x: -plot.left, y: -plot.top, width: width, height: plot.top }, "over",
      element("g", { class: "columns", fill: colours.quiet }, picture.columns.map((words) => written(words, "middle")))),
    clipped(plot, { ...inner, x: -plot.left, y: -6, width: plot.left, height: plot.height + 12 }, "beside",
      element("g", { class: "rows", fill: colours.quiet }, picture.rows.map((words) => written(words, "end")))),
  ]);
  // The place and the scale of the picture, for code that looks for a node in it.
  const { x0, y0, sx, sy } = scale;
  drawn.dataset.place = [plot.left, plot.top, x0, y0, sx, sy].join(" ");
  figure.replaceChildren(drawn);
}

/** A group that is clipped to an area. @param {{left: number, top: number}} at
 * @param {{[side: string]: number}} area @param {string} id @param {Node} inside */
function clipped(at, area, id, inside) {
  return element("g", { transform: `translate(${at.left} ${at.top})`, "clip-path": `url(#${id})` }, [
    element("clipPath", { id }, [element("rect", area)]), inside,
  ]);
}

/** Move the picture with the mouse while it is dragged; it is redrawn at the end of the drag.
 * @param {HTMLElement} figure @param {number} dx @param {number} dy */
function shift(figure, dx, dy) {
  for (const [name, x, y] of /** @type {[string, number, number][]} */ ([
    ["plot", dx, dy], ["columns", dx, 0], ["rows", 0, dy]])) {
    const part = figure.querySelector("." + name);
    if (part) part.setAttribute("transform", `translate(${x} ${y})`);
  }
}

/** @param {Shape} shape @param {Scale} scale */
function polygons(shape, scale) {
  const { x, y, starts } = shape.path, outlines = [];
  for (let n = 0; n < starts.length; n++) {
    const end = n + 1 < starts.length ? starts[n + 1] : x.length;
    let outline = "";
    for (let k = starts[n]; k < end; k++) {
      outline += (k === starts[n] ? "M" : "L") + hundredth((x[k] - scale.x0) * scale.sx)
        + "," + hundredth((y[k] - scale.y0) * scale.sy);
    }
    outlines.push(outline + "Z");
  }
  const paths = shape.many && outlines.length ? [outlines.join("")] : outlines;
  return element("g", { fill: shape.colour }, paths.map((d) => element("path", { d })));
}

/** Lines of text, one below the other. @param {Words} words @param {string} anchor */
function written(words, anchor) {
  const { x, y, lines } = words;
  return element("text", { x: hundredth(x), y: hundredth(y), "text-anchor": anchor }, lines.flatMap((line, k) =>
    line.map((part, n) => {
      const made = element("tspan", {
        ...(k && !n ? { x: hundredth(x), dy: LEADING } : {}), ...(part.bold ? { "font-weight": "bold" } : {}),
      });
      made.textContent = isolated(part.text);
      return made;
    })));
}

/** @param {number} px */
function hundredth(px) { return Math.round(px * 100) / 100; }

/** Save the picture as a separate file. @param {HTMLElement} figure */
function savePicture(figure) {
  const drawn = figure.querySelector("svg");
  if (!drawn) return;
  const text = new XMLSerializer().serializeToString(drawn);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  link.download = "visit_tl.svg";
  link.click();
  URL.revokeObjectURL(link.href);
}
