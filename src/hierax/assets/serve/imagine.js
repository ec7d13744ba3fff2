// "Imagine the rest": the user hides mask units, the MAE model fills them in.

import { debounce, element, find, imageOf, plural, show } from "./dom.js";
import { current } from "./images.js";
import { about, item } from "./server.js";
import { Task } from "./task.js";

const root = find("#view-imagine");
const grid = find("#imagine-units");
const state = { image: null, original: null, rows: 0, columns: 0, keep: [], random: true, at: 0 };
let task;

const HELPERS = {
  "Hide all but the center": (row, column) => Math.abs(row - (state.rows - 1) / 2) <= state.rows / 5 && Math.abs(column - (state.columns - 1) / 2) <= state.columns / 5,
  "Hide the center": (row, column) => Math.abs(row - (state.rows - 1) / 2) > state.rows / 5 || Math.abs(column - (state.columns - 1) / 2) > state.columns / 5,
  "Hide all but the left half": (row, column) => column < state.columns / 2,
  "Hide all but the top half": (row) => row < state.rows / 2,
  "Checkerboard": (row, column) => (row + column) % 2 === 0,
  "Swap": (row, column) => !state.keep[row * state.columns + column],
  "Show all": () => true,
  "Hide all": () => false,
};

const ask = debounce(() => reconstruct(), 40);

export function start() {
  task = new Task(find(".notice", root), find(".twins", root));
  const units = about.mae.units[0] * about.mae.units[1]; // at least one is hidden, and one is shown
  find("#imagine-ratio").min = Math.ceil(100 / units);
  find("#imagine-ratio").max = Math.floor(100 - 100 / units);
  find("#imagine-ratio").value = Math.round(100 * (about.mae.mask_ratio ?? 0.6));
  readRatio();
  makeGrid(...about.mae.units);
  find("#imagine-helpers").replaceChildren(...Object.entries(HELPERS).map(([text, keeps]) =>
    element("button", { type: "button", class: "chip", text, onclick: () => setAll(keeps) })));
  const random = () => {
    state.random = true;
    readRatio();
    ask();
  };
  find("#imagine-ratio").addEventListener("input", random);
  find("#imagine-seed").addEventListener("input", random);
  find("#imagine-next").addEventListener("click", () => {
    find("#imagine-seed").value = Number(find("#imagine-seed").value || 0) + 1;
    random();
  });
  painting();
  holding();
}

export function update() {
  const image = current();
  for (const part of root.querySelectorAll(".twins, .tools")) part.hidden = !image;
  if (!image) {
    task.stop();
    state.image = null;
  } else if (state.image !== image) {
    Object.assign(state, { image, original: null });
    for (const picture of root.querySelectorAll(".frame img")) show(picture, null); // nothing of the image before stays
    tell("\u00a0");
    reconstruct();
  }
}

const readRatio = () => (find("#imagine-ratio-read").textContent = `${find("#imagine-ratio").value} %`);

async function reconstruct() {
  const { image } = state;
  if (!image) return;
  const shown = state.keep.filter(Boolean).length;
  if (!state.random && shown === 0) {
    task.stop();
    tell("Show at least one unit: the model needs something to start from.");
  } else if (!state.random && shown === state.keep.length && state.original) {
    task.stop();
    showAnswer(state.original);
    tell("Nothing is hidden. Hide a unit to see what the model imagines there.");
  } else {
    const random = state.random || shown === state.keep.length; // the original comes with any answer
    const query = random ? { mask_ratio: find("#imagine-ratio").value / 100, seed: Number(find("#imagine-seed").value || 0) } : {};
    const found = await task.run((signal) => item("/v1/reconstruct", { images: [image], query, fields: random ? {} : { keep: state.keep }, signal }));
    if (found && state.image === image) take(found);
  }
}

