// Small helpers for elements, numbers and downloads.

export const find = (selector, root = document) => root.querySelector(selector);

// element("button", {class: "plain", text: "Save", onclick: save, "aria-label": "…"}, child, …)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const percent = (share) => {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return `${value.toFixed(value < 9.95 ? 1 : 0)} %`;
};

export const milliseconds = (value) => (value < 1000 ? `${Math.max(1, Math.round(value))} ms` : `${(value / 1000).toFixed(1)} s`);

export const whole = (value) => value.toLocaleString("en-US");

export const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

// "photo.final.jpg" -> "photo.final"
export const stem = (name) => name.replace(/\.[^./\\]+$/, "") || name;

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export const imageOf = (base64) => new Blob([bytesOf(base64)], { type: "image/png" });

// Shows a blob in an <img>; the address of the image before is released.
export function show(image, blob, description) {
  if (image.dataset.blob) URL.revokeObjectURL(image.dataset.blob);
  image.dataset.blob = blob ? URL.createObjectURL(blob) : "";
  if (blob) image.src = image.dataset.blob;
  else image.removeAttribute("src");
  image.alt = description ?? "";
  image.hidden = !blob;
}

export function debounce(action, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}

// The arrow keys move the choice in a group of buttons with role="radio".
export function radios(group, choose) {
  const items = () => [...group.querySelectorAll('[role="radio"]')].filter((item) => !item.disabled && !item.hidden);
  const pick = (item, focus) => {
    for (const other of group.querySelectorAll('[role="radio"]')) {
      other.setAttribute("aria-checked", String(other === item));
      other.tabIndex = other === item ? 0 : -1;
    }
    if (focus) item.focus();
    choose(item.value);
  };
  group.addEventListener("click", (event) => {
    const item = event.target.closest('[role="radio"]');
    if (item && !item.disabled) pick(item, false);
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = items();
    const at = all.findIndex((item) => item.getAttribute("aria-checked") === "true");
    pick(all[(at + step + all.length) % all.length], true);
  });
}
