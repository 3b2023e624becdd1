// @ts-check
// How the explorer speaks with the server. `talk_widget.js` offers the same inside a notebook.

/**
 * @typedef {Object} Talk
 * @property {(call: string, data: any) => Promise<any>} quick
 * @property {(call: string, owner: string, data: any, tell: (event: any) => void) => {cancel: () => void}} stream
 * @property {(key: string, theme: string) => Promise<{src?: string, srcdoc?: string}>} picture
 * @property {(data: any) => Promise<{name: string, content: Blob}>} file
 * @property {(file: File) => Promise<any>} open
 * @property {boolean} address Whether the address is the explorer's own.
 */

/** @returns {Talk} */
function talkByHttp() {
  const AGAIN = 700; // ms

  /** @param {string} call @param {any} body @param {AbortSignal} [signal] */
  async function post(call, body, signal) {
    const answer = await fetch("/api/" + call, { method: "POST", body, signal });
    if (answer.ok) return answer;
    const text = await answer.text();
    let why = text;
    try { why = JSON.parse(text).why; } catch (error) { /* words */ }
    throw Object.assign(new Error(why), { status: answer.status });
  }

  /** @param {string} call @param {any} data @param {AbortSignal} signal @param {(event: any) => void} tell */
  async function lines(call, data, signal, tell) {
    const answer = await post(call, JSON.stringify(data), signal);
    const reader = /** @type {ReadableStream} */ (answer.body).getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const parts = rest.split("\n");
      rest = parts.pop() || "";
      for (const line of parts) if (!signal.aborted) tell(JSON.parse(line));
      if (done) return;
    }
  }

  return {
    address: true,
    quick: async (call, data) => (await post(call, JSON.stringify(data))).json(),
    stream(call, owner, data, tell) {
      const stop = new AbortController();
      (async () => {
        while (!stop.signal.aborted) {
          try {
            await lines(call, { owner, asked: data }, stop.signal, tell);
            if (!stop.signal.aborted) tell({ stage: "end" });
            return;
          } catch (error) {
            if (stop.signal.aborted) return;
            const { status, message } = /** @type {any} */ (error);
            if (status !== 503) {
              tell({ stage: "refused", why: status ? message : "the explorer has ended; start it again" });
              tell({ stage: "end" });
              return;
            }
            tell({ stage: "busy" });
            await new Promise((done) => setTimeout(done, AGAIN));
          }
        }
      })();
      return { cancel: () => stop.abort() };
    },
    picture: async (key, theme) => ({ src: "/picture/" + key + "?theme=" + theme }),
    async file(data) {
      const answer = await post("keep", JSON.stringify(data));
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
      return { name: name ? name[1] : "visit_tl", content: await answer.blob() };
    },
    open: async (file) => (await post("open", file)).json(),
  };
}