function take(found) {
  const { image } = state;
  if (found.units[0] !== state.rows || found.units[1] !== state.columns) makeGrid(...found.units);
  if (!state.original) {
    state.original = imageOf(found.original);
    show(find("#imagine-view"), state.original, `The model's view of ${image.name}`);
    show(find("#imagine-original"), state.original, `The original of ${image.name}`);
    find("#imagine-original").hidden = true;
  }
  if (!state.random && state.keep.every(Boolean)) { // it was asked for the original alone
    reconstruct();
    return;
  }
  if (state.random) state.keep = [...found.keep];
  mark();
  showAnswer(imageOf(found.reconstruction));
  tell(Number.isFinite(found.loss) ? `Error ${found.loss.toFixed(3)} over the hidden units. Hold to see the original.` : "Hold to see the original.");
}

const showAnswer = (picture) => show(find("#imagine-answer"), picture, `Reconstruction of ${state.image.name}`);
const tell = (text) => (find("#imagine-error").textContent = text);

function makeGrid(rows, columns) {
  Object.assign(state, { rows, columns, keep: Array(rows * columns).fill(true), at: 0 });
  grid.style.setProperty("--rows", rows);
  grid.style.setProperty("--columns", columns);
  grid.replaceChildren(...Array.from({ length: rows }, (_, row) => element("div", { role: "row" },
    ...Array.from({ length: columns }, (_, column) => element("div", { role: "gridcell", tabindex: row + column ? -1 : 0, "aria-label": `Row ${row + 1}, column ${column + 1}` })))));
  mark();
}

const cells = () => grid.querySelectorAll('[role="gridcell"]');

function mark() {
  cells().forEach((cell, i) => cell.setAttribute("aria-selected", String(!state.keep[i])));
  const hidden = state.keep.filter((kept) => !kept).length;
  find("#imagine-count").textContent = `${hidden} of ${plural(state.keep.length, "unit")} hidden. Click or drag to hide and show.`;
}

function set(unit, kept) {
  if (state.keep[unit] === kept) return;
  state.keep[unit] = kept;
  changed();
}

function changed() {
  state.random = false;
  mark();
  ask();
}

function setAll(keeps) {
  state.keep = state.keep.map((_, i) => keeps(Math.floor(i / state.columns), i % state.columns));
  changed();
}

// A drag paints: what the first unit becomes, all units below the pointer become.
function painting() {
  let brush = null;
  const unitAt = (event) => {
    const box = grid.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * state.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * state.rows);
    return row >= 0 && row < state.rows && column >= 0 && column < state.columns ? row * state.columns + column : -1;
  };
  grid.addEventListener("pointerdown", (event) => {
    const unit = unitAt(event);
    if (unit < 0 || event.button) return;
    event.preventDefault();
    grid.setPointerCapture(event.pointerId);
    brush = !state.keep[unit];
    focusUnit(unit);
    set(unit, brush);
  });
  grid.addEventListener("pointermove", (event) => {
    const unit = brush === null ? -1 : unitAt(event);
    if (unit >= 0) set(unit, brush);
  });
  for (const end of ["pointerup", "pointercancel"]) grid.addEventListener(end, () => (brush = null));
  grid.addEventListener("keydown", (event) => {
    const { at, columns, rows } = state;
    const [row, column] = [Math.floor(at / columns), at % columns];
    const to = { ArrowLeft: column > 0 ? at - 1 : at, ArrowRight: column < columns - 1 ? at + 1 : at, ArrowUp: row > 0 ? at - columns : at,
      ArrowDown: row < rows - 1 ? at + columns : at, Home: at - column, End: at - column + columns - 1 }[event.key];
    if (to !== undefined) focusUnit(to);
    else if (event.key === " " || event.key === "Enter") set(at, !state.keep[at]);
    else return;
    event.preventDefault();
  });
}

function focusUnit(unit) {
  const all = cells();
  all[state.at].tabIndex = -1;
  state.at = unit;
  all[unit].tabIndex = 0;
  all[unit].focus({ preventScroll: true });
}

// Mouse, touch or key: the original as long as it is held.
function holding() {
  const button = find("#imagine-hold");
  const compare = (on) => {
    if (find("#imagine-answer").hidden) return;
    find("#imagine-original").hidden = !on;
    find(".tag", button).hidden = !on;
  };
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    compare(true);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(end, () => compare(false));
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  button.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    compare(true);
  });
  button.addEventListener("keyup", () => compare(false));
}
