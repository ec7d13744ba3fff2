// "What does it see": the stages as images, the cells that are like a point, the regions that speak for a label.

import { debounce, download, element, find, percent, radios, show, stem } from "./dom.js";
import { current } from "./images.js";
import { drawHeat, fit, HEAT, range, similarity, unitVectors } from "./maps.js";
import { about, ask, blob, item } from "./server.js";
import { Task } from "./task.js";

const root = find("#view-see");
const frame = find("#see-frame");
const heat = find("#see-heat");
const state = { image: null, size: "", stage: 3, mode: "point", pin: [0.5, 0.5], hover: null, map: null, explained: null, pictures: {} };
const kept = new Map(); // "stage" -> map of the image that is shown
const tasks = {};

export function start() {
  for (const name of ["main", "map", "explain", "label", "save"]) tasks[name] = new Task(find(".notice", root), name === "main" ? find(".pair", root) : null);
  if (!about.tasks.includes("classify")) find('#see-mode [value="label"]').hidden = true;
  makeStages();
  makeSizes();
  find("#see-names").replaceChildren(...(about.model.labels ?? []).map((label) => element("option", { value: label })));
  state.stage = Math.min(3, about.model.stages ?? 4);
  radios(find("#see-mode"), setMode);
  radios(find("#see-stages"), (value) => {
    state.stage = Number(value);
    loadMap();
  });
  find("#see-size").addEventListener("change", reload);
  for (const id of ["strength", "cells"]) find(`#see-${id}`).addEventListener("input", draw);
  find("#see-name").addEventListener("change", explain);
  find("#see-method").addEventListener("change", () => {
    find("#see-name").disabled = find("#see-method").value === "rollout";
    explain();
  });
  find("#see-png").addEventListener("click", () => state.pictures[state.stage] && download(state.pictures[state.stage], `${fileName()}.png`));
  find("#see-npy").addEventListener("click", saveMap);
  find("#see-shown").addEventListener("click", saveShown);
  legend();
  pointing();
  new ResizeObserver(draw).observe(frame);
}

export function update() {
  const image = current();
  find(".pair", root).hidden = !image;
  if (!image) {
    for (const task of Object.values(tasks)) task.stop();
    state.image = null;
  } else if (state.image !== image) reload();
}

const fileName = () => `${stem(state.image.name)}-stage${state.stage}`;
const request = (signal, query = {}) => ({ images: [state.image], query: { size: state.size, ...query }, signal });

function makeStages() {
  const count = about.model.stages ?? 4;
  find("#see-stages").replaceChildren(...Array.from({ length: count }, (_, i) => {
    const stage = i + 1;
    const checked = stage === Math.min(3, count);
    return element("button", { type: "button", role: "radio", value: stage, "aria-checked": String(checked), tabindex: checked ? 0 : -1, "aria-label": `Stage ${stage}` },
      element("span", { class: "frame" }, element("img", { alt: "", hidden: true }), element("i", { class: "cross", hidden: true })),
      element("span", { class: "fine", text: `Stage ${stage}` }));
  }));
}

// The native size and larger ones, in steps of the mask unit. A small model has few cells at its native size: twice
// that shows more.
function makeSizes() {
  const native = Math.min(...about.model.image_size);
  const sizes = [...new Set([1, 1.5, 2, 3, 4].map((times) => Math.round((native * times) / 32) * 32))].filter((size) => size >= native && size <= 1024);
  const first = native < 200 ? 2 * native : native;
  find("#see-size").replaceChildren(...sizes.map((size) =>
    element("option", { value: size === native ? "" : size, selected: size === first, text: size === native ? `${size} pixels, as trained` : `${size} pixels` })));
}

async function reload() {
  if (state.image !== current()) clear();
  Object.assign(state, { image: current(), size: find("#see-size").value, map: null, explained: null, pictures: {} });
  kept.clear();
  draw();
  if (!state.image) return;
  find("#see-save-label").textContent = "Save stage";
  for (const [name, task] of Object.entries(tasks)) if (name !== "main") task.stop(); // they ask about the image before
  const cards = [...find("#see-stages").children];
  const done = await tasks.main.run(async (signal) => {
    for (const card of cards) card.setAttribute("aria-busy", "true");
    try {
      await fetchAll(cards, signal);
    } finally { // also if it fails: nothing is coming then
      if (!signal.aborted) for (const card of cards) card.removeAttribute("aria-busy");
    }
    return true;
  });
  if (!done) return;
  draw();
  if (state.mode === "label") labels();
}

async function fetchAll(cards, signal) {
  show(find("#see-view"), await blob("/v1/view", request(signal)), `The model's view of ${state.image.name}`);
  const stages = cards.map(async (card) => {
    const stage = Number(card.value);
    const image = await blob("/v1/features", request(signal, { stage, format: "png" }));
    state.pictures[stage] = image;
    show(find("img", card), image, `Features of stage ${stage}: similar regions have similar colors`);
    card.removeAttribute("aria-busy");
  });
  await Promise.all([...stages, fetchMap(signal)]);
}

// Nothing of the image before stays, also if the new one cannot be shown.
function clear() {
  for (const image of root.querySelectorAll(".frame img")) show(image, null);
  find("#see-label .chips").replaceChildren();
}

async function fetchMap(signal) {
  const { stage } = state;
  if (!kept.has(stage)) {
    const found = await item("/v1/features", request(signal, { stage }));
    if (signal.aborted) return; // it is the map of the image or the size before
    kept.set(stage, unitVectors(found.data, found.shape));
  }
  if (state.stage === stage) state.map = kept.get(stage);
}

