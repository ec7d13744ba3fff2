// "What is it": labels with their probabilities, of one image or of many.

import { csvFile } from "./csv.js";
import { download, element, find, milliseconds, percent, plural, show } from "./dom.js";
import { choose, current, images, list, picture } from "./images.js";
import { about, blob, item, json, sentence } from "./server.js";
import { Task } from "./task.js";

const root = find("#view-what");
const UNREADABLE = [413, 415, 422];
const answers = new Map(); // image -> {predictions, milliseconds} or {problem}
let task;
let others;
let seeing;
let shownFor = null; // the images whose labels and whose view are shown
let seenFor = null;

const topK = () => Number(find("#what-count").value);

export function start() {
  task = new Task(find(".notice", root), find(".answer", root));
  others = new Task(find(".notice", root));
  seeing = new Task(element("p"));
  find("#what-count").addEventListener("change", () => {
    answers.clear();
    shownFor = null;
    update();
  });
  find("#what-save").addEventListener("click", save);
  images.addEventListener("change", () => {
    for (const image of answers.keys()) if (!list.includes(image)) answers.delete(image);
  });
}

export async function update() {
  const image = current();
  find(".pair", root).hidden = !image;
  drawList();
  if (!image) {
    shownFor = null;
    task.stop();
    others.stop();
    return;
  }
  if (shownFor !== image) {
    shownFor = image;
    find(".photo .frame", root).replaceChildren(picture(image, image.name));
    find(".photo figcaption", root).textContent = image.name;
    draw(answers.get(image));
    if (!answers.get(image)?.predictions) classify(image);
    lookAt(image);
  }
  classifyOthers();
}

async function classify(image) {
  const found = await task.run(async (signal) => {
    try {
      const answer = await item("/v1/classify", { query: { top_k: topK() }, images: [image], signal });
      answers.set(image, answer);
      return answer;
    } catch (error) {
      if (UNREADABLE.includes(error.status)) answers.set(image, { problem: error.message });
      drawList();
      throw error;
    }
  });
  if (!found || current() !== image) return;
  draw(found);
  drawList();
  if (seenFor === image) nameView(found.image);
}

function draw(answer) {
  const verdict = find(".verdict", root);
  const bars = find(".bars", root);
  if (!answer?.predictions) {
    verdict.textContent = "\u00a0";
    bars.replaceChildren();
    find("#what-facts").textContent = "";
    return;
  }
  const [best] = answer.predictions;
  verdict.replaceChildren(element("span", { text: best.label }), " ", element("span", { class: "number faded", text: percent(best.probability) }));
  bars.replaceChildren(...answer.predictions.map(({ label, probability }) => {
    const bar = element("i", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", probability);
    return element("li", {}, element("span", { class: "label", text: label }), element("span", { class: "number", text: percent(probability) }), bar);
  }));
  find("#what-facts").textContent = `Answered in ${milliseconds(answer.milliseconds)}`;
}

// What the model sees of the image: the crop, small beside the labels.
async function lookAt(image) {
  const figure = find(".seen", root);
  show(find("img", figure), null);
  find("figcaption", figure).textContent = "\u00a0";
  figure.hidden = false;
  const seen = await seeing.run((signal) => blob("/v1/view", { images: [image], signal }));
  if (!seen || current() !== image) return;
  show(find("img", figure), seen, "The part of the image that the model sees");
  seenFor = image;
  nameView(answers.get(image)?.image);
}

function nameView(size) {
  const [height, width] = size ?? about.model.image_size;
  find(".seen figcaption", root).textContent = `What the model sees: ${width} × ${height} pixels.`;
}

// Many images go in parts, so that answers appear while others are still computed.
async function classifyOthers() {
  const waiting = list.filter((image) => !answers.has(image) && image !== current());
  if (!waiting.length) return;
  await others.run(async (signal) => {
    const most = Math.min(16, about.limits.max_images);
    for (let part = waiting.splice(0, most); part.length; part = waiting.splice(0, most)) {
      await classifyPart(part, signal);
      drawList();
    }
  });
}

async function classifyPart(part, signal) {
  let found;
  try {
    found = await json("/v1/classify", { query: { top_k: topK() }, images: part, signal });
  } catch (error) {
    if (!UNREADABLE.includes(error.status)) throw error;
    if (part.length > 1) { // too large together, or all are broken: one by one
      for (const image of part) await classifyPart([image], signal);
    } else answers.set(part[0], { problem: error.message });
    return;
  }
  found.results.forEach((result, i) => {
    answers.set(part[i], result.error ? { problem: sentence(422, result.error).text } : { ...result, milliseconds: found.milliseconds / part.length });
  });
}

function drawList() {
  find("#what-list").hidden = list.length < 2;
  if (list.length < 2) return;
  const body = find("#what-list tbody");
  body.replaceChildren(...list.map((image) => {
    const answer = answers.get(image);
    const best = answer?.predictions?.[0];
    const bar = element("i", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", best?.probability ?? 0);
    const button = element("button", { type: "button", class: "link", text: image.name, onclick: () => choose(image) });
    const row = element("tr", { "aria-current": image === current() ? "true" : null },
      element("td", {}, element("span", { class: "mini" }, picture(image, ""))), element("td", {}, button));
    if (answer?.problem) row.append(element("td", { colspan: 2, class: "wrong", text: answer.problem }));
    else row.append(element("td", { text: best?.label ?? "…" }), element("td", { class: "number" }, element("span", { text: best ? percent(best.probability) : "" }), bar));
    return row;
  }));
  const known = list.filter((image) => answers.get(image)).length;
  find("#what-list h2").textContent = known === list.length ? plural(list.length, "image") : `${known} of ${plural(list.length, "image")}`;
}

function save() {
  const rows = [["file", "rank", "label", "index", "probability", "error"]];
  for (const image of list) {
    const answer = answers.get(image);
    if (answer?.problem) rows.push([image.name, "", "", "", "", answer.problem]);
    answer?.predictions?.forEach(({ label, index, probability }, i) => rows.push([image.name, i + 1, label, index, probability, ""]));
  }
  download(csvFile(rows), "labels.csv");
}
