// The page on which people judge. It holds the next pairs, shows one, and sends what was said; an answer that cannot be sent stays
// in the browser until it can. Whatever a model wrote is put on the screen as text, never as markup.
import { Clock } from "./clock.js";
import { differences } from "./differences.js";
import { Outbox } from "./outbox.js";
import { Room } from "./room.js";
import { side } from "./side.js";

const $ = (id) => document.getElementById(id);
const desk = $("desk");
const csrf = document.body.dataset.csrf;
const seven = desk.dataset.scale === "seven";
const subShare = Number(desk.dataset.subShare);
// What comes after an answer: "" the next pair at once, "explain" what is known of it, else the page to go to.
const after = desk.dataset.after;
// The guideline on this page: what is judged here is judged under it, whatever was written since.
const read = Number(desk.dataset.guideline);
const AHEAD = 3;
const LOOK_AGAIN_MS = 5000;
const SOON_MS = 100;
const UNDO_KEY = "u";

const clock = new Clock();
const room = new Room(desk);
const outbox = new Outbox(document.body.dataset.person, csrf, {
  trouble,
  refused,
  newer: () => ($("newer").hidden = false),
  signedOut: () => trouble("You are signed out. Your answers are kept here; sign in again.", "/sign-in"),
});
let queue = [];
// What was judged here: an answer and a request for more can overtake each other, and the pair would come once more.
const judged = new Set();
let now = null;
let last = null;
let helped = {};
let busy = false;
let explained = false;
let asking = false;

function trouble(text, link) {
  const box = $("trouble");
  box.hidden = !text;
  box.textContent = text || "";
  if (link) {
    const a = document.createElement("a");
    a.href = link;
    a.textContent = " Sign in";
    box.append(a);
  }
}

function refused(many, why) {
  const box = $("refused");
  box.hidden = !many;
  if (!many) return box.replaceChildren();
  const answers = many === 1 ? "1 answer" : `${many} answers`;
  const words = document.createElement("p");
  const because = why ? `: ${why}` : "";
  words.textContent = `${answers} could not be taken as the study asks now${because}. Kept in this browser and tried again whenever this page is loaded; tell the owner of the study.`;
  const drop = document.createElement("button");
  drop.className = "quiet";
  drop.textContent = `Drop ${answers} for good`;
  drop.addEventListener("click", () => outbox.dropRefused());
  box.replaceChildren(words, drop);
}

function scrolls(box) {
  return box.scrollHeight > box.clientHeight + 1;
}

function eventId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

// -- pairs ----------------------------------------------------------------------------------------------------------

async function fetchPairs() {
  if (asking) return;
  asking = true;
  try {
    // What is on its way is still before this person, as the server sees it.
    const count = AHEAD + outbox.waiting.length;
    const response = await fetch(`${desk.dataset.ask}?count=${count}`, { headers: { "X-CSRF-Token": csrf, Accept: "application/json" } });
    if (response.status === 401) return outbox.says.signedOut();
    const found = await response.json();
    if (!response.ok) {
      outbox.lost(found.error);
      if (response.status === 429 || response.status >= 500) setTimeout(fetchPairs, LOOK_AGAIN_MS);
      return;
    }
    outbox.reached();
    const known = new Set([...queue.map((one) => one.id), now && now.id, ...outbox.ids(), ...judged]);
    queue.push(...found.pairs.filter((one) => !known.has(one.id)));
    for (const one of queue) for (const part of one.sides) if (part.clip && !part.missing) fetch(part.clip).catch(() => {});
    progress(found);
    if (!now && found.wait && !queue.length) rest(found.wait);
    else if (!now) showNext();
  } catch {
    outbox.lost("No connection to the server. Trying again ...");
    setTimeout(fetchPairs, LOOK_AGAIN_MS);
  } finally {
    asking = false;
  }
}

function progress(found) {
  $("progress").textContent = found.of ? `${found.done} of ${found.of}` : `${found.done} judged`;
}

function rest(seconds) {
  empty("That was quick. Please rest a little; the next pair comes in a minute.");
  setTimeout(fetchPairs, 1000 * seconds);
}

function empty(text) {
  now = null;
  $("question").textContent = text;
  $("pair").hidden = $("prompt").hidden = $("aids").hidden = true;
  enable(false);
}

