// Answers on their way: kept in the browser until the server says that they are on its disk, sent in order, each once. Each is kept under
// a name of its own, so that two windows do not overwrite each other's; and under its person's, so that nobody sends another's.
const AGAIN_MS = 2000;
// The server has decided, and would decide the same again.
const FINAL = [409, 413, 422];

export class Outbox {
  constructor(person, csrf, says) {
    this.prefix = `backflip answer ${person} `;
    this.csrf = csrf;
    this.says = says;
    this.sending = false;
    this.down = false; // whether the page says that the server cannot be reached
    this.waiting = this.kept();
    this.number = this.waiting.length ? Math.max(...this.waiting.map((one) => one.number)) : 0;
  }

  kept() {
    try {
      const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
      return names.map((name) => JSON.parse(localStorage.getItem(name))).sort((a, b) => a.number - b.number);
    } catch {
      return []; // a browser that keeps nothing: the answers live as long as the page
    }
  }

  keep(one) {
    try {
      localStorage.setItem(this.prefix + one.body.event, JSON.stringify(one));
    } catch {
      // as above
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

  ids() {
    return this.waiting.map((one) => one.body.query);
  }

  put(body) {
    const one = { number: ++this.number, body };
    this.waiting.push(one);
    this.keep(one);
    this.send();
  }

  drop(event) {
    const one = this.waiting.find((other) => other.body.event === event);
    if (!one || (one === this.waiting[0] && this.sending)) return false;
    this.forget(one);
    return true;
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
    const response = await fetch("/judge/answer", {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.csrf },
    });
    const found = await response.json().catch(() => ({ error: `the server said ${response.status}` }));
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
        const { status, ok, found } = await this.post(one.body);
        if (status === 401) return this.says.signedOut();
        if (!ok && !FINAL.includes(status)) return this.later(found.error, status !== 403);
        if (!ok) refused = `One answer was not taken: ${found.error}.`;
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
    const many = this.waiting.length;
    const kept = `${many} ${many === 1 ? "answer is" : "answers are"} kept here and sent when ${again ? "it is back" : "that is done"}.`;
    this.says.trouble(`${why[0].toUpperCase()}${why.slice(1)}. ${kept}`);
    if (again) setTimeout(() => this.send(), AGAIN_MS);
  }
}
