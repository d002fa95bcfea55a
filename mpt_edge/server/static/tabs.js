// Tabs as the ARIA Authoring Practices describe them: arrow keys move among them, and the address keeps the choice.

const KEYS = { ArrowRight: 1, ArrowLeft: -1 };

/** Let the tabs of a list show their panels; `shown` is called with the panel's id. */
export function startTabs(list, shown) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const select = (tab) => {
    for (const each of tabs) mark(each, each === tab);
    history.replaceState(null, "", `#${tab.id}`);
    shown(tab.getAttribute("aria-controls"));
  };
  for (const tab of tabs) tab.addEventListener("click", () => select(tab));
  list.addEventListener("keydown", (event) => {
    const target = neighbor(tabs, event.key);
    if (!target) return;
    event.preventDefault();
    target.focus();
    select(target);
  });
  const given = tabs.find((tab) => `#${tab.id}` === location.hash);
  if (given) select(given);
}

function neighbor(tabs, key) {
  if (key === "Home") return tabs[0];
  if (key === "End") return tabs.at(-1);
  const i = tabs.indexOf(document.activeElement);
  return key in KEYS && i >= 0 ? tabs[(i + KEYS[key] + tabs.length) % tabs.length] : null;
}

function mark(tab, isSelected) {
  tab.setAttribute("aria-selected", String(isSelected));
  tab.tabIndex = isSelected ? 0 : -1;
  document.getElementById(tab.getAttribute("aria-controls")).hidden = !isSelected;
}
