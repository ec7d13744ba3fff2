const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("map"), pen = canvas.getContext("2d"), card = document.getElementById("card");
const view = { x: 0.5, y: 0.5, zoom: 1 }, held = new Map();
const sheets = data.sheets.map(source => Object.assign(new Image(), { onload: draw, src: source }));
const sheet = i => sheets[Math.floor(data.thumbs[i] / data.columns ** 2)];
let found = null, hovered = -1, waiting = false, moved = 0;
const header = document.querySelector("header"), input = document.querySelector("input");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name);
let free = null, box = null;
const chosen = new Set(), palette = data.colors, edgeOf = i => data.labels.length ? palette[data.labels[i]] : null;
function measure() {  // what the header leaves free, beside or below it: x, y, width, height
  const w = canvas.clientWidth, h = canvas.clientHeight, left = header.offsetWidth, top = header.offsetHeight;
  free = Math.min(w - left, h) > Math.min(w, h - top) ? [left, 0, w - left, h] : [0, top, w, h - top];
}
const center = () => [free[0] + free[2] / 2, free[1] + free[3] / 2];
const scale = () => 0.86 * Math.max(100, Math.min(free[2], free[3])) * view.zoom;
const place = i => [center()[0] + (data.x[i] - view.x) * scale(), center()[1] + (data.y[i] - view.y) * scale()];
const tile = () => Math.max(20, Math.min(data.side, 26 * Math.sqrt(view.zoom)));
function paint(target, i, x, y, side) {
  const t = data.thumbs[i], [w, h] = data.sizes[t], cell = t % (data.columns * data.columns);
  const longest = Math.max(w, h), dw = side * w / longest, dh = side * h / longest;
  target.drawImage(sheet(i), (cell % data.columns) * data.side,
    Math.floor(cell / data.columns) * data.side, w, h, x - dw / 2, y - dh / 2, dw, dh);
  return [dw, dh];
}
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawNow(); });
}
function drawNow() {
  const ratio = window.devicePixelRatio || 1, side = tile();
  const [ink, faded, edge] = ["--ink", "--faded", "--tile"].map(color);
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  measure();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  for (let i = 0; i < data.x.length; i++) {
    const [x, y] = place(i);
    if (x < -side || y < -side || x > canvas.clientWidth + side || y > canvas.clientHeight + side) continue;
    pen.globalAlpha = found && !found.has(i) ? 0.1 : 1;
    if (data.thumbs[i] >= 0 && sheet(i).complete) {
      const [w, h] = paint(pen, i, x, y, side);
      pen.strokeStyle = edgeOf(i) || edge; pen.lineWidth = edgeOf(i) ? 2 : 1;
      pen.strokeRect(x - w / 2, y - h / 2, w, h);
      if (chosen.has(i)) { pen.strokeStyle = ink; pen.lineWidth = 3; pen.strokeRect(x - w / 2 - 3, y - h / 2 - 3, w + 6, h + 6); }
    } else {
      pen.fillStyle = edgeOf(i) || faded; pen.beginPath(); pen.arc(x, y, edgeOf(i) ? 3.5 : 2.5, 0, 7); pen.fill();
      if (chosen.has(i)) { pen.strokeStyle = ink; pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, 6, 0, 7); pen.stroke(); }
    }
  }
  pen.globalAlpha = 1;
  if (box) { pen.strokeStyle = ink; pen.lineWidth = 1; pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]); }
  if (hovered >= 0) {
    const [x, y] = place(hovered);
    pen.strokeStyle = ink; pen.lineWidth = 2;
    if (data.thumbs[hovered] >= 0) {
      const [w, h] = paint(pen, hovered, x, y, side);
      pen.strokeRect(x - w / 2 - 1, y - h / 2 - 1, w + 2, h + 2);
    } else { pen.beginPath(); pen.arc(x, y, 5, 0, 7); pen.stroke(); }
  }
}
function hover(event) {
  let best = -1, least = Math.max(12, tile() * 0.7) ** 2;
  for (let i = 0; i < data.x.length; i++) {
    const [x, y] = place(i), d = (x - event.clientX) ** 2 + (y - event.clientY) ** 2;
    if (d <= least) { least = d; best = i; }
  }
  if (best !== hovered) { hovered = best; draw(); }
  show(event);
}
function show(event) {
  card.style.display = hovered < 0 ? "none" : "block";
  if (hovered < 0) return;
  const big = card.querySelector("canvas"), t = data.thumbs[hovered], ratio = window.devicePixelRatio || 1;
  big.style.display = t < 0 ? "none" : "block";
  if (t >= 0) {
    const [w, h] = data.sizes[t], high = Math.round(244 * Math.min(1, h / w)), wide = 244;
    big.width = wide * ratio; big.height = high * ratio; big.style.height = high + "px";
    const pencil = big.getContext("2d");
    pencil.scale(ratio, ratio);
    paint(pencil, hovered, wide / 2, high / 2, h > w ? high : Math.max(wide * Math.min(1, w / h), high));
  }
  card.querySelector("div").textContent = data.shown[hovered] ?? data.names[hovered];
  const left = event.clientX + 16, top = event.clientY + 16;
  card.style.left = (left + 260 > innerWidth ? Math.max(0, event.clientX - 276) : left) + "px";
  card.style.top = Math.max(0, Math.min(top, innerHeight - card.offsetHeight - 8)) + "px";
}
function zoom(factor, x, y) {
  const before = scale(), next = Math.max(0.5, Math.min(200, view.zoom * factor));
  const dx = x - center()[0], dy = y - center()[1];
  view.zoom = next;
  view.x += dx / before - dx / scale(); view.y += dy / before - dy / scale();
  draw();
}
canvas.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 400), e.clientX, e.clientY); },
  { passive: false });
