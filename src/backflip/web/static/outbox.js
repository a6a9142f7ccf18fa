// Answers on their way: kept in the browser until the server says that they are on its disk, sent in order, each once.
const KEY = "backflip outbox";
const AGAIN_MS = 2000;

export class Outbox {
  constructor(csrf, says) {
    this.csrf = csrf;
    this.says = says;
    this.sending = false;
    try {
      this.waiting = JSON.parse(localStorage.getItem(KEY)) || [];
    } catch {
      this.waiting = [];
    }
  }

  keep() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.waiting));
    } catch {
      // a browser that keeps nothing: the answers live as long as the page
    }
  }

  ids() {
    return this.waiting.map((one) => one.query);
  }

  put(body) {
    this.waiting.push(body);
    this.keep();
    this.send();
  }

  drop(event) {
    const place = this.waiting.findIndex((one) => one.event === event);
    if (place < 0 || (place === 0 && this.sending)) return false;
    this.waiting.splice(place, 1);
    this.keep();
    return true;
  }

  reached() {
    this.says.trouble("");
    if (this.waiting.length) this.send();
  }

  async post(body) {
    return fetch("/judge/answer", {
      method: "POST",
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-CSRF-Token": this.csrf },
    });
  }

  async sendNow(body) {
    try {
      const response = await this.post(body);
      const found = await response.json();
      if (response.ok) return found;
      this.says.trouble(found.error);
    } catch {
      this.says.trouble("No connection to the server. Press the key again when it is back.");
    }
    return null;
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    try {
      while (this.waiting.length) {
        const response = await this.post(this.waiting[0]);
        if (response.status === 401) return this.says.signedOut();
        if (response.status === 429 || response.status >= 500) throw new Error(String(response.status));
        if (!response.ok) this.says.trouble((await response.json()).error);
        this.waiting.shift();
        this.keep();
      }
    } catch {
      const many = this.waiting.length;
      this.says.trouble(`No connection to the server. ${many} ${many === 1 ? "answer is" : "answers are"} kept here and sent when it is back.`);
      setTimeout(() => this.send(), AGAIN_MS);
    } finally {
      this.sending = false;
    }
  }
}
