// Any logged number of any phase, for every run, as one figure.

const AXES = ["step", "epoch", "episodes", "tokens", "seconds", "kl_nats_per_sequence"];

function buildExplorer(place, data) {
  const phases = [...new Set(data.runs.flatMap((run) => Object.keys(run.phases)))];
  if (!phases.length) return;
  const state = { phase: phases.includes("ppo") ? "ppo" : phases[0], metric: null, axis: null, smooth: 1 };
  const said = (name) => data.words[name].label + (data.words[name].label.toLowerCase().replaceAll(" ", "_") === name ? "" : ` (${name})`);
  const phase = choice("Phase", phases.map((name) => [name, name]), (value) => { state.phase = value; refill(); });
  const metric = choice("Number", [], (value) => { state.metric = value; show(); });
  const axis = choice("Against", [], (value) => { state.axis = value; show(); });
  const smooth = choice("Smoothing", [["1", "none"], ["5", "mean of 5"], ["20", "mean of 20"]], (value) => { state.smooth = Number(value); show(); });
  phase.select.value = state.phase;
  const stage = html("div", { class: "figures" });
  place.append(html("div", { class: "controls" }, phase.whole, metric.whole, axis.whole, smooth.whole), stage);

  const names = () => [...new Set(data.runs.flatMap((run) => Object.keys(run.phases[state.phase] || {})))];

  function refill() {
    const present = names();
    const metrics = present.filter((name) => !["step", "epoch", "member", "seconds"].includes(name));
    const axes = AXES.filter((name) => present.includes(name));
    metric.select.replaceChildren(...metrics.map((name) => html("option", { value: name }, said(name))));
    axis.select.replaceChildren(...axes.map((name) => html("option", { value: name }, said(name))));
    if (!metrics.includes(state.metric)) state.metric = metrics.includes("proxy_mean") ? "proxy_mean" : metrics[0];
    if (!axes.includes(state.axis)) state.axis = axes[0];
    metric.select.value = state.metric;
    axis.select.value = state.axis;
    show();
  }

  function show() {
    const words = data.words[state.metric];
    const series = data.runs.flatMap((run, index) => curves(run, index));
    const spec = {
      id: "explorer", title: words.label, x: { label: data.words[state.axis].label, unit: data.words[state.axis].unit }, y: { label: words.label, unit: words.unit },
      series, references: [], kind: "lines", nearest: series.length > 8 ? "point" : "x",
    };
    const figure = html("figure", {}, html("figcaption", {}, html("b", {}, words.label), words.meaning ? html("span", {}, words.meaning) : null));
    stage.replaceChildren(figure);
    attach(figure, spec);
  }

  /** One curve a run; members of an ensemble, logged as `member`, are curves of their own. */
  function curves(run, index) {
    const columns = run.phases[state.phase] || {};
    const [x, y, member] = [columns[state.axis] || [], columns[state.metric] || [], columns.member || []];
    const split = new Map();
    y.forEach((value, row) => {
      if (value === null || x[row] === null || x[row] === undefined) return;
      const key = member[row] ?? null;
      if (!split.has(key)) split.set(key, [[], []]);
      split.get(key)[0].push(x[row]);
      split.get(key)[1].push(value);
    });
    return [...split].map(([key, [xs, ys]], order) => ({
      name: (data.runs.length > 1 || key === null ? run.label : "") + (key === null ? "" : ` member ${key}`),
      role: `run${(data.runs.length > 1 ? index : order) % 8}`, x: xs, y: running(ys, state.smooth), low: [], high: [], notes: [],
      mark: xs.length < 20 ? "both" : "line",
    }));
  }
  refill();
}

/** The mean of the last `width` values, at every place. */
function running(values, width) {
  if (width === 1) return values;
  return values.map((_, place) => {
    const part = values.slice(Math.max(0, place - width + 1), place + 1);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}
