// A map of the tasks by their two vectors. The server projects them; see mpt_edge/server/maps.py.

import { read } from "./api.js";
import { byId, drawn, element, table } from "./elements.js";
import { count, oneLine, percent, score } from "./words.js";

const MARGIN = 28, RADIUS = 5, LINE = 15, LETTER = 7.2;

// Tasks up to which all have their names on the map. All have them in the table.
const NAMED = 80;

/** The view of the map; it is read anew each time that it is shown. */
export class TaskMap {
  #points = [];

  constructor() {
    new ResizeObserver(() => this.#draw()).observe(byId("map"));
  }

  /** Read the map and show it. */
  async show() {
    try {
      const { points, shares, left_out: leftOut } = await read("map");
      this.#points = points;
      byId("map-words").textContent = wordsOf(points, shares, leftOut);
      byId("map-table").replaceChildren(tableOf(points));
      byId("map-table").hidden = points.length < 2;
      this.#draw();
    } catch (error) {
      byId("map-words").textContent = oneLine(error.message);
    }
  }

  #draw() {
    const place = byId("map");
    const width = place.clientWidth;
    if (!width || this.#points.length < 2) {
      place.replaceChildren();
      return;
    }
    const { height, spots } = layOut(this.#points, width);
    const names = this.#points.length <= NAMED ? namesOf(spots, width) : [];
    place.replaceChildren(drawn("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": `Map of ${count(spots.length, "task")}; the table below has each one's nearest task.`,
    }, ...linksOf(spots), ...spots.map(dot), ...names));
  }
}

function wordsOf(points, shares, leftOut) {
  if (points.length < 2) return "A map needs two tasks of the same shared prompt.";
  const others = leftOut.length ? ` Not comparable, so not on the map: ${leftOut.map(oneLine).join(", ")}.` : "";
  return "Each task scales the shared prompt by u·vᵀ. Tasks with similar scales are close together. The map shows the two " +
    `directions in which they differ most, ${percent(shares[0] + shares[1])} of all differences. Lines lead to the task ` +
    `that is nearest when all directions count.${others}`;
}

function tableOf(points) {
  const rows = points.map((point) => [
    element("bdi", {}, oneLine(point.task)), element("bdi", {}, oneLine(point.nearest ?? "")),
    element("td", { class: "number" }, point.distance === null ? "" : score(point.distance)),
  ]);
  return table("The nearest task of each", ["Task", "Nearest task", "Difference of their scales (RMS)"], rows);
}

/** Place the points on a drawing of some width, with one scale for both axes. */
function layOut(points, width) {
  const [left, right] = range(points.map((point) => point.x));
  const [low, high] = range(points.map((point) => point.y));
  const room = 2 * MARGIN + 2 * RADIUS;
  const scale = Math.min((width - room - 60) / (right - left || 1), (Math.max(280, width * 0.7) - room) / (high - low || 1));
  const height = Math.max(120, (high - low) * scale + room);
  const spots = points.map((point) => ({
    point,
    x: width / 2 + (point.x - (left + right) / 2) * scale,
    y: height / 2 - (point.y - (low + high) / 2) * scale,
  }));
  return { height: Math.ceil(height), spots };
}

function range(values) {
  return [Math.min(...values), Math.max(...values)];
}

function linksOf(spots) {
  const places = new Map(spots.map((spot) => [spot.point.task, spot]));
  return spots.filter((spot) => places.has(spot.point.nearest)).map((spot) => {
    const target = places.get(spot.point.nearest);
    return drawn("line", { x1: spot.x, y1: spot.y, x2: target.x, y2: target.y });
  });
}

function dot({ point, x, y }) {
  return drawn("circle", { cx: x, cy: y, r: RADIUS }, drawn("title", {}, oneLine(point.task)));
}

/** Write each name beside its point, where neither another name nor a point is. */
function namesOf(spots, width) {
  const taken = spots.map(({ x, y }) => boxOf(x - RADIUS, y - RADIUS, 2 * RADIUS, 2 * RADIUS));
  return spots.flatMap(({ point, x, y }) => {
    const name = shortened(oneLine(point.task));
    const size = name.length * LETTER;
    const places = [
      { anchor: "start", x: x + 10, y: y + 4, left: x + 10 }, { anchor: "end", x: x - 10, y: y + 4, left: x - 10 - size },
      { anchor: "middle", x, y: y - 11, left: x - size / 2 }, { anchor: "middle", x, y: y + 20, left: x - size / 2 },
    ];
    const place = places.find((each) => {
      const box = boxOf(each.left, each.y - 12, size, LINE);
      return box.left >= 0 && box.right <= width && !taken.some((other) => overlap(box, other));
    });
    if (!place) return [];
    taken.push(boxOf(place.left, place.y - 12, size, LINE));
    return [drawn("text", { x: place.x, y: place.y, "text-anchor": place.anchor }, name)];
  });
}

function shortened(name) {
  return name.length > 24 ? `${name.slice(0, 23)}…` : name;
}

function boxOf(left, top, width, height) {
  return { left, top, right: left + width, bottom: top + height };
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}
