/** Server-sent events over a web stream. https://html.spec.whatwg.org/multipage/server-sent-events.html */

/** Seconds between comment lines that keep proxies from closing a silent stream. */
const keepAliveSeconds = 15;

export interface EventSink {
  /** Resolves when the client has taken the earlier ones (back-pressure). `data` is one line. */
  send(data: string, fields?: { event?: string; id?: string }): Promise<void>;
}

/**
 * Answers with a stream which `write` fills. The stream ends when `write` does; `gone` is called when the client leaves.
 * Errors of `write` after the client has left are expected and dropped; others are `write`'s own to report.
 */
export function eventStream(write: (sink: EventSink) => Promise<void>, gone: () => void): Response {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>(undefined, { highWaterMark: 16 });
  const writer = writable.getWriter();
  const encoder = new TextEncoder();
  let open = true;
  writer.closed.catch(() => {
    open = false;
    gone();
  });
  const put = async (text: string) => {
    if (!open) return;
    await writer.ready;
    await writer.write(encoder.encode(text));
  };
  const keepAlive = setInterval(() => void put(":\n\n").catch(() => {}), keepAliveSeconds * 1000);
  const sink: EventSink = {
    send: (data, { event, id } = {}) =>
      put(`${event === undefined ? "" : `event: ${event}\n`}${id === undefined ? "" : `id: ${id}\n`}data: ${data}\n\n`),
  };
  void write(sink)
    .catch(() => {})
    .then(() => writer.close())
    .catch(() => {})
    .finally(() => clearInterval(keepAlive));
  return new Response(readable, {
    headers: {
      "Content-Type": "text/event-stream; charset=utf-8",
      "Cache-Control": "no-cache, no-transform",
      "X-Accel-Buffering": "no",
    },
  });
}
