// The map of a collection: a point per image, similar images together. Pan, zoom, and the image under the pointer.

import { find } from "./dom.js";
import { fit } from "./maps.js";
import { thumbnail } from "./server.js";

const MARGIN = 24;

export class PointMap {
  #points = [];
  #chosen = -1;
  #scale = 1;
  #shift = [0, 0];
  #pointers = new Map();
  #moved = false;
  #frame = 0;

  // `open(id)` is called for a point that is clicked; `name(id)` promises the name of its file.
  constructor(box, { open, name }) {
    this.box = box;
    this.canvas = find("canvas", box);
    this.card = find(".map-card", box);
    this.open = open;
    this.name = name;
    new ResizeObserver(() => this.draw()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.#listen();
  }

  use(points) {
    this.#points = points;
    this.canvas.dataset.points = points.length;
    this.#chosen = -1;
    this.#whole();
  }

  #whole() {
    this.#scale = 1;
    this.#shift = [0, 0];
    this.draw();
  }

  #place({ x, y }) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return [MARGIN + (x * (width - 2 * MARGIN)) * this.#scale + this.#shift[0], MARGIN + (y * (height - 2 * MARGIN)) * this.#scale + this.#shift[1]];
  }

  draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    fit(this.canvas);
    const context = this.canvas.getContext("2d");
    const dense = this.canvas.width / (this.canvas.clientWidth || 1);
    const style = getComputedStyle(this.box);
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    context.fillStyle = style.getPropertyValue("--ink");
    context.globalAlpha = this.#points.length > 5000 ? 0.35 : 0.55;
    const radius = Math.min(6, (this.#points.length > 5000 ? 1.5 : this.#points.length > 500 ? 2.5 : 4) * Math.sqrt(this.#scale));
    context.beginPath();
    for (const point of this.#points) {
      const [x, y] = this.#place(point);
      if (x < -9 || y < -9 || x > this.canvas.clientWidth + 9 || y > this.canvas.clientHeight + 9) continue;
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 7);
    }
    context.fill();
    context.globalAlpha = 1;
    const chosen = this.#points[this.#chosen];
    this.card.hidden = !chosen;
    if (!chosen) return;
    const [x, y] = this.#place(chosen);
    context.fillStyle = style.getPropertyValue("--accent");
    context.beginPath();
    context.arc(x, y, radius + 3, 0, 7);
    context.fill();
    this.#placeCard(x, y);
  }

  #placeCard(x, y) {
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const left = x + 16 + width > this.canvas.clientWidth ? x - 16 - width : x + 16;
    const top = Math.max(8, Math.min(this.canvas.clientHeight - height - 8, y - height / 2));
    this.card.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
  }

  #choose(at) {
    if (this.#chosen === at) return;
    this.#chosen = at;
    const point = this.#points[at];
    this.canvas.style.cursor = point ? "pointer" : "";
    if (point) {
      const label = find("span", this.card);
      label.textContent = "\u00a0";
      find("img", this.card).removeAttribute("src");
      thumbnail(find("img", this.card), point.id);
      this.name(point.id).then((name) => {
        if (this.#chosen !== at) return;
        label.textContent = name;
        find("#collection-map-read").textContent = name;
      }, () => {});
    }
    this.draw();
  }

  #near(x, y) {
    let [best, distance] = [-1, 14 * 14];
    this.#points.forEach((point, i) => {
      const [px, py] = this.#place(point);
      const d = (px - x) ** 2 + (py - y) ** 2;
      if (d < distance) [best, distance] = [i, d];
    });
    return best;
  }

  // The nearest point in a direction; from the middle of the map if none is chosen.
  #step(dx, dy) {
    const from = this.#points[this.#chosen];
    const [x, y] = from ? this.#place(from) : [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    let [best, cost] = [-1, Infinity];
    this.#points.forEach((point, i) => {
      const [px, py] = this.#place(point);
      const along = (px - x) * dx + (py - y) * dy;
      const across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      const c = from ? along + 2 * across : Math.hypot(px - x, py - y);
      if (i !== this.#chosen && (!from || along > 0.5) && c < cost) [best, cost] = [i, c];
    });
    if (best < 0) return;
    this.#choose(best);
    const [px, py] = this.#place(this.#points[best]);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (px < 40) this.#shift[0] += 40 - px;
    if (py < 40) this.#shift[1] += 40 - py;
    if (px > width - 40) this.#shift[0] -= px - width + 40;
    if (py > height - 40) this.#shift[1] -= py - height + 40;
  }

  #zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.max(1, Math.min(200, this.#scale * factor));
    const grown = scale / this.#scale;
    this.#shift = [x, y].map((v, i) => v - MARGIN - (v - MARGIN - this.#shift[i]) * grown);
    this.#scale = scale;
    if (scale === 1) this.#shift = [0, 0];
    this.draw();
  }

  #listen() {
    const { canvas } = this;
    const at = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, at(event));
      this.#moved = false;
    });
    canvas.addEventListener("pointermove", (event) => this.#drag(event.pointerId, at(event)));
    canvas.addEventListener("pointerup", (event) => {
      const click = this.#pointers.size === 1 && !this.#moved;
      this.#pointers.delete(event.pointerId);
      if (!click) return;
      const near = this.#near(...at(event));
      const known = near === this.#chosen || event.pointerType === "mouse"; // a finger looks first, then opens
      this.#choose(near);
      if (near >= 0 && known) this.open(this.#points[near].id);
    });
    canvas.addEventListener("pointercancel", (event) => this.#pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.#pointers.size || this.#choose(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(Math.exp(-event.deltaY / 400), ...at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const button of this.box.querySelectorAll("button")) {
      button.addEventListener("click", () => (button.value === "all" ? this.#whole() : this.#zoom(button.value === "in" ? 1.6 : 1 / 1.6)));
    }
  }

  #drag(pointer, [x, y]) {
    const before = this.#pointers.get(pointer);
    if (!before) {
      this.#choose(this.#near(x, y));
      return;
    }
    if (!this.#moved && Math.hypot(x - before[0], y - before[1]) < 4) return;
    this.#moved = true;
    const others = [...this.#pointers].filter(([id]) => id !== pointer).map(([, place]) => place);
    if (others.length) {
      const [ox, oy] = others[0];
      this.#zoom(Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)), (x + ox) / 2, (y + oy) / 2);
    } else this.#shift = [this.#shift[0] + x - before[0], this.#shift[1] + y - before[1]];
    this.#pointers.set(pointer, [x, y]);
    this.draw();
  }

  #key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) this.#step(...step);
    else if (event.key === "+" || event.key === "=") this.#zoom(1.6);
    else if (event.key === "-") this.#zoom(1 / 1.6);
    else if (event.key === "0") this.#whole();
    else if (event.key === "Escape") this.#choose(-1);
    else if (event.key === "Enter" && this.#chosen >= 0) this.open(this.#points[this.#chosen].id);
    else return;
    event.preventDefault();
  }
}
