// One thing that the user waits for: the newest request wins, slow answers say so, errors are sentences.

import { element } from "./dom.js";
import { Problem, server } from "./server.js";

const SLOW = 1000; // milliseconds until an answer is called slow
const BUSY_TRIES = 4;

export class Task {
  #controller = null;
  #work = null;
  #lost = false;

  // `notice` is an element with role="status"; `busy` is marked with aria-busy while a request runs.
  constructor(notice, busy = null) {
    this.notice = notice.appendChild(element("span", { class: "news" })); // several tasks may share a place
    this.busy = busy;
    server.addEventListener("back", () => {
      if (this.#lost) this.again();
    });
  }

  again() {
    if (this.#work) this.run(this.#work);
  }

  stop(text = "") {
    this.#controller?.abort();
    this.#controller = null;
    this.#lost = false;
    this.#say(text ? [element("span", { text })] : []);
    this.busy?.removeAttribute("aria-busy");
  }

  // Runs `work(signal)` and answers what it answers, or undefined if it failed, was stopped or became outdated.
  async run(work) {
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    this.#work = work;
    this.#lost = false;
    const newest = () => this.#controller === controller;
    const slow = setTimeout(() => newest() && this.#slow(), SLOW);
    this.busy?.setAttribute("aria-busy", "true");
    try {
      const answer = await this.#patiently(work, controller.signal, newest);
      if (newest()) this.#say([]);
      return answer;
    } catch (error) {
      if (newest() && error.name !== "AbortError") this.#failed(error);
      return undefined;
    } finally {
      clearTimeout(slow);
      if (newest()) {
        clearInterval(this.ticking);
        this.busy?.removeAttribute("aria-busy");
      }
    }
  }

  // A server that is busy says when to ask again.
  async #patiently(work, signal, newest) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await work(signal);
      } catch (error) {
        const patient = error instanceof Problem && error.wait > 0 && tries < BUSY_TRIES;
        if (!patient || signal.aborted) throw error;
        const seconds = Math.min(error.wait, 30);
        if (newest()) this.#waiting(`${error.message} It is asked again in ${seconds === 1 ? "a second" : `${seconds} seconds`}.`);
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
    this.#say([element("span", { text: "The server is still working on this." }), seconds, this.#cancel()], "slow");
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
      parts.push(element("button", { type: "button", class: "quiet", text: again, onclick: () => this.again() }));
    }
    parts.push(element("button", { type: "button", class: "quiet", text: "Close", onclick: () => this.#say([]) }));
    this.#say(parts, "problem");
  }
}
