// One text, and the answers of all chosen tasks to it.

import { generate, isAbort, run } from "./api.js";
import { byId, element } from "./elements.js";
import { count, escaped, oneLine, score, time } from "./words.js";

// Milliseconds without a key before labels follow the text.
const PAUSE = 200;

// Labels of a card; the others unfold.
const TOP = 3;

// Requests at once; browsers open no more connections to a server.
const LANES = 6;

// Requests at once while a task has not answered yet. Selecting it takes the server's processors for a while.
const FIRST_LANES = 2;

/** Answers to the text of the form, one card a task. */
export class Answers {
  #cards = new Map();
  #chosen;
  #timer = 0;
  #round = 0;

  /** Ask the tasks that `chosen` returns. */
  constructor(chosen) {
    this.#chosen = chosen;
    const form = byId("ask");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(true);
    });
    form.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.ask(), PAUSE);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  /** Show a card for each chosen task. Tasks that had none are asked, or all again where a task has changed. */
  show({ again = false } = {}) {
    const tasks = this.#chosen();
    const before = this.#cards;
    this.#cards = new Map(tasks.map((task) => [task.task, again ? new Card(task) : before.get(task.task) ?? new Card(task)]));
    for (const [name, card] of before) if (this.#cards.get(name) !== card) card.stop();
    byId("answers").replaceChildren(...[...this.#cards.values()].map((card) => card.node));
    byId("pair-line").hidden = !tasks.some((task) => task.inputs === "pair");
    this.ask();
  }

  /** Ask all cards whose text has changed; those that generate only where `isSubmitted`. */
  async ask(isSubmitted = false) {
    clearTimeout(this.#timer);
    const round = ++this.#round;
    const began = performance.now();
    const cards = [...this.#cards.values()];
    const results = await this.#inLanes(cards, (card) => (
      round === this.#round ? card.ask(byId("text").value, byId("text-pair").value, isSubmitted) : null
    ));
    const asked = results.filter((result) => result !== null);
    if (round !== this.#round || asked.length === 0) return;
    byId("answers-status").textContent = `${count(asked.length, "answer")} in ${time(performance.now() - began)}`;
    byId("answers-spoken").textContent = cards.map((card) => card.spoken).filter(Boolean).join("; ");
  }

  /** Call `work` for some cards at a time, those of few labels first: the server selects them sooner. */
  async #inLanes(cards, work) {
    const waiting = cards.toSorted((a, b) => a.labels - b.labels);
    const results = [];
    const lane = async () => {
      while (waiting.length) results.push(await work(waiting.shift()));
    };
    const areSelected = cards.every((card) => card.spoken);
    if (!areSelected && waiting.length) results.push(await work(waiting.shift()));  // so that one answer is there soon
    await Promise.all(Array.from({ length: areSelected ? LANES : FIRST_LANES }, lane));
    return results;
  }
}

/** The card of a task: its latest answer, and what that took. */
class Card {
  #task;
  #title;
  #facts = element("p", { class: "quiet facts" });
  #body = element("div", { class: "body" });
  #running = null;
  #asked = null;

  constructor(task) {
    this.#task = task;
    this.spoken = "";
    this.#title = element("h3", {}, element("bdi", {}, oneLine(task.task)));
    this.node = element("li", { class: "card", "data-task": task.task },
      element("div", { class: "line" }, this.#title, this.#facts), this.#body);
    this.#showFacts();
  }

  /** The number of labels of the task. */
  get labels() {
    return this.#task.labels.length;
  }

  /** Stop the request that runs. */
  stop() {
    this.#running?.abort();
  }

  /** Answer a text; return whether that succeeded, or null where nothing was to do or another text came. */
  async ask(text, pair, isSubmitted) {
    const isWriting = this.#task.answer === "generation";
    const asked = JSON.stringify([text, this.#isPair && pair]);
    if (asked === this.#asked && !isSubmitted) return null;
    this.stop();
    this.#asked = asked;
    const missing = this.#missing(text, pair);
    if (missing || (isWriting && !isSubmitted)) {
      this.#show(element("p", { class: "quiet" }, missing || "Press Answer to generate a text."));
      this.spoken = "";
      return null;
    }
    return this.#answer(isWriting && !this.#isPair ? this.#stream(text) : this.#run(text, pair));
  }

  get #isPair() {
    return this.#task.inputs === "pair";
  }

  #missing(text, pair) {
    if (!text.trim()) return "Type a text.";
    return this.#isPair && !pair.trim() ? "Type a second text: this task reads pairs." : "";
  }

  async #answer(work) {
    this.node.setAttribute("aria-busy", "true");
    const mine = this.#running;
    try {
      await work;
      return true;
    } catch (error) {
      if (isAbort(error)) return null;
      this.#showError(error.message);
      return false;
    } finally {
      if (mine === this.#running) this.node.removeAttribute("aria-busy");
    }
  }

  async #run(text, pair) {
    const row = { text, task: this.#task.task, ...(this.#isPair && { text_pair: pair }) };
    this.#running = new AbortController();
    const { answers: [answer], milliseconds } = await run([row], this.#running.signal);
    if (answer.error) {
      this.#showError(answer.error);
      return;
    }
    this.#showFacts(milliseconds === null ? "" : time(milliseconds));
    this.#show(...contentOf(answer), ...notesOf(answer));
    this.spoken = `${oneLine(this.#task.task)}: ${oneLine(wordsOf(answer))}`;
  }

  async #stream(prompt) {
    const controller = this.#running = new AbortController();
    const began = performance.now();
    const output = element("p", { class: "output" });
    const stop = element("button", { type: "button", class: "plain" }, "Stop");
    stop.addEventListener("click", () => controller.abort());
    this.#show(output, stop);
    let text = "", tokens = 0, first = null;
    try {
      for await (const piece of generate(this.#task.task, prompt, controller.signal)) {
        text += piece.text ?? "";
        tokens = piece.tokens ?? tokens;
        if (piece.text) first ??= performance.now() - began;
        output.textContent = escaped(text);
        if (first !== null) this.#showFacts(`first piece ${time(first)}`);
      }
    } finally {
      stop.remove();
    }
    this.#showFacts(`${count(tokens, "token")} in ${time(performance.now() - began)}`);
    this.spoken = `${oneLine(this.#task.task)}: ${oneLine(text)}`;
  }

  #show(...content) {
    const isOpen = this.#body.querySelector("details")?.open;
    this.#body.replaceChildren(...content);
    const fold = this.#body.querySelector("details");
    if (isOpen && fold) fold.open = true;
  }

  #showError(sentence) {
    this.#showFacts();
    this.#show(element("p", { class: "error" }, oneLine(sentence)));
    this.spoken = `${oneLine(this.#task.task)}: ${oneLine(sentence)}`;
  }

  #showFacts(taken = "") {
    const bytes = this.#task.bytes === null ? "" : count(this.#task.bytes, "byte");
    this.#facts.textContent = [taken, bytes].filter(Boolean).join(" · ");
  }
}

/** Return an answer in words, as a table has it. */
export function wordsOf(answer) {
  if (answer.label !== undefined) return answer.label;
  if (answer.output !== undefined) return answer.output;
  if (answer.tokens) return answer.tokens.map((token) => token.label).join(" ");
  return `(${answer.vector.length}) ${answer.vector.slice(0, 3).map(score).join(", ")}, …`;
}

/** Return how sure an answer is, or null. */
export function scoreOf(answer) {
  return answer.score ?? null;
}

function contentOf(answer) {
  if (answer.scores) return labels(answer);
  if (answer.tokens) return [tags(answer.tokens)];
  const output = element("p", { class: "output" }, element("bdi", {}, escaped(wordsOf(answer))));
  return answer.score === undefined ? [output] : [output, element("p", { class: "quiet" }, "score ", scoreElement(answer.score))];
}

function labels(answer) {
  const ranked = Object.entries(answer.scores).sort(([, a], [, b]) => b - a);
  const best = element("p", { class: "best" }, element("bdi", {}, oneLine(answer.label)));
  const rest = ranked.slice(TOP);
  if (!rest.length) return [best, bars(ranked)];
  const more = element("details", {}, element("summary", {}, count(rest.length, "more label")));
  more.addEventListener("toggle", () => more.append(bars(rest)), { once: true });
  return [best, bars(ranked.slice(0, TOP)), more];
}

function bars(ranked) {
  return element("ul", { class: "bars" }, ...ranked.map(([label, value]) => {
    const bar = element("li", {}, element("bdi", { class: "label" }, oneLine(label)), scoreElement(value));
    bar.style.setProperty("--share", value);
    return bar;
  }));
}

function tags(tokens) {
  return element("ul", { class: "tags" }, ...tokens.map((token) =>
    element("li", {}, element("bdi", {}, oneLine(token.text)), element("bdi", { class: "quiet" }, oneLine(token.label)))));
}

function scoreElement(value) {
  return element("data", { value: String(value) }, score(value));
}

function notesOf(answer) {
  const notes = [];
  if (answer.truncated) notes.push("The text is longer than the task reads; its end was cut.");
  if (answer.unknown) notes.push("The model knows no word of this text.");
  if (answer.abstain) notes.push("The score is below the task's threshold: the label is a guess.");
  return notes.map((note) => element("p", { class: "quiet" }, note));
}
