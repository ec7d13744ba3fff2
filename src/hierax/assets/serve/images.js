// The images that the user gave: one list for all views, one of them chosen.

import { element, find } from "./dom.js";
import { addressOf, blob } from "./server.js";

export const images = new EventTarget(); // "change" (the list) and "choose" (which one)
export const list = [];
let chosen = null;
let count = 0;

export const current = () => chosen;

const SAMPLES = [
  ["cat.jpg", "A tabby cat", "Chelsea the cat. Stéfan van der Walt, CC0 1.0"],
  ["astronaut.jpg", "An astronaut before a flag", "Eileen Collins. NASA, public domain"],
  ["coffee.jpg", "A cup of coffee on a table", "Rachel Michetti, CC0 1.0"],
  ["flower.jpg", "A flower", "vultilion, CC BY 2.0"],
  ["mountains.jpg", "Mountains under clouds", "Aitzol Berasategi, CC BY 4.0"],
  ["bee.jpg", "A bee on a flower", "John Severns, public domain"],
  ["citrus.jpg", "Slices of citrus fruits", "US Department of Agriculture, public domain"],
  ["scissors.jpg", "A pair of scissors", "Modeha, CC BY 1.0"],
];

export function add(files) {
  const added = [...files].map((file) => {
    count += 1;
    return { id: count, file, name: file.name || `pasted-${count}.png`, url: URL.createObjectURL(file) };
  });
  if (!added.length) return;
  list.push(...added);
  images.dispatchEvent(new Event("change"));
  choose(added[0]);
}

export function choose(image) {
  if (chosen === image) return;
  chosen = image;
  images.dispatchEvent(new Event("choose"));
}

export function clear() {
  for (const { url } of list) URL.revokeObjectURL(url);
  list.length = 0;
  images.dispatchEvent(new Event("change"));
  choose(null);
}

export function remove(image) {
  const at = list.indexOf(image);
  if (at < 0) return;
  list.splice(at, 1);
  URL.revokeObjectURL(image.url);
  images.dispatchEvent(new Event("change"));
  if (chosen === image) choose(list[Math.min(at, list.length - 1)] ?? null);
}

// An image of the user as the browser shows it; a quiet tile if the browser cannot.
export function picture(image, alt) {
  const made = element("img", { src: image.url, alt, loading: "lazy", decoding: "async" });
  made.addEventListener("error", () => made.replaceWith(element("span", { class: "no-image", role: "img", "aria-label": alt || image.name })));
  return made;
}

async function sample(name) {
  const found = await blob(`/assets/photos/${name}`).catch(() => null); // if the server is away, the banner says so
  if (found) add([new File([found], name, { type: "image/jpeg" })]);
}

function drawTray() {
  const tray = find("#tray");
  tray.dataset.empty = String(!list.length);
  find("#welcome").hidden = list.length > 0;
  find("#strip").hidden = !list.length;
  const strip = find("#strip-images");
  strip.replaceChildren(...list.map((image) => {
    const button = element("button", { type: "button", class: "thumb", "aria-pressed": String(image === chosen), title: image.name, "data-id": image.id,
      onclick: () => choose(image) }, picture(image, image.name));
    button.addEventListener("keydown", (event) => {
      if (event.key === "Delete" || event.key === "Backspace") removeByKey(image, event);
    });
    return button;
  }));
  find("#strip-count").textContent = list.length === 1 ? "1 image" : `${list.length} images`;
}

function removeByKey(image, event) {
  event.preventDefault();
  const at = list.indexOf(image);
  remove(image);
  (find("#strip-images").children[Math.min(at, list.length - 1)] ?? find("#choose")).focus();
}

function markChosen() {
  for (const button of find("#strip-images").children) button.setAttribute("aria-pressed", String(Number(button.dataset.id) === chosen?.id));
  find("#strip-images [aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function dropping() {
  let depth = 0;
  const holds = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragenter", (event) => {
    if (holds(event)) mark(Boolean((depth += 1)));
  });
  addEventListener("dragleave", (event) => {
    if (holds(event) && (depth -= 1) <= 0) mark(false);
  });
  addEventListener("dragover", (event) => holds(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    depth = 0;
    mark(false);
    add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) add(event.clipboardData.files);
  });
}

export function start() {
  const field = find("#files");
  field.addEventListener("change", () => {
    add(field.files);
    field.value = "";
  });
  for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => field.click());
  find("#clear").addEventListener("click", () => {
    clear();
    find("#choose").focus();
  });
  find("#remove").addEventListener("click", () => chosen && remove(chosen));
  find("#samples").replaceChildren(...SAMPLES.map(([name, alt, credit]) =>
    element("li", {}, element("button", { type: "button", class: "sample", title: credit, onclick: () => sample(name) },
      element("img", { src: addressOf(`/assets/photos/${name}`), alt, width: 160, height: 120, decoding: "async" })))));
  find("#credits").textContent = `Photos: ${SAMPLES.map(([, , credit]) => credit).join("; ")}.`;
  images.addEventListener("change", drawTray);
  images.addEventListener("choose", markChosen);
  dropping();
  drawTray();
}
