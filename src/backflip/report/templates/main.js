// Start: figures and their links, explorer, samples, copying, theme.

const drawings = new Map();
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const drawing = drawings.get(target);
    if (drawing && drawing.width !== target.clientWidth) {
      drawing.width = target.clientWidth;
      drawing.handle.redraw();
    }
  }
});

/** Draw a figure and keep it drawn at its width. */
function attach(figure, spec) {
  const handle = spec.kind === "dots" ? drawDots(figure, spec) : drawLines(figure, spec);
  drawings.set(figure, { handle, width: figure.clientWidth });
  handle.redraw();
  resized.observe(figure);
  return handle;
}

for (const group of document.querySelectorAll(".figures")) {
  const handles = [...group.querySelectorAll("figure")].map((figure) => attach(figure, DATA.figures[figure.dataset.figure]));
  if (group.classList.contains("linked")) {
    for (const handle of handles) handle.onpick = (choice) => handles.forEach((other) => other !== handle && other.mark(choice));
  }
}
const explorerPart = document.getElementById("explorer-part");
if (explorerPart) buildExplorer(explorerPart, DATA.explorer);
const samplesPart = document.getElementById("samples-part");
if (samplesPart) buildSamples(samplesPart, DATA.samples);

for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}

const THEMES = ["automatic", "light", "dark"];
const themeButton = document.getElementById("theme");

/** Storage is refused to pages opened from a file in some browsers; the choice then lasts as long as the page. */
function stored(value) {
  try {
    if (value === undefined) return localStorage.getItem("backflip-theme");
    localStorage.setItem("backflip-theme", value);
  } catch {
    return null;
  }
  return value;
}

function setTheme(name) {
  if (name === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  themeButton.textContent = `Theme: ${name}`;
}

let theme = THEMES.includes(stored()) ? stored() : "automatic";
setTheme(theme);
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  stored(theme);
  setTheme(theme);
});
