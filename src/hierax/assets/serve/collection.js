// "My collection": all images, those similar to one, near duplicates, and the map. The address holds where one is:
// #collection, #collection/row/ID, #collection/image, #collection/duplicates, #collection/map; so Back goes back.

import { debounce, element, find, plural, radios, whole } from "./dom.js";
import { current, images, picture } from "./images.js";
import { PointMap } from "./map.js";
import { about, item, json, thumbnail } from "./server.js";
import { Task } from "./task.js";
import { Wall } from "./wall.js";

const root = find("#view-collection");
const PAGE = 200; // rows of a request
const GROUPS = 40; // groups that are shown at once
const FIRST = { all: "collection", similar: "collection/image", duplicates: "collection/duplicates", map: "collection/map" };
const rows = new Map(); // index -> {id, name}
const names = new Map(); // id -> name
const asked = new Set(); // pages of rows that were asked for
const tasks = {};
let wall;
let map;
let shown = "";
let groups = [];

export function start() {
  const first = { rows: "", search: "", duplicates: "It compares all images.", map: "The first time, it computes the map." };
  for (const [name, why] of Object.entries(first)) tasks[name] = new Task(find(".notice", root), null, why);
  wall = new Wall(find("#collection-wall"));
  map = new PointMap(find("#collection-map"), { open, name: nameOf });
  const { count, folders, model } = about.collection;
  find("#collection-facts").textContent = [plural(count, "image"), folders ? plural(folders, "folder") : "", model ? `vectors of ${model}` : ""].filter(Boolean).join(" · ");
  radios(find("#collection-part"), (part) => (part === "similar" && !current() ? openFirst() : go(FIRST[part])));
  find("#collection-back").addEventListener("click", () => history.back());
  find("#collection-k").addEventListener("change", () => {
    shown = "";
    update();
  });
  const threshold = find("#collection-threshold");
  const readThreshold = () => (find("#collection-threshold-read").textContent = `${Number(threshold.value).toFixed(1)} %`);
  readThreshold();
  threshold.addEventListener("input", readThreshold);
  threshold.addEventListener("input", debounce(() => loadGroups(), 250));
  find("#collection-more").addEventListener("click", showGroups);
  images.addEventListener("choose", () => { // an image that is given here is searched
    if (!root.hidden && current()) go(FIRST.similar);
  });
}

const go = (address) => (location.hash = address);
const open = (id) => go(`collection/row/${encodeURIComponent(id)}`);

// Without an image of the user, the first row is searched.
async function openFirst() {
  const first = rows.get(0) ?? (await json("/v1/collection/rows", { query: { limit: 1 } }).catch(() => null))?.rows[0];
  if (first) open(first.id);
  else go(FIRST.all);
}

// Follows the address.
export function update() {
  const image = current();
  let [, part = "all", row] = location.hash.slice(1).split("/");
  if (part === "image" && !image) part = "all";
  const id = part === "row" ? decodeURIComponent(row ?? "") : null;
  const address = `${part}/${id ?? ""}/${part === "image" ? image.id : ""}`;
  if (address === shown) return;
  shown = address;
  arrange(part === "row" || part === "image" ? "similar" : part);
  if (part === "row" || part === "image") search(part === "image" ? image : null, id);
  else if (part === "duplicates") loadGroups();
  else if (part === "map") loadMap();
  else showAll();
}

function arrange(part) {
  for (const [name, task] of Object.entries(tasks)) if (name !== "rows") task.stop();
  for (const item of find("#collection-part").children) {
    const on = item.value === part;
    item.setAttribute("aria-checked", String(on));
    item.tabIndex = on ? 0 : -1;
  }
  find("#collection-wall").hidden = !["all", "similar"].includes(part);
  for (const name of ["similar", "duplicates", "map"]) find(`#collection-${name}`).hidden = name !== part;
}

function showAll() {
  find("#collection-wall").setAttribute("aria-label", "Images of the collection. Enter shows similar ones.");
  wall.use({ count: about.collection.count, get: (i) => rows.get(i) ?? null, need, open: ({ id }) => open(id) });
}