function showNext() {
  explained = false;
  $("known").hidden = true;
  const next = queue.shift();
  if (!next) {
    empty(desk.dataset.empty);
    setTimeout(() => !now && fetchPairs(), outbox.waiting.length ? SOON_MS : LOOK_AGAIN_MS);
    return;
  }
  show(next);
  if (queue.length < AHEAD - 1) setTimeout(fetchPairs, 0);
}

function show(pair) {
  now = pair;
  helped = {};
  $("question").textContent = pair.question;
  $("prompt").textContent = pair.prompt;
  $("prompt").hidden = !pair.prompt;
  $("prompt").scrollTop = 0;
  $("pair").hidden = false;
  const lost = (part) => () => {
    part.missing = true;
    if (now === pair) enable(true);
  };
  pair.sides.forEach((part, place) => side($(`side${place + 1}`), part, place, pair, clock, lost(part)));
  const aids = $("aids");
  aids.replaceChildren(...pair.aids.map(aid));
  aids.hidden = !pair.aids.length;
  document.querySelectorAll("[data-sub]").forEach((box) => (box.value = ""));
  document.querySelectorAll("#axes input").forEach((box) => (box.checked = false));
  $("reason").hidden = true;
  $("why").setAttribute("aria-expanded", "false");
  $("differences").setAttribute("aria-pressed", "false");
  $("differences").hidden = pair.sides.some((part) => part.clip);
  enable(true);
  room.measure();
  toTheTop(pair);
  clock.begin();
}

