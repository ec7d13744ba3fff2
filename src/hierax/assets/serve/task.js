// One thing that the user waits for: the newest request wins, slow answers say so, errors are sentences.

import { element } from "./dom.js";
import { Problem, server } from "./server.js";

const SLOW = 1000; // milliseconds until an answer is called slow
const BUSY_TRIES = 4;

export class Task {
  #controller = null;
  #lost = false;
  #known = false; // whether it was answered once
  #retry = null; // tries again what failed

  // `notice` is an element with role="status"; `busy` is marked with aria-busy while a request runs.
  // `first` says why the first answer takes longer.
  constructor(notice, busy = null, first = "The first time, it prepares the model.") {
    this.first = first;
    this.notice = notice.appendChild(element("span", { class: "news" })); // several tasks may share a place
    this.busy = busy;
    server.addEventListener("back", () => this.#lost && this.#retry?.());
  }

  stop(text = "") {
    this.#end();
    this.#say(text ? [element("span", { text })] : []);
    if (text) setTimeout(() => this.notice.textContent === text && this.#say([]), 4000);
  }

  // Runs `work(signal)` and answers what it answers, if need be after it was tried again; undefined if it was stopped
  // or another run has begun.
  async run(work) {
    this.#end();
    const controller = new AbortController();
    const { signal } = controller;
    this.#controller = controller;
    while (!signal.aborted) {
      const slow = setTimeout(() => !signal.aborted && this.#slow(), SLOW);
      this.busy?.setAttribute("aria-busy", "true");
      try {
        const answer = await this.#patiently(work, signal);
        if (signal.aborted) return undefined;
        this.#say([]);
        this.#known = true;
        return answer;
      } catch (error) {
        if (signal.aborted || error.name === "AbortError") return undefined;
        this.#failed(error);
      } finally {
        clearTimeout(slow);
        if (!signal.aborted) this.busy?.removeAttribute("aria-busy");
      }
      await this.#again(signal);
    }
    return undefined;
  }

  #end() {
    this.#controller?.abort();
    this.#controller = null;
    this.#lost = false;
    this.busy?.removeAttribute("aria-busy");
  }

  #again(signal) {
    return new Promise((resolve) => {
      signal.addEventListener("abort", resolve, { once: true });
      this.#retry = () => {
        this.#lost = false;
        this.#say([]);
        resolve();
      };
    });
  }

  // A server that is busy says when to ask again.
  async #patiently(work, signal) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await work(signal);
      } catch (error) {
        const patient = error instanceof Problem && error.wait > 0 && tries < BUSY_TRIES;
        if (!patient || signal.aborted) throw error;
        const seconds = Math.min(error.wait, 30);
        this.#waiting(`${error.message} It is asked again in ${seconds === 1 ? "a second" : `${seconds} seconds`}.`);
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, seconds * 1000);
          signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
        });
        if (signal.aborted) throw new DOMException("stopped", "AbortError");
      }
    }
  }

  #say(parts, kind = "") {
    clearInterval(this.ticking);
    this.notice.replaceChildren(...parts);
    this.notice.dataset.kind = kind;
  }

  #cancel() {
    return element("button", { type: "button", class: "quiet", text: "Cancel", onclick: () => this.stop("Canceled.") });
  }

  #waiting(text) {
    this.#say([element("span", { text }), this.#cancel()], "slow");
  }

  #slow() {
    if (this.notice.dataset.kind === "slow") return; // it already says why it waits
    const began = performance.now() - SLOW;
    const seconds = element("span", { "aria-hidden": "true", class: "number" });
    const text = `The server is still working on this. ${this.#known ? "" : this.first}`;
    this.#say([element("span", { text }), seconds, this.#cancel()], "slow");
    const tick = () => (seconds.textContent = `${Math.round((performance.now() - began) / 1000)} s`);
    tick();
    this.ticking = setInterval(tick, 1000);
  }

  #failed(error) {
    const away = error.code === "away";
    this.#lost = away;
    if (!(error instanceof Problem)) console.error(error);
    const text = error instanceof Problem ? error.message : "The page failed to show this answer.";
    const parts = [element("span", { text: away ? `${text} The page asks again when it is back.` : text })];
    if (error.detail && error.detail !== text) parts.push(element("span", { class: "detail", text: error.detail }));
    if (!away) {
      const again = error.status === 401 ? "Enter the key" : "Try again";
      parts.push(element("button", { type: "button", class: "quiet", text: again, onclick: () => this.#retry?.() }));
    }
    parts.push(element("button", { type: "button", class: "quiet", text: "Close", onclick: () => this.stop() }));
    this.#say(parts, "problem");
  }
}
