// Starts the page: learns what the server has, shows its views, follows the address.

import { element, find } from "./dom.js";
import * as collection from "./collection.js";
import * as imagine from "./imagine.js";
import * as images from "./images.js";
import * as see from "./see.js";
import * as segment from "./segment.js";
import { learn, server } from "./server.js";
import * as what from "./what.js";

// `has` says whether the server can do it; `lacks` is the sentence if it cannot.
const VIEWS = {
  what: { title: "What is it", module: what, has: (about) => about.tasks.includes("classify"),
    lacks: "The model of this server is not a classifier. Start it with one to see this view:", command: "hierax serve --model MODEL" },
  see: { title: "What does it see", module: see, has: (about) => about.tasks.includes("features"),
    lacks: "The model of this server gives no feature maps.", command: "" },
  imagine: { title: "Imagine the rest", module: imagine, has: (about) => Boolean(about.mae),
    lacks: "This server has no MAE model. Start it with one to see this view:", command: "hierax serve --mae MODEL" },
  segment: { title: "Segment", module: segment, has: (about) => Boolean(about.segmentation),
    lacks: "This server has no segmentation model. Start it with one to see this view:", command: "hierax serve --segmentation MODEL" },
  collection: { title: "My collection", module: collection, has: (about) => Boolean(about.collection),
    lacks: "This server has no collection. Start it with a folder of hierax embed to see this view:", command: "hierax serve --collection FOLDER" },
};

const lacking = ({ lacks, command }) => [lacks, " ", command ? element("code", { text: command }) : ""];

let about = null;
let shown = "";

const named = () => location.hash.slice(1).split("/")[0];
const first = () => Object.keys(VIEWS).find((name) => VIEWS[name].has(about)) ?? "see";

function route() {
  if (!about) return;
  if (named() === "main" && shown) return; // the link to the content
  const name = VIEWS[named()] ? named() : first();
  const view = VIEWS[name];
  const has = view.has(about);
  for (const section of document.querySelectorAll("main > .view")) section.hidden = section.id !== `view-${has ? name : "missing"}`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  find("#title").textContent = view.title;
  document.title = `${view.title} · hierax`;
  find("#view-missing .lead").replaceChildren(...lacking(view));
  const before = shown;
  shown = has ? name : "missing";
  if (before && before !== shown) scrollTo(0, 0);
  document.body.dataset.view = shown;
  update();
}

// The tray of images is no part of a collection's walls and maps, but its chosen image can be searched.
function update() {
  document.body.dataset.images = String(Boolean(images.current()));
  if (shown && shown !== "missing") VIEWS[shown].module.update();
}

function describe() {
  const { model } = about;
  const size = model.image_size?.join(" × ");
  const parts = [`hierax ${about.version}`, model.source, model.license, size && `trained at ${size}`, `${model.precision} on ${model.device}`];
  find("#about").textContent = parts.filter(Boolean).join(" · ");
  const missing = Object.values(VIEWS).filter((view) => !view.has(about));
  find("#lacks").replaceChildren(...missing.map((view) => element("span", {}, ...lacking(view))));
  for (const link of document.querySelectorAll("nav a")) link.hidden = !VIEWS[link.hash.slice(1)].has(about);
}

function banner(text) {
  const place = find("#banner");
  place.textContent = text;
  place.hidden = !text;
}

async function open() {
  const slow = setTimeout(() => find("#key").open || banner("Waiting for the server …"), 1000);
  try {
    about = await learn();
  } catch (error) {
    clearTimeout(slow);
    if (error.code === "away") return; // the banner says so, and "back" calls this again
    banner(error.status === 401 ? `${error.message} Reload the page to enter it.` : error.message);
    if (error.wait) setTimeout(open, 1000 * error.wait);
    return;
  }
  clearTimeout(slow);
  banner("");
  describe();
  for (const { module, has } of Object.values(VIEWS)) if (has(about)) module.start(about);
  route();
}

server.addEventListener("away", () => banner("The server does not answer. This page looks for it and continues when it is back."));
server.addEventListener("back", () => {
  banner("The server is back.");
  setTimeout(() => find("#banner").textContent.startsWith("The server is back") && banner(""), 3000);
  if (!about) open();
});
addEventListener("hashchange", route);
images.images.addEventListener("choose", update);
images.images.addEventListener("change", update);
images.start();
open();
