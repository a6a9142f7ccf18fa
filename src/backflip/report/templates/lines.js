// Curves and points against an x axis: intervals as bands or whiskers, direct labels, reading by pointer or keys.

/** Draw a figure of kind `lines` into `figure`; returns { redraw, mark } for linked figures. */
function drawLines(figure, spec) {
  const hidden = new Set();
  let root = spec.x.rooted;
  let picked = null;
  let drawn = null;
  const tip = html("div", { class: "tip", hidden: true });
  const voice = html("div", { class: "aside", "aria-live": "polite" });
  const stage = svg("svg", {
    tabindex: "0", role: "application", "aria-roledescription": "interactive chart",
    "aria-label": `${spec.title}. ${spec.y.label} against ${spec.x.label}. ${spec.series.map((one) => one.name).join(", ")}. `
      + "Arrow keys read the points; the table below holds the same numbers.",
  });
  figure.append(html("div", { class: "drawing" }, keys(), stage, tip, voice, numbers(spec)));
  const handle = { redraw, mark, onpick: null };

  function keys() {
    const row = html("div", { class: "keys" });
    if (spec.series.length > 1) {
      for (const [index, one] of spec.series.entries()) {
        const button = html("button", { type: "button", class: "series", "aria-pressed": "true", onclick: () => {
          if (hidden.has(index)) hidden.delete(index);
          else if (hidden.size < spec.series.length - 1) hidden.add(index);
          button.setAttribute("aria-pressed", String(!hidden.has(index)));
          redraw();
        } }, html("span", { class: `swatch c-${one.role}` }), one.name);
        row.append(button);
      }
    }
    if (spec.x.root_choice) {
      const button = html("button", { type: "button", "aria-pressed": String(root), onclick: () => {
        root = !root;
        button.setAttribute("aria-pressed", String(root));
        redraw();
      } }, "Square-root scale");
      row.append(button);
    }
    return row.children.length ? row : "";
  }

  const shown = () => spec.series.map((one, index) => ({ ...one, index })).filter((one) => !hidden.has(one.index));

  function redraw() {
    const width = Math.max(240, figure.clientWidth);
    const height = spec.references.some((one) => one.y === null) ? Math.min(340, width) : width < 420 ? 220 : spec.wide ? 400 : 250;
    const series = shown();
    const references = spec.references.filter((one) => one.y !== null).map((one) => one.y);
    const [lowX, highX] = range(series.flatMap((one) => one.x), spec.x, spec.nearest === "point" ? 0.04 : 0);
    const [lowY, highY] = range([...series.flatMap((one) => [...one.y, ...one.low, ...one.high]), ...references], spec.y, 0.06);
    const curves = series.filter((one) => one.mark !== "points");
    const labelled = width > 420 && series.length > 1 && curves.length > 0 && curves.length < 9;
    const yTicks = ticks(lowY, highY, 4);
    const left = 12 + 7 * Math.max(...yTicks.map((value) => writeTick(value, spec.y.unit).length));
    const right = labelled ? 14 + 7.4 * Math.max(...curves.map((one) => one.name.length)) : 14;
    const x = scale(lowX, highX, left, width - right, root);
    const y = scale(lowY, highY, height - 40, spec.y.label === spec.title ? 10 : 24);
    drawn = { x, y, width, height, left, right };
    stage.setAttribute("viewBox", `0 0 ${width} ${height}`);
    stage.setAttribute("height", height);
    stage.replaceChildren(frame(yTicks), ...series.map(marks), ...(labelled ? ends(curves) : []), svg("g", { class: "over" }));
    if (picked !== null) pick(picked, false);
  }

  function frame(yTicks) {
    const { x, y, width, height, left, right } = drawn;
    const group = svg("g", { "aria-hidden": "true" }, spec.y.label === spec.title ? null : svg("text", { x: 0, y: 12, class: "strong" }, spec.y.label));
    for (const value of yTicks) {
      group.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, writeTick(value, spec.y.unit)));
    }
    let last = -Infinity;
    for (const value of ticks(x.low, x.high, Math.max(2, (width - left - right) / 80))) {
      if (x(value) - last < 40) continue;
      last = x(value);
      const label = writeTick(value, spec.x.unit);
      const anchor = x(value) + 3.6 * label.length > width ? "end" : "middle";
      group.append(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: height - 40, y2: height - 35 }),
        svg("text", { x: anchor === "end" ? width : x(value), y: height - 22, "text-anchor": anchor }, label));
    }
    group.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: height - 40, y2: height - 40 }),
      svg("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, spec.x.label + (root ? `, ${width < 420 ? "root" : "square-root"} scale` : "")));
    for (const one of spec.references) {
      const diagonal = one.y === null;
      const [from, to] = diagonal ? [Math.max(x.low, y.low), Math.min(x.high, y.high)] : [one.y, one.y];
      const [start, end] = diagonal ? [x(from), x(to)] : [left, width - right];
      group.append(svg("line", { class: "reference", x1: start, x2: end, y1: y(from), y2: y(to) }),
        svg("text", { x: width - right - 2, y: diagonal ? y(y.low) - 8 : y(to) + 14, "text-anchor": "end" }, diagonal ? `dashed: ${one.label}` : one.label));
    }
    return group;
  }

  function marks(one) {
    const { x, y } = drawn;
    const group = svg("g", { class: `c-${one.role}` });
    const at = (values) => one.x.map((value, place) => `${x(value).toFixed(1)},${y(values[place]).toFixed(1)}`);
    const climbing = one.x.every((value, place) => place === 0 || value >= one.x[place - 1]);
    if (one.low.length && climbing && !one.apart && one.x.length > 1) {
      group.append(svg("polygon", { class: "band", points: [...at(one.low), ...at(one.high).reverse()].join(" ") }));
    } else if (one.low.length) {
      one.x.forEach((value, place) => group.append(svg("line", { class: "whisker", x1: x(value), x2: x(value), y1: y(one.low[place]), y2: y(one.high[place]) })));
    }
    if (one.mark !== "points") {
      const dashed = ["best_of_n", "run4", "run5", "run6", "run7", "run8"].includes(one.role);
      group.append(svg("polyline", { class: `curve${dashed ? " dashed" : ""}`, points: at(one.y).join(" ") }));
    }
    if (one.mark !== "line" || one.x.length === 1) {
      const cloud = one.mark === "points" && one.x.length > 40;
      one.x.forEach((value, place) => group.append(point(one, x(value), y(one.y[place]), cloud)));
    }
    return group;
  }

  /** Return a dot, or a diamond for what trains nothing: it shares its colour with a method that does. */
  function point(one, cx, cy, cloud) {
    if (one.role === "best_of_n") return svg("path", { class: "point", d: `M${cx.toFixed(1)} ${(cy - 5).toFixed(1)}l5 5l-5 5l-5 -5z` });
    return svg("circle", { class: cloud ? "point cloud" : "point", cx: cx.toFixed(1), cy: cy.toFixed(1), r: cloud ? 3 : 3.5 });
  }

  function ends(series) {
    const { x, y, width, height, right } = drawn;
    const edge = width - right;
    const beside = (one) => { const last = x(one.x[one.x.length - 1]); return (last > edge - 40 ? edge - 2 : last) + 8; };
    const places = series.map((one) => ({ one, at: y(one.y[one.y.length - 1]) })).sort((a, b) => a.at - b.at);
    places.forEach((entry, place) => { if (place) entry.at = Math.max(entry.at, places[place - 1].at + 14); });
    const over = places[places.length - 1].at - (height - 44);
    if (over > 0) places.reduceRight((limit, entry) => (entry.at = Math.min(entry.at, limit)) - 14, height - 44);
    return places.map(({ one, at }) => svg("text", { class: `named c-${one.role}`, x: beside(one), y: at + 4, "aria-hidden": "true" }, one.name));
  }

  function said(one, place) {
    const interval = one.low.length ? ` (${writeInterval(one.low[place], one.high[place], spec.y.unit)})` : "";
    const note = one.notes[place] ? `, ${one.notes[place]}` : "";
    return `${one.name}: ${write(one.y[place], spec.y.unit)}${interval}${note}`;
  }

  /** Show what is at a choice { x } or { series, place }; `speak` reads it out for keyboard users. */
  function pick(choice, speak) {
    const { x, y, width, height } = drawn;
    const over = stage.querySelector(".over");
    let points;
    if (spec.nearest === "point") {
      const one = spec.series[choice.series];
      points = one && !hidden.has(choice.series) && choice.place < one.x.length ? [[one, choice.place]] : [];
    } else {
      points = shown().filter((one) => one.x.length).map((one) => [one, nearestPlace(one.x, choice.x)]);
    }
    over.replaceChildren();
    if (!points.length) return clear();
    picked = choice;
    const at = x(points[0][0].x[points[0][1]]);
    over.append(svg("line", { class: "cross", x1: at, x2: at, y1: 10, y2: height - 40 }));
    for (const [one, place] of points) over.append(svg("g", { class: `c-${one.role}` }, svg("circle", { class: "picked", cx: x(one.x[place]), cy: y(one.y[place]), r: 5 })));
    const head = `${spec.x.label}: ${write(points[0][0].x[points[0][1]], spec.x.unit, true)}`;
    const lines = points.map(([one, place]) => said(one, place));
    tip.replaceChildren(html("div", {}, head), ...points.map(([one], place) => html("div", {}, html("span", { class: `swatch c-${one.role}` }), lines[place])));
    tip.hidden = false;
    const ratio = stage.clientWidth / width;
    const space = figure.clientWidth - tip.offsetWidth;
    const beside = at * ratio + 14 > space ? at * ratio - tip.offsetWidth - 14 : at * ratio + 14;
    tip.style.left = `${Math.max(0, Math.min(space, beside))}px`;
    tip.style.top = `${stage.getBoundingClientRect().top - figure.getBoundingClientRect().top + 24}px`;
    if (speak) voice.textContent = `${head}. ${lines.join(". ")}`;
    return undefined;
  }

  /** Show what another figure shows: the same x, or the same point of the series of that name. */
  function mark(choice) {
    if (choice === null) clear();
    else pick({ ...choice, series: spec.series.findIndex((one) => one.name === choice.name) }, false);
  }

  function clear() {
    picked = null;
    tip.hidden = true;
    const over = stage.querySelector(".over");
    if (over) over.replaceChildren();
  }

  function choose(choice, speak) {
    if (choice === null) clear();
    else pick(choice, speak);
    if (handle.onpick) handle.onpick(choice && { ...choice, name: spec.series[choice.series]?.name });
  }

  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    const [px, py] = [((event.clientX - box.left) / box.width) * drawn.width, ((event.clientY - box.top) / box.height) * drawn.height];
    if (spec.nearest === "point") {
      const best = nearestPoint(shown(), drawn, px, py);
      if (best) choose(best, false);
    } else {
      const all = [...new Set(shown().flatMap((one) => one.x))].sort((a, b) => a - b);
      if (all.length) choose({ x: all[nearestPlace(all.map(drawn.x), px)] }, false);
    }
  });
  stage.addEventListener("pointerleave", () => choose(null, false));
  stage.addEventListener("blur", () => choose(null, false));
  stage.addEventListener("keydown", (event) => {
    const next = step(event.key, spec, shown(), picked);
    if (next === undefined) return;
    event.preventDefault();
    choose(next, true);
  });
  return handle;
}