// Rows come in pages, when they are near. Pages that were scrolled past quickly are asked for once the wall rests.
const need = (from, to) => {
  for (let page = Math.floor(from / PAGE); page * PAGE < to; page += 1) if (!asked.has(page)) return loadRows(page);
  return undefined;
};

const loadRows = debounce(async (page) => {
  if (asked.has(page)) return;
  asked.add(page);
  const found = await tasks.rows.run((signal) => json("/v1/collection/rows", { query: { offset: page * PAGE, limit: PAGE }, signal }));
  if (!found) asked.delete(page);
  else {
    found.rows.forEach((row, i) => {
      rows.set(page * PAGE + i, row);
      names.set(String(row.id), row.name);
    });
    wall.draw();
  }
}, 40);

async function nameOf(id) {
  if (!names.has(String(id))) {
    const found = await json("/v1/collection/rows", { query: { id } });
    if (String(found.rows[0]?.id) === String(id)) names.set(String(id), found.rows[0].name);
  }
  return names.get(String(id)) ?? `Image ${id}`;
}

async function search(image, id) {
  const figure = find(".asked", root);
  const caption = find("figcaption", figure);
  figure.dataset.row = id ?? "";
  find("#collection-wall").setAttribute("aria-label", "Similar images, the most similar first. Enter shows those similar to one.");
  wall.use({ count: 0, get: () => null, need: () => {}, open: () => {} });
  if (image) {
    find(".frame", figure).replaceChildren(picture(image, image.name));
    caption.textContent = `Similar to ${image.name}`;
  } else {
    const asking = element("img", { alt: "The image whose neighbors are shown" });
    asking.addEventListener("error", () => asking.replaceWith(element("span", { class: "no-image" })));
    thumbnail(asking, id);
    find(".frame", figure).replaceChildren(asking);
    caption.textContent = "Similar to this image";
    nameOf(id).then((name) => figure.dataset.row === id && (caption.textContent = `Similar to ${name}`), () => {});
  }
  const query = { k: find("#collection-k").value, ...(image ? {} : { id }) };
  const found = await tasks.search.run((signal) => item("/v1/search", { query, images: image ? [image] : undefined, signal }));
  if (!found) return;
  const others = found.hits.filter((hit) => image || String(hit.id) !== id); // not the image itself
  const hits = others.map((hit) => ({ id: hit.id, score: hit.score, name: hit.name ?? hit.path?.split(/[\\/]/).pop() }));
  for (const hit of hits) names.set(String(hit.id), hit.name);
  wall.use({ count: hits.length, get: (i) => hits[i], need: () => {}, open: (hit) => open(hit.id) });
}

async function loadGroups() {
  const threshold = find("#collection-threshold").value / 100;
  const found = await tasks.duplicates.run((signal) => json("/v1/collection/duplicates", { query: { threshold: threshold.toFixed(3) }, signal }));
  if (!found) return;
  groups = found.groups;
  const place = find("#collection-groups");
  place.replaceChildren(element("p", { class: "fine", text: groups.length
    ? `${plural(groups.length, "group")} with ${whole(groups.reduce((sum, group) => sum + group.length, 0))} images.`
    : "No two images are this similar." }));
  showGroups();
}

function showGroups() {
  const place = find("#collection-groups");
  const from = place.querySelectorAll(".group").length;
  place.append(...groups.slice(from, from + GROUPS).map((group, i) => element("div", { class: "group", role: "group", "aria-label": `Group ${from + i + 1}` },
    ...group.slice(0, 60).map(({ id, name }) => {
      names.set(String(id), name);
      const image = element("img", { alt: name ?? `Image ${id}`, decoding: "async", loading: "lazy", width: 96, height: 96 });
      thumbnail(image, id);
      return element("button", { type: "button", class: "thumb large", title: name, onclick: () => open(id) }, image);
    }), group.length > 60 ? element("span", { class: "fine", text: `and ${group.length - 60} more` }) : null)));
  find("#collection-more").hidden = place.querySelectorAll(".group").length >= groups.length;
}

async function loadMap() {
  const found = await tasks.map.run((signal) => json("/v1/collection/map", { signal }));
  if (found) map.use(found.points);
}
