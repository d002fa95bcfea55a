// A column of texts, answered by all chosen tasks into a table and a CSV.

import { isAbort, run } from "./api.js";
import { scoreOf, wordsOf } from "./answers.js";
import { csv, save } from "./csv.js";
import { byId, element, table } from "./elements.js";
import { count, oneLine, score, time } from "./words.js";

// Rows that the table shows; the CSV has all.
const SHOWN = 500;

// Characters of a request, far below the server's limit on a body.
const CHARACTERS = 200_000;

// Rows of a request at most, so that progress shows.
const ROWS = 64;

// Requests after which a full queue counts as an error.
const TRIES = 8;

/** The view of a column. */
export class Column {
  #chosen;
  #running = null;
  #result = null;

  /** Ask the tasks that `chosen` returns. */
  constructor(chosen) {
    this.maxRows = ROWS;
    this.#chosen = chosen;
    byId("column-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#answer();
    });
    byId("column-stop").addEventListener("click", () => this.#running?.abort());
    byId("column-csv").addEventListener("click", () => save("answers.csv", csv(csvRows(this.#result))));
  }

  async #answer() {
    const texts = textsOf(byId("column").value);
    const tasks = this.#chosen();
    if (!texts.length || !tasks.length) {
      this.#say(texts.length ? "Choose a task first." : "Paste some texts first.");
      return;
    }
    this.#running?.abort();
    const controller = this.#running = new AbortController();
    const result = { texts, tasks, answers: [] };
    const began = performance.now();
    this.#begin(result, texts.length * tasks.length);
    let end = "";
    try {
      await this.#ask(result, controller.signal);
      end = `${count(result.answers.length, "answer")} in ${time(performance.now() - began)}`;
    } catch (error) {
      end = isAbort(error) ? `stopped after ${count(result.answers.length, "answer")}` : error.message;
    }
    if (controller === this.#running) this.#end(result, end);
  }

  async #ask(result, signal) {
    const rows = result.texts.flatMap((text) => result.tasks.map((task) => rowOf(text, task)));
    for (const part of partsOf(rows, Math.min(ROWS, this.maxRows))) {
      result.answers.push(...await patiently(part, signal));
      byId("column-progress").value = result.answers.length;
    }
  }

  #begin(result, total) {
    this.#result = null;
    byId("column-csv").disabled = true;
    byId("column-stop").hidden = false;
    Object.assign(byId("column-progress"), { hidden: false, max: total, value: 0 });
    this.#say(`answering ${count(result.texts.length, "text")} …`);
  }

  #end(result, sentence) {
    result.texts = result.texts.slice(0, Math.ceil(result.answers.length / result.tasks.length));
    this.#result = result;
    byId("column-stop").hidden = byId("column-progress").hidden = true;
    byId("column-csv").disabled = !result.answers.length;
    const place = byId("column-table");
    place.replaceChildren(...(result.answers.length ? [tableOf(result)] : []));
    place.hidden = !result.answers.length;
    const hidden = result.texts.length > SHOWN ? `; the table shows the first ${count(SHOWN, "text")}, the CSV all` : "";
    this.#say(sentence + hidden);
  }

  #say(sentence) {
    byId("column-status").textContent = oneLine(sentence);
  }
}

/** Return the texts of a pasted column: a list of one or two texts for each line that is not empty. */
export function textsOf(pasted) {
  return pasted.split(/\r\n|\n|\r/).filter((line) => line.trim()).map((line) => line.split("\t"));
}

/** Return the rows of the CSV, titles first. A task has a column of errors only where there are any. */
export function csvRows({ texts, tasks, answers }) {
  const width = Math.max(...texts.map((parts) => parts.length));
  const failed = tasks.map((_, j) => texts.some((__, i) => answers[i * tasks.length + j]?.error));
  const titles = ["text", "text_pair"].concat(Array(width).fill("")).slice(0, width);
  const heads = tasks.flatMap(({ task }, j) => [task, `${task}.score`, ...(failed[j] ? [`${task}.error`] : [])]);
  const rows = texts.map((parts, i) => [
    ...parts, ...Array(width - parts.length).fill(""),
    ...tasks.flatMap((_, j) => csvCells(answers[i * tasks.length + j], failed[j])),
  ]);
  return [[...titles, ...heads], ...rows];
}

function csvCells(answer, hasError) {
  const cells = !answer || answer.error ? [null, null] : [fullWords(answer), scoreOf(answer)];
  return hasError ? [...cells, answer?.error] : cells;
}

function fullWords(answer) {
  return answer.vector ? answer.vector.join(" ") : wordsOf(answer);
}

function rowOf(parts, { task, inputs }) {
  return inputs === "pair" ? { task, text: parts[0], text_pair: parts[1] ?? "" } : { task, text: parts[0] };
}

function* partsOf(rows, max) {
  let part = [], size = 0;
  for (const row of rows) {
    const length = row.text.length + (row.text_pair?.length ?? 0);
    if (part.length && (part.length === max || size + length > CHARACTERS)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(row);
    size += length;
  }
  if (part.length) yield part;
}

/** Answer rows; where too much waits, ask again after the time that the server names. */
async function patiently(rows, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return (await run(rows, signal)).answers;
    } catch (error) {
      if (error.status !== 429 || tried === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 1)));
      signal.throwIfAborted();
    }
  }
}

function tableOf({ texts, tasks, answers }) {
  const titles = ["Text", ...tasks.map((task) => oneLine(task.task))];
  const rows = texts.slice(0, SHOWN).map((parts, i) => [
    element("bdi", {}, oneLine(parts.join(" ⸱ "))), ...tasks.map((_, j) => tableCell(answers[i * tasks.length + j])),
  ]);
  return table("Answers of each task to each text", titles, rows);
}

function tableCell(answer) {
  if (!answer) return element("td", { class: "quiet" }, "–");
  if (answer.error) return element("td", { class: "error" }, oneLine(answer.error));
  const value = scoreOf(answer);
  const words = element("bdi", {}, oneLine(wordsOf(answer)));
  return value === null ? element("td", {}, words)
    : element("td", {}, words, " ", element("data", { value: String(value) }, score(value)));
}