// Whoever answered questions below the last pair would not see this one.
function toTheTop(pair) {
  if ($("when")) $("when").textContent = mustSplit(pair) || $("axes") ? "First" : "First, if you like";
  if (document.activeElement.closest("#sub, #axes")) $("question").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function mustSplit(pair) {
  return Boolean($("sub")) && parseInt(pair.id.slice(0, 8), 16) / 2 ** 32 < subShare;
}

function aid(one) {
  const box = document.createElement("section");
  const who = document.createElement("h3");
  who.textContent = one.author;
  const what = document.createElement("p");
  what.className = "text";
  what.textContent = one.text;
  box.append(who, what);
  return box;
}

function enable(on) {
  const missing = now && now.sides.some((part) => part.missing);
  document.querySelectorAll("[data-choice], [data-scale-point]").forEach((button) => {
    button.disabled = !on || (missing && button.dataset.choice !== "s");
  });
  $("undo").disabled = !last || Boolean(after);
}

// -- answers --------------------------------------------------------------------------------------------------------

function collected() {
  const axes = {};
  document.querySelectorAll("[data-axis]").forEach((set) => {
    const chosen = set.querySelector("input:checked");
    if (chosen) axes[set.dataset.axis] = chosen.value;
  });
  const sub = {};
  document.querySelectorAll("[data-sub]").forEach((box) => box.value.trim() && (sub[box.dataset.sub] = box.value.trim()));
  const claims = {};
  document.querySelectorAll("[data-claim]").forEach((set) => {
    const chosen = set.querySelector("input:checked");
    if (chosen) claims[set.dataset.claim] = chosen.value;
  });
  return { axes, sub, claims };
}

function missingPart(found) {
  if (Object.keys(found.axes).length < document.querySelectorAll("[data-axis]").length) return "Answer the questions above first.";
  if (mustSplit(now) && Object.keys(found.sub).length < document.querySelectorAll("[data-sub]").length) return "Answer the first questions in a few words.";
  return "";
}

async function answer(said, button) {
  if (!now || busy || explained || button.disabled) return;
  const found = collected();
  const lacks = said.choice === "s" ? "" : missingPart(found);
  if (lacks) return trouble(lacks);
  trouble("");
  flash(button);
  const pair = now;
  // An answer that is shown at once is one event however often it is sent.
  pair.event = (after && pair.event) || eventId();
  const body = { query: pair.id, ticket: pair.ticket, event: pair.event, ...said, ...found, timing: clock.end(), help: helped, instructions: read };
  last = { pair, event: body.event };
  judged.add(pair.id);
  if (after) return answerAtOnce(body);
  outbox.put(body);
  showNext();
}

async function answerAtOnce(body) {
  busy = true;
  const found = await outbox.sendNow(body);
  busy = false;
  if (!found) {
    judged.delete(now.id);
    return;
  }
  if (after !== "explain") return location.assign(after);
  explained = true;
  const box = $("known");
  box.replaceChildren();
  const head = document.createElement("p");
  head.textContent = `${found.agrees === 1 ? "Most people agree" : found.agrees ? "Nearly" : "Most people say"}: ${found.known}.`;
  const why = document.createElement("p");
  why.textContent = found.explanation;
  why.className = "text";
  const go = document.createElement("button");
  go.textContent = found.over ? "The trial is over" : "Next (Enter)";
  go.addEventListener("click", () => (found.over ? location.reload() : (fetchPairs(), showNext())));
  box.append(head, why, go);
  box.hidden = false;
  enable(false);
  go.focus();
  go.scrollIntoView({ block: "center" });
}

function flash(button) {
  button.classList.remove("flash");
  void button.offsetWidth;
  button.classList.add("flash");
}

async function undo() {
  if (!last || busy || after) return;
  const { pair, event } = last;
  last = null;
  judged.delete(pair.id);
  if (now) queue.unshift(now);
  const undoing = eventId();
  if (outbox.takeBack(event, pair.id, undoing)) return show(pair);
  busy = true;
  try {
    const { ok, found } = await outbox.post({ event: undoing, of: event });
    if (ok) {
      trouble("");
      show(found.pair || pair);
    } else {
      trouble(found.error);
      showNext();
    }
  } catch {
    // It may have arrived all the same: it is sent again, and before what is said of the pair now.
    outbox.putUndo(event, pair.id, undoing);
    show(pair);
  } finally {
    busy = false;
  }
}

// -- tools ----------------------------------------------------------------------------------------------------------

function count(name) {
  helped[name] = (helped[name] || 0) + 1;
}

function toggleDifferences() {
  if (!now || $("differences").hidden) return;
  const on = $("differences").getAttribute("aria-pressed") !== "true";
  $("differences").setAttribute("aria-pressed", String(on));
  if (on) count("differences");
  differences($("side1").querySelector(".text"), $("side2").querySelector(".text"), now.sides.map((part) => part.text), on);
}

function why() {
  if (!now) return;
  const on = $("reason").hidden;
  $("reason").hidden = !on;
  $("why").setAttribute("aria-expanded", String(on));
  if (!on) return;
  count("why");
  const reasons = {
    random: "It was drawn at random.",
    disagreement: "The reward models disagree most about such pairs.",
  };
  $("reason").textContent = reasons[now.reason] || `Chosen: ${now.reason}.`;
}

function guideline() {
  count("guideline");
  $("guideline").showModal();
}

const ARROWS = { ArrowLeft: "1", ArrowRight: "2", ArrowUp: "=", ArrowDown: "s" };

document.addEventListener("keydown", (press) => {
  clock.moved();
  if (press.ctrlKey || press.metaKey || press.altKey || $("guideline").open) return;
  if (press.repeat || press.target.matches("textarea, input:not([type=radio])")) return;
  // Arrows choose among radio buttons, and scroll what has the focus and does not fit.
  if (press.key.startsWith("Arrow") && (press.target.matches("input") || (press.target !== document.body && scrolls(press.target)))) return;
  if (press.key === "?") return press.preventDefault(), guideline();
  if (press.key === UNDO_KEY) return undo();
  if (press.key === "d") return toggleDifferences();
  if (press.key === "w") return why();
  if (seven && press.key >= "1" && press.key <= "7") {
    const point = Number(press.key);
    return answer({ scale: point }, document.querySelector(`[data-scale-point="${point}"]`));
  }
  const choice = seven ? (press.key === "s" ? "s" : null) : ARROWS[press.key] || press.key;
  const button = choice && document.querySelector(`[data-choice="${CSS.escape(choice)}"]`);
  if (button) {
    press.preventDefault();
    answer({ choice }, button);
  }
});
document.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", () => answer({ choice: button.dataset.choice }, button)));
document.querySelectorAll("[data-scale-point]").forEach((button) =>
  button.addEventListener("click", () => answer({ scale: Number(button.dataset.scalePoint) }, button)),
);
$("undo").addEventListener("click", undo);
$("differences").addEventListener("click", toggleDifferences);
$("why").addEventListener("click", why);
$("help").addEventListener("click", guideline);
window.addEventListener("online", () => outbox.send());
outbox.send();
fetchPairs();
