// The list of tasks, from which some are chosen.

import { byId, element } from "./elements.js";
import { count, oneLine } from "./words.js";

// Tasks that are chosen when the page opens.
const FIRST = 12;

// Tasks from which on a field finds them.
const MANY = 12;

/** The tasks of the server and those that are chosen. */
export class TaskList {
  #known = new Set();
  #chosen = new Set();
  #changed;

  /** Call `changed` after each choice. */
  constructor(changed) {
    this.all = [];
    this.#changed = changed;
    byId("tasks-all").addEventListener("click", () => this.#choose(this.all.filter(isVisible)));
    byId("tasks-none").addEventListener("click", () => this.#choose([]));
    byId("tasks-filter").addEventListener("input", () => this.#filter());
    byId("tasks").addEventListener("change", (event) => this.#toggle(event.target));
  }

  /** The chosen tasks, in order. */
  get chosen() {
    return this.all.filter((task) => this.#chosen.has(task.task));
  }

  /** Show these tasks. New ones are chosen, up to a number when the page opens. */
  show(tasks) {
    const isFirst = this.#known.size === 0;
    const fresh = tasks.filter((task) => !task.error && !this.#known.has(task.task));
    for (const task of isFirst ? fresh.slice(0, FIRST) : fresh) this.#chosen.add(task.task);
    this.#known = new Set(tasks.map((task) => task.task));
    this.all = tasks;
    byId("tasks").replaceChildren(...tasks.map((task) => this.#row(task)));
    byId("tasks-filter-line").hidden = tasks.length <= MANY;
    this.#filter();
    this.#count();
  }

  #row(task) {
    const box = element("input", { type: "checkbox", value: task.task });
    box.checked = this.#chosen.has(task.task);
    box.disabled = Boolean(task.error);
    const facts = task.error ?? factsOf(task);
    const kind = task.error ? "quiet error" : "quiet";
    task.row = element("li", {}, element("label", {}, box, element("bdi", { class: "name" }, oneLine(task.task)),
      element("span", { class: kind }, oneLine(facts))));
    return task.row;
  }

  #toggle(box) {
    if (box.checked) this.#chosen.add(box.value);
    else this.#chosen.delete(box.value);
    this.#count();
    this.#changed();
  }

  #choose(tasks) {
    this.#chosen = new Set(tasks.filter((task) => !task.error).map((task) => task.task));
    for (const box of byId("tasks").querySelectorAll("input")) box.checked = this.#chosen.has(box.value);
    this.#count();
    this.#changed();
  }

  #filter() {
    const wanted = byId("tasks-filter").value.toLowerCase();
    for (const task of this.all) task.row.hidden = !task.task.toLowerCase().includes(wanted);
  }

  #count() {
    byId("tasks-count").textContent = `${this.chosen.length} of ${this.all.length} chosen`;
  }
}

function isVisible(task) {
  return !task.row.hidden;
}

function factsOf(task) {
  const labels = task.labels.length ? count(task.labels.length, "label") : task.answer;
  return task.bytes === null ? labels : `${labels}, ${count(task.bytes, "byte")}`;
}
