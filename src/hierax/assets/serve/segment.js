// "Segment": the class of every pixel over the image.

import { bytesOf, download, element, find, imageOf, percent, plural, show, stem } from "./dom.js";
import { current } from "./images.js";
import { item } from "./server.js";
import { Task } from "./task.js";

const root = find("#view-segment");
const MOST = 1400; // pixels of the longer side that are drawn
const state = { image: null, answer: null, mask: null, alone: null };
let task;

export function start() {
  task = new Task(find(".notice", root), find(".pair", root));
  find("#segment-strength").addEventListener("input", draw);
  find("#segment-save").addEventListener("click", () => {
    download(new Blob([bytesOf(state.answer.mask)], { type: "image/png" }), `${stem(state.image.name)}-mask.png`);
  });
}

export function update() {
  const image = current();
  find(".pair", root).hidden = !image;
  if (!image) {
    task.stop();
    state.image = null;
  } else if (state.image !== image) load(image);
}

async function load(image) {
  Object.assign(state, { image, answer: null, mask: null, alone: null });
  find("#segment-save").disabled = true;
  find("#segment-classes").replaceChildren();
  find("#segment-facts").textContent = image.name;
  draw();
  const isShown = await showImage(image);
  if (state.image !== image) return;
  const answer = await task.run((signal) => item("/v1/segment", { images: [image], signal }));
  if (!answer || state.image !== image) return;
  const mask = await pixelsOf(imageOf(answer.mask), answer.width, answer.height);
  if (state.image !== image) return;
  Object.assign(state, { answer, mask });
  find("#segment-save").disabled = false;
  find("#segment-frame").style.aspectRatio = `${answer.width} / ${answer.height}`;
  const facts = `${image.name}, ${answer.width} × ${answer.height} pixels`;
  find("#segment-facts").textContent = isShown ? facts : `${facts}. This browser cannot show the image itself.`;
  legend();
  draw();
}

// The browser's own decoder shows the image upright, as the mask is. Of formats that it does not know, the mask is shown
// alone. Answers whether the image is shown.
async function showImage(image) {
  const view = find("#segment-view");
  const frame = find("#segment-frame");
  try {
    const bitmap = await createImageBitmap(image.file);
    if (state.image !== image) return false; // another one was chosen meanwhile
    frame.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    bitmap.close();
    show(view, image.file, image.name);
    return true;
  } catch {
    if (state.image === image) show(view, null);
    return false;
  }
}

async function pixelsOf(png, width, height) {
  const scale = Math.min(1, MOST / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false; // colors are classes: no color between two of them
  context.drawImage(await createImageBitmap(png, { colorSpaceConversion: "none" }), 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function draw() {
  const canvas = find("#segment-over");
  const context = canvas.getContext("2d");
  if (!state.mask) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const { width, height, data } = state.mask;
  const alpha = Math.round(2.55 * find("#segment-strength").value);
  const [r, g, b] = state.alone?.color ?? [];
  const pixels = new ImageData(new Uint8ClampedArray(data), width, height);
  for (let i = 0; i < data.length; i += 4) {
    const shown = state.alone
      ? data[i] === r && data[i + 1] === g && data[i + 2] === b
      : data[i] || data[i + 1] || data[i + 2]; // black, the background, would only darken the image
    pixels.data[i + 3] = shown ? alpha : 0;
  }
  Object.assign(canvas, { width, height });
  context.putImageData(pixels, 0, 0);
}

function legend() {
  const { areas } = state.answer;
  find("#segment-classes").replaceChildren(...areas.map((area) => {
    const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = `rgb(${area.color.join(" ")})`;
    const button = element("button", { type: "button", class: "class", "aria-pressed": "false", title: plural(area.pixels, "pixel") },
      swatch, element("span", { class: "label", text: area.label }), element("span", { class: "number", text: percent(area.share) }));
    button.addEventListener("click", () => {
      state.alone = state.alone === area ? null : area;
      for (const other of find("#segment-classes").children) other.setAttribute("aria-pressed", String(other === button && state.alone === area));
      draw();
    });
    return button;
  }));
}
