// @ts-check
// How the explorer speaks with the kernel of a notebook, by the messages of anywidget.

/** @param {any} model @returns {Talk} */
function talkByWidget(model) {
  /** @type {Map<number, (event: any, buffers: DataView[]) => void>} */
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => {
    const tell = waiting.get(message.id);
    if (tell) tell(message.event, buffers || []);
  });

  /** @param {string} call @param {any} data @param {any[]} [buffers] @returns {Promise<[any, DataView[]]>} */
  function once(call, data, buffers) {
    const id = ++last;
    return new Promise((done, fail) => {
      waiting.set(id, (event, given) => {
        waiting.delete(id);
        if (event && event.stage === "refused") fail(new Error(event.why));
        else done([event, given]);
      });
      model.send({ id, call, data }, undefined, buffers);
    });
  }

  return {
    address: false,
    quick: async (call, data) => (await once(call, data))[0],
    stream(call, owner, data, tell) {
      const id = ++last;
      waiting.set(id, (event) => {
        if (event.stage === "end") waiting.delete(id);
        if (event.stage === "busy") {
          setTimeout(() => { if (waiting.has(id)) model.send({ id, call, owner, data }); }, 700);
        }
        tell(event);
      });
      model.send({ id, call, owner, data });
      return { cancel: () => { waiting.delete(id); model.send({ id, call: "cancel", owner }); } };
    },
    async picture(key, theme) {
      const [, buffers] = await once("picture", { key, theme });
      return { srcdoc: new TextDecoder().decode(buffers[0]) };
    },
    async file(data) {
      const [event, buffers] = await once("keep", data);
      return { name: event.name, content: new Blob([buffers[0]], { type: event.kind }) };
    },
    open: async (file) => (await once("open", null, [await file.arrayBuffer()]))[0],
  };
}
