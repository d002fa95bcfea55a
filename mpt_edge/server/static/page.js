// The page: its tasks, its views, and the key that opens them.

import { Answers } from "./answers.js";
import { read, useKey } from "./api.js";
import { Column } from "./column.js";
import { byId } from "./elements.js";
import { showRights, startInstalling } from "./install.js";
import { TaskMap } from "./map.js";
import { startTabs } from "./tabs.js";
import { TaskList } from "./tasks.js";
import { oneLine } from "./words.js";

// Milliseconds between two looks at a server that loads its model.
const LOOK = 1000;

const tasks = new TaskList(() => answers.show());
const answers = new Answers(() => tasks.chosen);
const column = new Column(() => tasks.chosen);
const map = new TaskMap();

let view = "view-text";

/** Read the tasks, and show them and their answers; `again` asks all of them anew. */
async function open(again = false) {
  try {
    const [list, info] = await Promise.all([read("tasks"), read("info")]);
    note("");
    byId("model").textContent = oneLine(`${info.model_id ?? "a model"}, ${info.model_dtype}`);
    column.maxRows = info.max_client_batch_size;
    tasks.show(list.tasks);
    showRights(list.may_change);
    answers.show({ again });
    if (view === "view-map") map.show();
  } catch (error) {
    refuse(error);
  }
}

function refuse(error) {
  note(error.message);
  if (error.status === 401) showKey(true);
  if (error.status === 503) setTimeout(open, LOOK);
}

function note(sentence) {
  byId("notice").textContent = oneLine(sentence);
  byId("notice").hidden = !sentence;
}

function showKey(isShown) {
  byId("key-form").hidden = !isShown;
  byId("key-button").setAttribute("aria-expanded", String(isShown));
  if (isShown) byId("key").focus();
}

byId("key-button").addEventListener("click", () => showKey(byId("key-form").hidden));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  showKey(false);
  byId("key-button").focus();
  open(true);
});
startTabs(document.querySelector("[role=tablist]"), (panel) => {
  view = panel;
  if (panel === "view-map") map.show();
});
startInstalling(() => open(true));
open();
