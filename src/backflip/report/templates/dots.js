// Estimates under each other, each with its interval, value and n; or bars of amounts that add up.

/** Draw a figure of kind `dots` into `figure`; returns { redraw }. */
function drawDots(figure, spec) {
  const stage = svg("svg", { role: "img", "aria-label": `${spec.title}. ${spec.rows.map((row) => `${row.label}: ${words(row)}`).join("; ")}.` });
  figure.append(html("div", { class: "drawing" }, stage));

  function words(row) {
    const interval = row.low < row.high ? ` (${writeInterval(row.low, row.high, spec.x.unit)})` : "";
    return write(row.value, spec.x.unit) + interval + (row.n ? `, n = ${row.n.toLocaleString("en-US")}` : "");
  }

  function redraw() {
    const width = Math.max(240, figure.clientWidth);
    // Where a name and its numbers do not fit beside each other, the numbers stand beneath the name.
    const long = spec.rows.some((row) => (row.label.length + words(row).length) * 6.7 > width - 32);
    const line = long ? 53 : 38;
    const top = spec.reference ? 20 : 6;
    const height = top + spec.rows.length * line + 24;
    const ends = spec.rows.flatMap((row) => [row.low, row.high]);
    const [low, high] = range([...ends, ...(spec.reference ? [spec.reference[0]] : []), ...(spec.bars ? [0] : [])], spec.x, 0.08);
    const x = scale(low, high, 8, width - 12);
    const group = svg("g", { "aria-hidden": "true" });
    const foot = height - 20;
    for (const value of ticks(low, high, Math.max(2, width / 110))) {
      const anchor = x(value) < 24 ? "start" : x(value) > width - 24 ? "end" : "middle";
      group.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: foot }),
        svg("text", { x: x(value), y: height - 5, "text-anchor": anchor }, writeTick(value, spec.x.unit)));
    }
    if (spec.reference) {
      const [value, label] = spec.reference;
      const anchor = x(value) < width / 2 ? "start" : "end";
      group.append(svg("line", { class: "reference", x1: x(value), x2: x(value), y1: 4, y2: foot }),
        svg("text", { x: x(value) + (anchor === "start" ? 5 : -5), y: 13, "text-anchor": anchor }, label));
    }
    spec.rows.forEach((row, place) => {
      const y = top + place * line + line - 11;
      group.append(svg("text", { x: 8, y: y - (long ? 26 : 11), class: "strong" }, row.label), svg("text", { x: width - 12, y: y - 11, "text-anchor": "end" }, words(row)));
      const mark = svg("g", { class: `c-${row.role}` });
      if (spec.bars) mark.append(svg("rect", { class: "fill", x: x(0), y: y - 5, width: Math.max(1, x(row.value) - x(0)), height: 9, rx: 2 }));
      else {
        mark.append(svg("line", { class: "whisker", x1: x(row.low), x2: x(row.high), y1: y, y2: y }),
          svg("circle", { class: "point", cx: x(row.value), cy: y, r: 5 }));
      }
      group.append(mark);
    });
    stage.setAttribute("viewBox", `0 0 ${width} ${height}`);
    stage.setAttribute("height", height);
    stage.replaceChildren(group);
  }
  return { redraw, mark: () => {}, onpick: null };
}
