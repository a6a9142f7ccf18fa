// How long somebody looked: time with the page in view and somebody there. Only the browser's steady clock is used, so a computer
// whose clock is set meanwhile measures the same.
const IDLE_AFTER_MS = 30000;
const TICK_MS = 200;

export class Clock {
  constructor() {
    this.begin();
    setInterval(() => this.tick(), TICK_MS);
    // Captured: a side, the question or the guideline that scrolls tells nobody but whoever listens on the way down to it.
    const here = { passive: true, capture: true };
    for (const kind of ["pointermove", "pointerdown", "wheel", "scroll", "touchstart", "touchmove"]) document.addEventListener(kind, () => this.moved(), here);
    document.addEventListener("visibilitychange", () => this.tick());
  }

  begin() {
    this.start = this.before = this.lastMoved = performance.now();
    this.visible = this.idle = 0;
    this.replays = [0, 0];
    this.looked = "";
  }

  moved() {
    this.tick();
    this.lastMoved = performance.now();
  }

  tick() {
    const now = performance.now();
    const gone = now - this.before;
    this.before = now;
    if (document.visibilityState !== "visible") return;
    // What lies beyond the last movement by more than the limit does not count, whenever this is called.
    const there = Math.max(0, Math.min(gone, this.lastMoved + IDLE_AFTER_MS - (now - gone)));
    this.visible += there;
    this.idle += gone - there;
  }

  look(place) {
    const mark = String(place + 1);
    if (!this.looked.endsWith(mark) && this.looked.length < 40) this.looked += mark;
  }

  replay(place) {
    this.replays[place] += 1;
  }

  end() {
    this.tick();
    const seconds = (ms) => Math.round(ms) / 1000;
    return { visible: seconds(this.visible), whole: seconds(performance.now() - this.start), idle: seconds(this.idle), replays: this.replays, looked: this.looked };
  }
}
