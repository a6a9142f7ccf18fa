// How much of the window is left between what stands above the pair and the keys below it: clips are never higher, so that both are
// seen whole before one can answer. The style sheet has no word for it, as the keys float over whatever is below the window's edge.
export class Room {
  constructor(desk) {
    this.desk = desk;
    this.pair = desk.querySelector(".pair");
    this.keys = desk.querySelector(".bottom");
    const others = [...desk.children].filter((one) => one !== this.pair && one.matches(".top, .top ~ *"));
    const watch = new ResizeObserver(() => this.measure());
    for (const one of [document.querySelector(".menu"), ...others]) if (one) watch.observe(one);
    addEventListener("resize", () => this.measure());
  }

  measure() {
    if (this.pair.hidden) return;
    const above = this.pair.getBoundingClientRect().top + scrollY;
    // Less a hair: the desk may end a little above the window's edge, and the keys with it.
    const room = Math.max(0, Math.floor(innerHeight - this.keys.offsetHeight - above - 4));
    this.desk.style.setProperty("--room", `${room}px`);
    // Beside each other, as the keys are, unless a high and narrow window shows both larger one below the other. Questions that come
    // before the choice would be out of sight below them.
    this.pair.classList.toggle("stacked", room > this.pair.clientWidth && !this.desk.querySelector("#sub, #axes"));
  }
}
