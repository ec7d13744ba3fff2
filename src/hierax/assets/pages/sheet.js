const figures = [...document.querySelectorAll("figure")], footer = document.querySelector("footer");
const view = document.querySelector("dialog"), large = view.querySelector("img"), told = view.querySelector("p");
const link = view.querySelector("a");
let shown = -1;

function show(number) {
  const image = figures[number]?.querySelector("img");
  if (!image) return;
  shown = number;
  large.src = image.src;
  large.alt = image.alt;
  large.style.width = `${Math.max(480, image.naturalWidth * 2)}px`;
  told.textContent = figures[number].title;
  const file = figures[number].dataset.file;
  link.hidden = !file;
  if (file) link.href = file; else link.removeAttribute("href");
  if (!view.open) view.showModal();
}

function step(by) {
  let next = shown + by;
  while (figures[next] && !figures[next].querySelector("img")) next += by;
  if (figures[next]) show(next);
}

const marks = () => figures.filter(figure => figure.querySelector("input:checked"));

function count() {
  for (const figure of figures) figure.classList.toggle("marked", Boolean(figure.querySelector("input:checked")));
  const sizes = new Map(marks().map(figure => [figure.dataset.path, Number(figure.dataset.bytes || 0)]));  // an image may be shown twice
  const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  footer.querySelector("output").textContent = sizes.size
    ? `${sizes.size} marked, ${(bytes / 1e6).toFixed(1)} MB` : "Nothing is marked. This page deletes nothing.";
  for (const button of footer.querySelectorAll("button.some")) button.disabled = !sizes.size;
}

function save() {
  const paths = [...new Set(marks().map(figure => figure.dataset.path))];
  download(paths.join("\n") + "\n", "marked.txt");
}

function markCopies() {  // all but the one with the most pixels, then bytes, of every group
  for (const section of document.querySelectorAll("section.copies")) {
    const group = [...section.querySelectorAll("figure")].filter(figure => figure.querySelector("img"));
    const size = figure => Number(figure.dataset.pixels || 0) * 1e12 + Number(figure.dataset.bytes || 0);
    const best = group.reduce((a, b) => size(b) > size(a) ? b : a, group[0]);
    for (const figure of group) {
      const box = figure.querySelector("input");
      if (!box.disabled) box.checked = figure !== best;
    }
  }
  count();
}

document.body.addEventListener("click", event => {
  const button = event.target.closest("button"), figure = event.target.closest("figure");
  if (event.target === view || event.target === large) view.close();
  if (!button) return;
  if (button.matches("figure .open")) show(figures.indexOf(figure));
  else if (button.matches("figure .copy")) copy(figure.dataset.path, button);
  else if (button.matches("dialog .copy")) copy(figures[shown].dataset.path, button);
  else if (button.matches(".close")) view.close();
  else if (button.matches(".before")) step(-1);
  else if (button.matches(".after")) step(1);
  else if (button.matches(".save")) save();
  else if (button.matches(".copies")) markCopies();
  else if (button.matches(".clear")) { for (const figure of marks()) figure.querySelector("input").checked = false; count(); }
});
document.body.addEventListener("change", count);
view.addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
count();
