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

// Points of which neither axis is time: proxy against KL.
function against(one) {
  const box = curve(one);
  const [kl, proxy] = one.points[one.points.length - 1];
  box.querySelector("figcaption").textContent = `proxy reward against KL: ${Number(proxy.toPrecision(4))} at ${Number(kl.toPrecision(4))} nats`;
  return box;
}

function time(seconds) {
  const minutes = Math.round(seconds / 60);
  return seconds < 60 ? `${seconds} s` : minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// What a model wrote reaches the screen as text and nothing else.
function item(one) {
  if (one.clip !== undefined) {
    if (!one.clip) {
      const none = document.createElement("p");
      none.textContent = "not filmed";
      return none;
    }
    const film = document.createElement("video");
    Object.assign(film, { src: one.clip, loop: true, muted: true, autoplay: true, playsInline: true, controls: true });
    return film;
  }
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = one.text;
  return text;
}

function asked(one) {
  const box = document.createElement("section");
  const question = document.createElement("h3");
  question.textContent = one.question;
  const why = document.createElement("small");
  why.textContent = ` asked because: ${one.reason || "random"}`;
  question.append(why);
  box.append(question);
  if (one.items[0]?.prompt) {
    const prompt = document.createElement("p");
    prompt.className = "prompt text";
    prompt.textContent = one.items[0].prompt;
    box.append(prompt);
  }
  const pair = document.createElement("div");
  pair.className = "cards latest";
  pair.append(...one.items.map((each) => {
    const card = document.createElement("div");
    card.className = "card";
    card.append(item(each));
    return card;
  }));
  box.append(pair);
  return box;
}

let shown = "";
const source = new EventSource("/live/events");
source.onmessage = (event) => {
  const found = JSON.parse(event.data);
  $("state").textContent = "Connected: this page follows the store.";
  $("counts").replaceChildren(
    ...Object.entries(found.counts).map(([name, value]) => card(value.toLocaleString("en"), NAMES[name])),
    card(found.per_minute, "answers a minute, over the last ten"),
  );
  $("cost").replaceChildren(
    card(found.cost.judgements.toLocaleString("en"), "answers to the study's own questions"),
    card(time(found.cost.people_seconds), "of people's time, with checks, trials, practice and talks"),
    card(time(found.cost.training_seconds), "of training"),
  );
  $("curves").replaceChildren(...found.curves.map(curve), ...found.against.map(against));
  const latest = JSON.stringify(found.latest);
  if (latest !== shown) $("latest").replaceChildren(...found.latest.map(asked)); // films that play are left alone
  shown = latest;
};
source.onerror = () => ($("state").textContent = "No connection to the server; trying again ...");
