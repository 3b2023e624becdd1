// @ts-check
// The panel of files: what can be kept, and a saved graph opened again.

/** @param {any} about @param {Talk} talk @param {any} act */
function makeKeep(about, talk, act) {
  const told = el("p", { role: "status", class: "quiet" });
  /** @param {() => Promise<void>} work */
  const doing = (work) => async () => {
    told.textContent = "writing …";
    try {
      await work();
      told.textContent = "done";
    } catch (error) {
      told.textContent = /** @type {Error} */ (error).message;
    }
  };
  /** @param {string} form */
  const file = (form) => doing(async () => {
    const wanted = { form, ...asked(act.state()), theme: act.state().theme };
    let found;
    try {
      found = await talk.file(wanted);
    } catch (error) {
      // The server keeps the last pictures only; this one is made again.
      if (!/** @type {Error} */ (error).message.includes("was dropped")) throw error;
      await act.again();
      found = await talk.file(wanted);
    }
    download(found.name, found.content);
  });
  const svg = doing(async () => download("visit_tl.svg", new Blob([await act.svg()], { type: "image/svg+xml" })));
  const png = doing(async () => download("visit_tl.png", await toPng(await act.svg())));
  const open = el("input", { type: "file", accept: ".json,application/json", change: () => doing(async () => {
    const chosen = open.files[0];
    if (!chosen) return;
    if (chosen.size > about.limits.file) throw new Error("the file is larger than " + about.limits.file + " bytes");
    act.opened((await talk.open(chosen)).request);
  })() });
  return {
    element: el("div", {}, [
      el("h2", { text: "Keep" }),
      el("div", { class: "fields" }, [
        button("Page (HTML)", file("html")), button("Graph (JSON)", file("json")), button("Picture (SVG)", svg),
        button("Picture (PNG)", png), button("Notebook", file("ipynb")), button("Python", file("py")),
        button("Both pictures, to share (HTML)", file("export")),
      ]),
      el("p", { class: "quiet", text: "Pages need no server. The notebook and the Python hold the calls that make what is shown." }),
      el("h2", { text: "Open" }), el("label", { class: "column" }, [el("span", { text: "a graph that was saved as JSON" }), open]), told,
    ]),
  };
}

/** @param {string} svg @returns {Promise<Blob>} */
function toPng(svg) {
  const DENSITY = 2;
  return new Promise((done, fail) => {
    const image = new Image(), address = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    image.onload = () => {
      const canvas = el("canvas", { width: image.width * DENSITY, height: image.height * DENSITY });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      URL.revokeObjectURL(address);
      canvas.toBlob((/** @type {Blob|null} */ blob) => (blob ? done(blob) : fail(new Error("the picture is too large"))));
    };
    image.onerror = () => fail(new Error("the picture cannot be drawn"));
    image.src = address;
  });
}
