// One side of a pair: a text with its claims and sources, or a looping clip.
// `lost` is called when a film cannot be shown.
export function side(box, part, place, pair, clock, lost) {
  box.replaceChildren();
  box.onpointerenter = box.onfocus = () => clock.look(place);
  box.append(part.clip ? clip(part, place, clock, lost) : text(part, pair, place));
}

function element(kind, words, className = "") {
  const made = document.createElement(kind);
  made.textContent = words;
  if (className) made.className = className;
  return made;
}

function clip(part, place, clock, lost) {
  if (part.missing) return element("p", "This clip is missing, so the pair cannot be judged: say that you can't tell (s).", "error");
  const film = document.createElement("video");
  Object.assign(film, { src: part.clip, loop: true, autoplay: true, muted: true, playsInline: true, controls: false });
  film.setAttribute("aria-label", place ? "second clip" : "first clip");
  let before = 0;
  film.addEventListener("timeupdate", () => {
    if (film.currentTime < before) clock.replay(place);
    before = film.currentTime;
  });
  film.addEventListener("error", () => {
    film.replaceWith(element("p", "This clip could not be shown: load the page again, or say that you can't tell (s).", "error"));
    lost();
  });
  return film;
}

function text(part, pair, place) {
  const all = document.createElement("div");
  all.append(element("p", part.text, "text"));
  if (part.cut) all.append(element("p", `This text has ${part.cut.toLocaleString("en")} letters; only its beginning is shown.`, "error"));
  if (part.claims.length) {
    all.append(element("h3", "Is each claim supported by the sources?"));
    part.claims.forEach((claim, number) => all.append(marks(claim, `${pair.id.slice(0, 8)}.${place + 1}.${number}`, `${place + 1}.${number + 1}`)));
  }
  if (part.sources.length) {
    all.append(element("h3", "Sources"));
    for (const source of part.sources) {
      const box = document.createElement("details");
      box.append(element("summary", source.title || "source"), element("p", source.text, "text"));
      all.append(box);
    }
  }
  return all;
}

function marks(claim, name, key) {
  const set = document.createElement("fieldset");
  set.dataset.claim = key;
  set.append(element("legend", claim));
  for (const [value, word] of [["strong", "supported"], ["weak", "weakly supported"], ["none", "not supported"]]) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "radio", name, value });
    label.append(box, ` ${word}`);
    set.append(label);
  }
  return set;
}