async function loadMap() {
  if (!state.image) return;
  state.map = kept.get(state.stage) ?? null;
  draw();
  if (state.map) return;
  await tasks.map.run(fetchMap);
  draw();
}

function setMode(mode) {
  state.mode = mode;
  find("#see-label").hidden = mode !== "label";
  frame.classList.toggle("point", mode === "point");
  draw();
  if (mode === "label" && !state.explained) labels();
}

// The labels that the model itself thinks of, as a choice.
async function labels() {
  explain();
  const chips = find("#see-label .chips");
  const found = await tasks.label.run((signal) => item("/v1/classify", request(signal, { top_k: 5 })));
  chips.replaceChildren(...(found?.predictions ?? []).map(({ label, probability }) =>
    element("button", { type: "button", class: "chip", "aria-pressed": "false", "data-label": label, onclick: () => {
      find("#see-name").value = label;
      if (find("#see-method").value === "rollout") find("#see-method").value = "gradcam";
      find("#see-name").disabled = false;
      explain();
    } }, element("span", { text: label }), " ", element("span", { class: "number faded", text: percent(probability) }))));
  markChip();
}

function markChip() {
  for (const chip of find("#see-label .chips").children) chip.setAttribute("aria-pressed", String(chip.dataset.label === state.explained?.label));
}

async function explain() {
  if (!state.image) return;
  const method = find("#see-method").value;
  const label = method === "rollout" ? "" : find("#see-name").value.trim();
  state.explained = (await tasks.explain.run((signal) => item("/v1/explain", request(signal, { method, label })))) ?? null;
  markChip();
  draw();
}

// What is drawn now: values, their shape, and the range of the colors.
function shown() {
  if (state.mode === "point" && state.map) {
    const { width, height } = state.map;
    const [x, y] = state.hover ?? state.pin;
    const cell = [Math.min(height - 1, Math.floor(y * height)), Math.min(width - 1, Math.floor(x * width))];
    const values = similarity(state.map, ...cell);
    const [low, high] = range(values);
    return { values, shape: [height, width], low, high: Math.max(high, low + 1e-6), cell };
  }
  if (state.mode === "label" && state.explained) return { values: state.explained.values.flat(), shape: state.explained.shape, low: 0, high: 1 };
  return null;
}

function draw() {
  fit(heat);
  const what = shown();
  const strength = find("#see-strength").value / 100;
  if (what) drawHeat(heat, what.values, what.shape, { ...what, strength, cells: find("#see-cells").checked });
  else heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
  const point = state.mode === "point" && state.image ? state.hover ?? state.pin : null;
  for (const cross of root.querySelectorAll(".cross")) {
    cross.hidden = !point;
    if (point) Object.assign(cross.style, { left: `${100 * point[0]}%`, top: `${100 * point[1]}%` });
  }
  find(".legend", root).style.visibility = what ? "visible" : "hidden";
  find("#see-low").textContent = what ? `${state.mode === "point" ? "≤ " : ""}${what.low.toFixed(2)}` : "";
  find("#see-high").textContent = what ? what.high.toFixed(2) : "";
  read(what);
}

const say = debounce((text) => (find("#see-read").textContent = text), 60);

function read(what) {
  if (state.mode === "none" || !state.image) say("\u00a0");
  else if (state.mode === "label") {
    const found = state.explained;
    say(!found ? "\u00a0" : found.label ? `Bright regions speak for "${found.label}" (${percent(found.probability)}).` : "Bright regions are those that the model attends to.");
  } else if (what) {
    const [row, column] = what.cell;
    say(`Stage ${state.stage}: cosine similarity with the cell in row ${row + 1} of ${what.shape[0]}, column ${column + 1} of ${what.shape[1]}.`);
  }
}

function legend() {
  const canvas = find(".legend canvas", root);
  const context = canvas.getContext("2d");
  HEAT.forEach(([r, g, b], x) => {
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(x, 0, 1, 1);
  });
}

function pointing() {
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.max(0, Math.min(0.9999, v)));
  };
  const move = (point) => {
    state.hover = point;
    draw();
  };
  frame.addEventListener("pointermove", (event) => state.mode === "point" && move(at(event)));
  frame.addEventListener("pointerleave", () => move(null));
  frame.addEventListener("pointerdown", (event) => {
    if (state.mode !== "point") return;
    state.pin = at(event);
    if (event.pointerType !== "mouse") frame.setPointerCapture(event.pointerId);
    move(state.pin);
  });
  frame.addEventListener("pointerup", (event) => {
    if (state.mode === "point" && event.pointerType !== "mouse") state.pin = at(event);
  });
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || state.mode !== "point" || !state.map) return;
    event.preventDefault();
    const cells = [state.map.width, state.map.height];
    state.pin = state.pin.map((v, i) => (Math.max(0, Math.min(cells[i] - 1, Math.floor(v * cells[i]) + step[i])) + 0.5) / cells[i]);
    move(null);
  });
}

async function saveMap() {
  const name = `${fileName()}.npy`;
  const found = await tasks.save.run(async (signal) => (await ask("/v1/features", request(signal, { stage: state.stage, format: "npy" }))).blob());
  if (found) download(found, name);
}

// The image with what is drawn over it, in the pixels of the screen.
function saveShown() {
  const image = find("#see-view");
  if (image.hidden) return;
  const canvas = new OffscreenCanvas(heat.width, heat.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.drawImage(heat, 0, 0);
  canvas.convertToBlob().then((found) => download(found, `${fileName()}-${state.mode === "label" ? "explanation" : "similarity"}.png`));
}
