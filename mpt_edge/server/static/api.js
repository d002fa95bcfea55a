// Requests to the server that this page is of.

let key = "";

/** An answer that the server refused, with its sentence. */
export class ServerError extends Error {
  constructor(sentence, status = 0, retryAfter = 0) {
    super(sentence);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Send this key from now on. It is kept in memory alone. */
export function useKey(value) {
  key = value.trim();
}

/** Return whether an error is that of a request which the page gave up. */
export function isAbort(error) {
  return error.name === "AbortError";
}

/** Return the JSON of a route. */
export async function read(path) {
  return (await send(path)).json();
}

/** Return the answers to rows, as `mpt-edge run` gives them, and the milliseconds that the server took. */
export async function run(rows, signal) {
  const reply = await post("run", { rows }, signal);
  return { answers: (await reply.json()).answers, milliseconds: timing(reply) };
}

/** Install a task file; return its summary. */
export async function install(file) {
  return (await send("tasks", { method: "POST", body: file })).json();
}

/** Yield the pieces of a generated text as `{text}`, then `{finish}` and `{tokens}`. */
export async function* generate(task, prompt, signal) {
  const body = { model: task, prompt, stream: true, stream_options: { include_usage: true } };
  const reply = await post("v1/completions", body, signal);
  for await (const data of events(reply.body)) {
    if (data.error) throw new ServerError(data.error.message);
    if (data.usage) yield { tokens: data.usage.completion_tokens };
    for (const choice of data.choices) {
      yield choice.finish_reason ? { finish: choice.finish_reason } : { text: choice.text };
    }
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new ServerError("the stream broke off; ask again.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return send(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

async function send(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ServerError("the server does not answer; see whether it runs.");
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply) {
  const retryAfter = Number(reply.headers.get("Retry-After")) || 0;
  try {
    const { error } = await reply.json();
    return new ServerError(error.message ?? error, reply.status, retryAfter);
  } catch {
    return new ServerError(`the server answered with status ${reply.status}.`, reply.status, retryAfter);
  }
}

function timing(reply) {
  const total = /total;dur=([\d.]+)/.exec(reply.headers.get("Server-Timing") ?? "");
  return total ? Number(total[1]) : null;
}
