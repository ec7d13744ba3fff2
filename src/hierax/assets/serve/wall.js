// A wall of thumbnails. Only the rows near the visible part exist, so that a hundred thousand scroll like twenty.

import { element } from "./dom.js";
import { thumbnail } from "./server.js";

const GAP = 8;
const AHEAD = 2; // rows above and below the visible ones

export class Wall {
  #tiles = new Map();
  #columns = 1;
  #side = 120;

  // source: {count, get(i) -> {id, name, score?} or null, need(from, to), open(entry)}
  constructor(box) {
    this.box = box;
    this.inner = box.firstElementChild;
    this.at = 0;
    this.source = { count: 0, get: () => null, need: () => {}, open: () => {} };
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("focus", () => this.#mark());
    new ResizeObserver(() => this.#layout()).observe(box);
  }

  use(source) {
    this.source = source;
    this.at = 0;
    this.box.scrollTop = 0;
    for (const tile of this.#tiles.values()) tile.remove();
    this.#tiles.clear();
    this.#layout();
  }

  #layout() {
    const width = this.inner.clientWidth;
    if (!width) return;
    const wanted = width < 480 ? 96 : 132;
    this.#columns = Math.max(2, Math.floor((width + GAP) / (wanted + GAP)));
    this.#side = Math.floor((width - GAP * (this.#columns - 1)) / this.#columns);
    const rows = Math.ceil(this.source.count / this.#columns);
    this.inner.style.height = `${Math.max(0, rows * (this.#side + GAP) - GAP)}px`;
    for (const [i, tile] of this.#tiles) this.#place(tile, i);
    this.draw();
  }

  #place(tile, i) {
    const step = this.#side + GAP;
    tile.style.transform = `translate(${(i % this.#columns) * step}px, ${Math.floor(i / this.#columns) * step}px)`;
    tile.style.width = tile.style.height = `${this.#side}px`;
  }

  // Makes the tiles of the rows in sight, and removes the others.
  draw() {
    const step = this.#side + GAP;
    const top = Math.floor(this.box.scrollTop / step) - AHEAD;
    const bottom = Math.ceil((this.box.scrollTop + this.box.clientHeight) / step) + AHEAD;
    const from = Math.max(0, top * this.#columns);
    const to = Math.min(this.source.count, bottom * this.#columns);
    this.source.need(from, to);
    for (const [i, tile] of this.#tiles) {
      if (i < from || i >= to || (tile.dataset.empty && this.source.get(i))) {
        tile.remove();
        this.#tiles.delete(i);
      }
    }
    for (let i = from; i < to; i += 1) if (!this.#tiles.has(i)) this.#make(i);
    this.#mark();
  }

  #make(i) {
    const entry = this.source.get(i);
    const tile = element("div", { role: "option", id: `${this.box.id}-${i}`, class: "tile", "aria-setsize": this.source.count, "aria-posinset": i + 1,
      "aria-selected": "false", "aria-label": entry ? tileName(entry) : "Loading", title: entry?.name, "data-empty": entry ? null : "1" });
    if (entry) {
      const image = element("img", { alt: "", decoding: "async" });
      image.addEventListener("error", () => image.replaceWith(element("span", { class: "no-image" })), { once: true });
      thumbnail(image, entry.id);
      tile.append(image);
      if (entry.score !== undefined) tile.append(element("span", { class: "score number", text: entry.score.toFixed(3) }));
      tile.addEventListener("click", () => {
        this.at = i;
        this.source.open(entry);
      });
    }
    this.#place(tile, i);
    this.#tiles.set(i, tile);
    this.inner.append(tile);
  }

  #mark() {
    for (const [i, tile] of this.#tiles) {
      tile.setAttribute("aria-selected", String(i === this.at));
    }
    if (this.#tiles.has(this.at)) this.box.setAttribute("aria-activedescendant", `${this.box.id}-${this.at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const { count } = this.source;
    const page = Math.max(1, Math.floor(this.box.clientHeight / (this.#side + GAP))) * this.#columns;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.#columns, ArrowDown: this.#columns, PageUp: -page, PageDown: page, Home: -count, End: count }[event.key];
    if (step && count) {
      event.preventDefault();
      this.at = Math.max(0, Math.min(count - 1, this.at + step));
      const y = Math.floor(this.at / this.#columns) * (this.#side + GAP);
      if (y < this.box.scrollTop) this.box.scrollTop = y;
      else if (y + this.#side > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = y + this.#side - this.box.clientHeight;
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const entry = this.source.get(this.at);
      if (entry) this.source.open(entry);
    }
  }
}

const tileName = ({ name, id, score }) => `${name ?? `Image ${id}`}${score === undefined ? "" : `, similarity ${score.toFixed(3)}`}`;
