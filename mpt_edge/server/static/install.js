// Task files, dropped or chosen, that an admin key lets the server install.

import { install } from "./api.js";
import { byId } from "./elements.js";
import { count, oneLine } from "./words.js";

/** Install files that are dropped anywhere on the page, or chosen; call `installed` after each. */
export function startInstalling(installed) {
  const field = byId("task-file");
  field.addEventListener("change", async () => {
    await installAll([...field.files], installed);
    field.value = "";
  });
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();  // or the browser would open the file in place of this page
    mark(true);
  });
  addEventListener("dragleave", (event) => mark(event.relatedTarget !== null));
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    installAll([...event.dataTransfer.files], installed);
  });
}

/** Say whether this page's key may change tasks. */
export function showRights(mayChange) {
  byId("may-change").textContent = mayChange ? "It answers its reference example first." : "This needs an admin key.";
}

async function installAll(files, installed) {
  for (const file of files) {
    say(`installing ${file.name} …`);
    try {
      const task = await install(file);
      await installed();
      say(`installed ${task.task}, version ${task.version}: ${count(task.bytes, "byte")}`);
    } catch (error) {
      say(error.message, true);
      return;
    }
  }
}

function say(sentence, isError = false) {
  const status = byId("install-status");
  status.textContent = oneLine(sentence);
  status.classList.toggle("error", isError);
}

function hasFiles(event) {
  return event.dataTransfer.types.includes("Files");
}

function mark(isOver) {
  byId("drop").classList.toggle("over", isOver);
}
