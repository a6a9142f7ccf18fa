// The page that shows what training does just now: counts, and small curves, drawn anew whenever the server tells of a change.
const $ = (id) => document.getElementById(id);
const NAMES = {
  open: "open", answered: "answered", expired: "expired", "waiting for aid": "waiting for aid", could_not_judge: "could not judge",
  held_out_accuracy: "reward model: held-out accuracy", gold_win_rate: "gold win rate", kl_nats_per_sequence: "KL, nats per sequence",
  proxy_mean: "proxy reward", asked: "questions asked", answers: "answers", true_return: "true return", loss: "loss",
};
const SVG = "http://www.w3.org/2000/svg";

function card(value, label) {
  const box = document.createElement("p");
  box.className = "card";
  const number = document.createElement("b");
  number.textContent = value;
  box.append(number, ` ${label}`);
  return box;
}

function curve(one) {
  const box = document.createElement("figure");
  box.className = "card";
  const last = one.points[one.points.length - 1];
  const caption = document.createElement("figcaption");
  caption.textContent = `${NAMES[one.name] || one.name} (${one.phase}): ${Number(last[1].toPrecision(4))} at ${last[0]}`;
  const [xs, ys] = [one.points.map((p) => p[0]), one.points.map((p) => p[1])];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const at = ([x, y]) => `${((x - left) / (right - left || 1)) * 200},${60 - ((y - low) / (high - low || 1)) * 56}`;
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 200 64");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", `from ${Number(ys[0].toPrecision(4))} to ${Number(last[1].toPrecision(4))}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", one.points.map(at).join(" "));
  drawing.append(line);
  box.append(caption, drawing);
  return box;
}

const source = new EventSource("/live/events");
source.onmessage = (event) => {
  const found = JSON.parse(event.data);
  $("state").textContent = "Connected: this page follows the store.";
  $("counts").replaceChildren(
    ...Object.entries(found.counts).map(([name, value]) => card(value.toLocaleString("en"), NAMES[name])),
    card(found.per_minute, "answers a minute, over the last ten"),
  );
  $("curves").replaceChildren(...found.curves.map(curve));
};
source.onerror = () => ($("state").textContent = "No connection to the server; trying again ...");
