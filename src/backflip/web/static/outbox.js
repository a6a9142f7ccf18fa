// Answers on their way: kept in the browser until the server says that they are on its disk, sent in order, each once. Each is kept under
// a name of its own, so that two windows do not overwrite each other's; and under its person's, so that nobody sends another's. Several
// windows may send what one of them kept: what is not kept any more was sent, or taken back, in another. What was sent once may be on the
// server's disk though nothing came back: it is taken back there, by a message that waits in the same line.
const AGAIN_MS = 2000;
// The server has an answer to this already, or never asked: there is nothing left to send.
const SETTLED = 409;
// It cannot take this as the study asks now. That may change back, and somebody's work is in it: it is kept, and tried when a page is loaded.
const REFUSED = [413, 422];

export class Outbox {
  constructor(person, csrf, says) {
    this.prefix = `backflip answer ${person} `;
    this.csrf = csrf;
    this.says = says;
    this.sending = false;
    this.down = false; // whether the page says that the server cannot be reached
    this.waiting = this.kept();
    this.refused = [];
    this.number = this.waiting.length ? Math.max(...this.waiting.map((one) => one.number)) : 0;
  }

  kept() {
    try {
      const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
      return names.map((name) => ({ ...JSON.parse(localStorage.getItem(name)), kept: true })).sort((a, b) => a.number - b.number);
    } catch {
      return []; // a browser that keeps nothing: the answers live as long as the page
    }
  }

  keep(one) {
    try {
      localStorage.setItem(this.prefix + one.body.event, JSON.stringify(one));
      one.kept = true;
    } catch {
      // as above
    }
  }

  // What is kept of an answer now, whichever window wrote it last; null where another window is done with it.
  now(one) {
    if (!one.kept) return one;
    try {
      return JSON.parse(localStorage.getItem(this.prefix + one.body.event));
    } catch {
      return one;
    }
  }

  forget(one) {
    this.waiting = this.waiting.filter((other) => other !== one);
    try {
      localStorage.removeItem(this.prefix + one.body.event);
    } catch {
      // as above
    }
  }

  // Put aside what the server cannot take, until a page is loaded or somebody drops it.
  putAside(one, why) {
    this.waiting = this.waiting.filter((other) => other !== one);
    this.refused.push(one);
    this.says.refused(this.refused.length, why);
  }

  dropRefused() {
    for (const one of this.refused) this.forget(one);
    this.refused = [];
    this.says.refused(0, "");
  }

  ids() {
    return this.waiting.map((one) => one.body.query);
  }

  put(body) {
    this.add({ body });
  }

  add(said) {
    const one = { number: ++this.number, ...said };
    this.waiting.push(one);
    this.keep(one);
    this.send();
  }

  // Take back an answer that the server has not acknowledged; false where it has.
  takeBack(event, query, undo) {
    const aside = this.refused.find((other) => other.body.event === event);
    if (aside) {
      this.forget(aside);
      this.refused = this.refused.filter((other) => other !== aside);
      this.says.refused(this.refused.length, "");
      return true;
    }
    const one = this.waiting.find((other) => other.body.event === event);
    if (!one) return false;
    const there = this.now(one);
    if (one.sent || !there || there.sent) this.putUndo(event, query, undo);
    else this.forget(one);
    return true;
  }

  putUndo(event, query, undo) {
    this.add({ body: { event: undo, query, of: event } });
  }

  reached() {
    if (this.waiting.length) this.send();
    else this.up();
  }

  up() {
    if (this.down) this.says.trouble("");
    this.down = false;
  }

  lost(text) {
    this.down = true;
    if (!this.waiting.length) this.says.trouble(text);
  }

  async post(body) {
    const undo = "of" in body;
    const headers = { "X-CSRF-Token": this.csrf };
    if (!undo) headers["Content-Type"] = "application/json";
    const content = undo ? new URLSearchParams({ event: body.event, of: body.of }) : JSON.stringify(body);
    const response = await fetch(undo ? "/judge/undo" : "/judge/answer", { method: "POST", body: content, headers });
    const found = await response.json().catch(() => ({ error: `the server said ${response.status}` }));
    if (found.newer) this.says.newer(); // the guideline was changed since this page was loaded
    return { status: response.status, ok: response.ok, found };
  }

  async sendNow(body) {
    try {
      const { ok, found } = await this.post(body);
      if (ok) return found;
      this.says.trouble(found.error);
    } catch {
      this.says.trouble("No connection to the server. Press the key again when it is back.");
    }
    return null;
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    let refused = "";
    try {
      while (this.waiting.length) {
        const one = this.waiting[0];
        if (!this.now(one)) {
          this.forget(one);
          continue;
        }
        one.sent = true;
        this.keep(one);
        const { status, ok, found } = await this.post(one.body);
        if (status === 401) return this.says.signedOut();
        if (REFUSED.includes(status)) {
          this.putAside(one, found.error);
          continue;
        }
        if (!ok && status !== SETTLED) return this.later(found.error, status !== 403);
        if (!ok) refused = `One answer was not taken${"of" in one.body ? " back" : ""}: ${found.error}.`;
        this.forget(one);
      }
      this.up();
      if (refused) this.says.trouble(refused);
    } catch {
      this.later("No connection to the server", true);
    } finally {
      this.sending = false;
    }
  }

  later(why, again) {
    this.down = true;
    const undone = this.waiting.map((one) => one.body.of).filter(Boolean);
    const many = this.waiting.filter((one) => !one.body.of && !undone.includes(one.body.event)).length || this.waiting.length;
    const kept = `${many} ${many === 1 ? "answer is" : "answers are"} kept here and sent when ${again ? "it is back" : "that is done"}.`;
    this.says.trouble(`${why[0].toUpperCase()}${why.slice(1)}. ${kept}`);
    if (again) setTimeout(() => this.send(), AGAIN_MS);
  }
}