function leave() { hovered = -1; card.style.display = "none"; draw(); }
canvas.addEventListener("pointerdown", e => { held.set(e.pointerId, [e.clientX, e.clientY]); moved = 0;
  if (e.shiftKey) box = [e.clientX, e.clientY, e.clientX, e.clientY];
  canvas.setPointerCapture(e.pointerId); });
canvas.addEventListener("pointerup", e => {
  held.delete(e.pointerId);
  if (box) {
    const [left, right] = [box[0], box[2]].sort((a, b) => a - b), [top, low] = [box[1], box[3]].sort((a, b) => a - b);
    for (let i = 0; i < data.x.length; i++) {
      const [x, y] = place(i);
      if (x >= left && x <= right && y >= top && y <= low && (!found || found.has(i))) chosen.add(i);
    }
    box = null;
    tellChosen();
  } else if (moved < 8) {  // a click, or a finger's tap
    hover(e);
    if (hovered >= 0) { if (!chosen.delete(hovered)) chosen.add(hovered); tellChosen(); }
  }
});
canvas.addEventListener("pointercancel", e => { held.delete(e.pointerId); box = null; draw(); });
canvas.addEventListener("pointerleave", e => { if (e.pointerType === "mouse") leave(); });
canvas.addEventListener("pointermove", e => {
  const was = held.get(e.pointerId);
  if (!was) { hover(e); return; }
  moved += Math.hypot(e.clientX - was[0], e.clientY - was[1]);
  if (moved >= 8) leave();
  if (box) { box[2] = e.clientX; box[3] = e.clientY; held.set(e.pointerId, [e.clientX, e.clientY]); draw(); return; }
  const other = [...held].find(([id]) => id !== e.pointerId);
  if (other) {
    const [ox, oy] = other[1], reach = Math.hypot(was[0] - ox, was[1] - oy) || 1;
    zoom(Math.hypot(e.clientX - ox, e.clientY - oy) / reach, ox, oy);
  } else { view.x -= (e.clientX - was[0]) / scale(); view.y -= (e.clientY - was[1]) / scale(); draw(); }
  held.set(e.pointerId, [e.clientX, e.clientY]);
});
function all() { view.x = view.y = 0.5; view.zoom = 1; draw(); }
canvas.addEventListener("dblclick", all);
canvas.addEventListener("keydown", event => {
  const step = 60 / scale(), moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (moves[event.key]) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; draw(); }
  else if (event.key === "+" || event.key === "=") zoom(1.4, ...center());
  else if (event.key === "-") zoom(1 / 1.4, ...center());
  else if (event.key === "0" || event.key === "Home") all();
  else if (event.key === "Escape") { chosen.clear(); tellChosen(); }
  else return;
  event.preventDefault();
});
function find() {
  const words = input.value.toLowerCase(), pressed = document.querySelector("#legend [aria-pressed=true]");
  const label = pressed ? Number(pressed.dataset.label) : -1;
  const fits = i => data.names[i].toLowerCase().includes(words) && (label < 0 || data.labels[i] === label);
  found = words || label >= 0 ? new Set([...data.names.keys()].filter(fits)) : null;
  document.querySelector("output").textContent = found ? `${found.size} of ${data.names.length} match` : "";
  draw();
}
input.addEventListener("input", find);

function tellChosen() {
  const panel = document.getElementById("chosen");
  panel.style.display = chosen.size ? "flex" : "none";
  const unlisted = [...chosen].filter(i => !listed(data.names[i])).length;
  panel.querySelector("span").textContent = `${chosen.size} selected`
    + (unlisted ? `; not in the list, as the name has a line break: ${unlisted}` : "");
  const link = panel.querySelector("a"), [only] = chosen, file = chosen.size === 1 ? data.files[only] : null;
  link.hidden = !file;
  if (file) link.href = file; else link.removeAttribute("href");
  draw();
}
function listed(name) { return !/[\r\n]/.test(name); }
function lines() { return [...chosen].sort((a, b) => a - b).map(i => data.names[i]).filter(listed).join("\n") + "\n"; }
document.getElementById("chosen").addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches(".clear")) chosen.clear();
  if (button.matches(".copy")) copy(lines(), button);
  if (button.matches(".save")) download(lines(), "chosen.txt");
  tellChosen();
});
const legend = document.getElementById("legend");
for (const [label, name] of data.groups.entries()) {
  const button = document.createElement("button"), mark = document.createElement("i");
  mark.style.background = palette[label];
  button.dataset.label = label;
  button.setAttribute("aria-pressed", "false");
  button.append(mark, `${name} (${data.labels.filter(l => l === label).length})`);
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") === "true";
    for (const other of legend.children) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(!on));
    find();
  });
  legend.append(button);
}
legend.hidden = !data.groups.length;
window.addEventListener("resize", draw);
drawNow();
