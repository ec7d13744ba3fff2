// The server: requests, its errors as sentences, the key, and whether it is there.

import { element, find } from "./dom.js";

export const server = new EventTarget(); // "away" and "back"
export let about = null; // the answer of /v1/model
let key = ""; // in the memory of this tab only
let asking = null; // the open question for a key
let away = false;
const HOME = new URL("../", import.meta.url); // the page may stand below a path of another server
const SENDABLE = /^[\x20-\x7e]+$/; // what a header can have

export const addressOf = (path) => new URL(path.replace(/^\//, ""), HOME);

export class Problem extends Error {
  constructor(message, { status = 0, code = "", detail = "", wait = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, detail, wait });
  }
}

const SENTENCES = {
  401: "This server needs a key.",
  404: "The server does not have this.",
  413: "This is larger than the server accepts.",
  415: "The server cannot read files of this kind. JPEG, PNG, WebP, GIF, BMP and TIFF work.",
  422: "This image cannot be read: the file is damaged, or it is not an image.",
  429: "The server is busy.",
  500: "The server failed. Its log says why.",
  503: "The server is starting or stopping.",
  504: "The server did not answer in time.",
};

export function sentence(status, error) {
  if (status === 400 || !SENTENCES[status]) return { text: error?.message ?? `The server answered ${status}.`, detail: "" };
  if (status === 413 && about) {
    const most = Math.round(about.limits.max_body / 1e6);
    return { text: `This is larger than the server accepts (${most} MB, ${about.limits.max_images} images).`, detail: error?.message };
  }
  return { text: SENTENCES[status], detail: error?.message ?? "" };
}

async function problem(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // not from the application: a proxy, for example
  }
  const { text, detail } = sentence(response.status, error);
  const wait = Number(response.headers.get("Retry-After")) || (response.status === 429 || response.status === 503 ? 1 : 0);
  return new Problem(text, { status: response.status, code: error?.code, detail, wait });
}

function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = find("#key");
    find("#key-wrong").hidden = !wrong;
    find("#key-field").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      const given = find("#key-field").value.trim();
      find("#key-field").value = "";
      resolve(dialog.returnValue === "use" ? given : "");
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

// A folder, or a file that was changed or deleted, cannot be sent; the browser only says that the request failed.
async function checkFiles(images) {
  for (const { file, name } of images) {
    try {
      await file.slice(0, 1).arrayBuffer();
    } catch {
      throw new Problem(`${name} cannot be read. It is a folder, or it was changed, moved or deleted after you chose it.`, { status: 422 });
    }
  }
}

async function attempt(address, options, images) {
  const sent = key;
  const headers = { ...(options.headers ?? {}), ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
  let response;
  try {
    response = await fetch(address, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    await checkFiles(images);
    lost();
    throw new Problem("The server does not answer.", { code: "away" });
  }
  return { response, sent };
}

// Answers the response of a request that succeeded; throws a Problem, or an AbortError.
export async function ask(path, { query = {}, images, fields = {}, signal } = {}) {
  const address = addressOf(path);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") address.searchParams.set(name, value);
  }
  const options = { signal };
  if (images) {
    const size = images.reduce((sum, { file }) => sum + file.size, 0);
    if (about && size > about.limits.max_body) throw new Problem(sentence(413).text, { status: 413 });
    options.method = "POST";
    options.body = new FormData();
    for (const { file, name } of images) options.body.append("image", file, name);
    for (const [name, value] of Object.entries(fields)) options.body.append(name, JSON.stringify(value));
  }
  for (;;) {
    const { response, sent } = await attempt(address, options, images ?? []);
    if (response.ok) return response;
    if (response.status !== 401) throw await problem(response);
    if (sent === key) key = ""; // else another request has got a key meanwhile
    if (!key) {
      let given = await askForKey(Boolean(sent));
      while (given && !SENDABLE.test(given)) given = await askForKey(true);
      if (signal?.aborted) throw new DOMException("stopped", "AbortError");
      if (!given) throw await problem(response);
      key = given;
    }
  }
}

export const json = async (path, options) => (await ask(path, options)).json();
export const blob = async (path, options) => (await ask(path, options)).blob();

// The one item of an answer about one image.
export async function item(path, options) {
  const answer = await json(path, options);
  const [only] = answer.results;
  if (only.error) throw new Problem(sentence(422, only.error).text, { status: 422, detail: only.error.message });
  return { ...only, milliseconds: answer.milliseconds };
}

export async function learn() {
  about = await json("/v1/model");
  return about;
}

export const hasKey = () => key !== "";

// When a request got no answer, the page looks every other second whether the server is back.
function lost() {
  if (away) return;
  away = true;
  server.dispatchEvent(new Event("away"));
  const look = async () => {
    try {
      if ((await fetch(addressOf("/readyz"), { cache: "no-store" })).ok) {
        away = false;
        server.dispatchEvent(new Event("back"));
        return;
      }
    } catch {
      // still away
    }
    setTimeout(look, document.hidden ? 8000 : 1500);
  };
  setTimeout(look, 1000);
}

// Thumbnails: an address for <img>, or, since images cannot send a key, a blob of the answer.
const kept = new Map();
const MOST_KEPT = 2000;

export async function thumbnail(image, id, side = 160) {
  image.dataset.row = id;
  const path = `/v1/collection/thumbnail/${encodeURIComponent(id)}?side=${side}`;
  if (!hasKey()) {
    image.src = addressOf(path);
    return;
  }
  if (!kept.has(path)) {
    if (kept.size >= MOST_KEPT) {
      const [oldest, url] = kept.entries().next().value;
      kept.delete(oldest);
      url.then(URL.revokeObjectURL, () => {});
    }
    kept.set(path, blob(path).then((found) => URL.createObjectURL(found)));
  }
  try {
    const url = await kept.get(path);
    if (image.dataset.row === String(id)) image.src = url;
  } catch {
    kept.delete(path);
    image.dispatchEvent(new Event("error"));
  }
}

export const emptyTile = () => element("span", { class: "no-image", "aria-hidden": "true" });
