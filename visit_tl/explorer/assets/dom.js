// @ts-check
// Elements. Text from prompts, vocabularies and files is only ever inserted as text.

/** @param {string} tag @param {{[name: string]: any}} [facts] Attributes; `text` is the content, a function
 * a listener. @param {(Node|string|null|undefined)[]} [children] @returns {any} */
function el(tag, facts, children) {
  const made = document.createElement(tag);
  for (const name in facts || {}) {
    const value = /** @type {any} */ (facts)[name];
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  for (const child of children || []) if (child) made.append(child);
  return made;
}

/** A control with its name. @param {string} name @param {HTMLElement} control @param {string} [hint] */
function labelled(name, control, hint) {
  return el("label", { class: "field", title: hint || null }, [el("span", { text: name }), control]);
}

/** @param {string} name @param {() => void} click @param {{[name: string]: any}} [facts] */
function button(name, click, facts) { return el("button", { type: "button", text: name, click, ...facts }); }

/** @param {[string, string][]} options value, words @param {string} chosen @param {() => void} change
 * @param {{[name: string]: any}} [facts] */
function select(options, chosen, change, facts) {
  const made = el("select", { change, ...facts }, options.map(([value, text]) => el("option", { value, text })));
  made.value = chosen;
  return made;
}

/** A token as text with its own writing direction. @param {string} text */
function bdi(text) { return el("bdi", { text }); }

/** @param {string[]} columns @param {(Node|string)[][]} rows @param {string} caption */
function table(columns, rows, caption) {
  return el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": caption }, [el("table", {}, [
    el("caption", { class: "unseen", text: caption }),
    el("thead", {}, [el("tr", {}, columns.map((text) => el("th", { scope: "col", text })))]),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, [
      typeof cell === "string" ? bdi(cell) : cell,
    ]))))),
  ])]);
}

/** Three digits. @param {number} value */
function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

/** @param {number} value */
function signedDigits(value) { return (value > 0 ? "+" : "") + digits(value); }

/** @param {string} text @param {HTMLElement} told */
async function copyText(text, told) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) {
    const area = el("textarea", {});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  told.textContent = "copied";
}

/** @param {string} name @param {Blob} content */
function download(name, content) {
  const link = el("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