function nearestPlace(values, wanted) {
  let best = 0;
  for (let place = 1; place < values.length; place += 1) {
    if (Math.abs(values[place] - wanted) < Math.abs(values[best] - wanted)) best = place;
  }
  return best;
}

function nearestPoint(series, drawn, px, py) {
  let best = null;
  let least = Infinity;
  for (const one of series) {
    for (let place = 0; place < one.x.length; place += 1) {
      const distance = Math.hypot(drawn.x(one.x[place]) - px, drawn.y(one.y[place]) - py);
      if (distance < least) [least, best] = [distance, { series: one.index, place }];
    }
  }
  return best;
}

/** What a key press chooses next; null clears, undefined is not ours. */
function step(key, spec, series, picked) {
  if (key === "Escape") return picked === null ? undefined : null;
  const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity, ArrowUp: 0, ArrowDown: 0 }[key];
  if (move === undefined || !series.length) return undefined;
  if (spec.nearest === "x") {
    if (move === 0) return undefined;
    const all = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
    const now = picked === null ? (move > 0 ? -1 : all.length) : nearestPlace(all, picked.x);
    return { x: all[Math.max(0, Math.min(all.length - 1, now + move))] };
  }
  const order = series.map((one) => one.index);
  const row = Math.max(0, order.indexOf(picked === null ? order[0] : picked.series));
  const turn = { ArrowUp: -1, ArrowDown: 1 }[key] || 0;
  const next = series[(row + turn + series.length) % series.length];
  const now = picked === null ? (move > 0 ? -1 : 0) : picked.place;
  const place = turn ? Math.min(now, next.x.length - 1) : now + move;
  return { series: next.index, place: Math.max(0, Math.min(next.x.length - 1, place)) };
}

/** The numbers of a figure as a table, made when it is opened. */
function numbers(spec) {
  const details = html("details", { class: "numbers" }, html("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = spec.series.flatMap((one) => one.x.map((x, place) => [
      one.name, write(x, spec.x.unit, true), write(one.y[place], spec.y.unit, true),
      one.low.length ? writeInterval(one.low[place], one.high[place], spec.y.unit) : "", one.notes[place] || "",
    ]));
    const head = ["Series", spec.x.label, spec.y.label, "95 % interval", "Note"];
    const kept = head.map((_, column) => column < 3 || rows.some((row) => row[column] !== ""));
    details.append(plainTable([head, ...rows].map((row) => row.filter((_, column) => kept[column])), `Numbers: ${spec.title}`));
  });
  return details;
}
