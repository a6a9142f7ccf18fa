// Reading answers: search, filter, sort and page through them. Only the rows of one page exist as elements.

function buildSamples(place, data) {
  const rows = data.rows.map(([prompt, answers, proxy, gold], index) => ({
    index, prompt, answers, proxy, gold, text: [prompt, ...answers].join("\n").toLowerCase(),
  }));
  const find = (name) => data.policies.findIndex((policy) => policy.name === name);
  const base = find("base");
  const last = data.policies.length - 1;
  const scored = (kind) => rows.some((row) => row[kind].some((score) => score !== null));
  const gain = (kind) => (row) => (base < 0 || row[kind][last] === null || row[kind][base] === null ? null : row[kind][last] - row[kind][base]);
  const label = data.policies[last].label;
  const state = { query: "", filter: "all", sort: "file", down: true, size: 10, page: 0 };

  const filters = { all: ["All samples", () => true] };
  const sorts = { file: ["Order of the file", (row) => -row.index] };
  if (base >= 0 && base !== last) {
    const [proxy, gold] = [gain("proxy"), gain("gold")];
    if (scored("gold")) {
      filters.fooled = ["Proxy up, gold down (gamed)", (row) => proxy(row) > 0 && gold(row) !== null && gold(row) < 0];
      filters.won = [`${label} beats base by gold`, (row) => gold(row) !== null && gold(row) > 0];
      filters.lost = [`${label} loses to base by gold`, (row) => gold(row) !== null && gold(row) < 0];
    }
    if (scored("proxy")) {
      filters.better = [`${label} beats base by proxy`, (row) => proxy(row) !== null && proxy(row) > 0];
      filters.worse = [`${label} loses to base by proxy`, (row) => proxy(row) !== null && proxy(row) < 0];
      sorts.proxyGain = [`Proxy gain, base to ${label}`, proxy];
    }
    if (scored("gold")) sorts.goldGain = [`Gold gain, base to ${label}`, gold];
    if (scored("gold") && scored("proxy")) sorts.gap = ["Proxy gain minus gold gain", (row) => (proxy(row) === null || gold(row) === null ? null : proxy(row) - gold(row))];
  }
  data.policies.forEach((policy, column) => {
    if (scored("proxy")) sorts[`proxy ${column}`] = [`Proxy of ${policy.label}`, (row) => row.proxy[column]];
    if (scored("gold")) sorts[`gold ${column}`] = [`Gold of ${policy.label}`, (row) => row.gold[column]];
    sorts[`length ${column}`] = [`Length of ${policy.label}`, (row) => (row.answers[column] === null ? null : row.answers[column].length)];
  });

  const options = (table) => Object.entries(table).map(([key, [said]]) => [key, said]);
  const restart = (change) => { change(); state.page = 0; show(); };
  const search = html("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: () => restart(() => { state.query = search.value; }) });
  const filter = choice("Show", options(filters), (value) => restart(() => { state.filter = value; }));
  const sort = choice("Sort by", options(sorts), (value) => restart(() => { state.sort = value; }));
  const way = choice("Order", [["down", "highest first"], ["up", "lowest first"]], (value) => restart(() => { state.down = value === "down"; }));
  const size = choice("A page", [["10", "10"], ["25", "25"], ["100", "100"]], (value) => restart(() => { state.size = Number(value); }));
  const count = html("p", { class: "count", role: "status" });
  const list = html("div", { class: "samples" });
  const pagers = [pager(), pager()];
  const kept = data.total > rows.length ? html("p", { class: "count" }, `The page holds the first ${rows.length.toLocaleString("en-US")} of ${data.total.toLocaleString("en-US")} samples; the run folder holds all.`) : null;
  place.append(
    html("div", { class: "controls" }, labelled("Search openings and answers", search, true), filter.whole, sort.whole, way.whole, size.whole),
    count, pagers[0].row, list, pagers[1].row, ...(kept ? [kept] : []));

  function pager() {
    const turn = (by) => { state.page += by; show(); if (by) place.closest("section").scrollIntoView(); };
    const back = html("button", { type: "button", onclick: () => turn(-1) }, "Previous");
    const forth = html("button", { type: "button", onclick: () => turn(1) }, "Next");
    const where = html("span", { class: "count" });
    return { row: html("div", { class: "pager" }, back, forth, where), back, forth, where };
  }

  function selected() {
    const wanted = state.query.trim().toLowerCase();
    const passes = filters[state.filter][1];
    const value = sorts[state.sort][1];
    const found = rows.filter((row) => passes(row) && (!wanted || row.text.includes(wanted))).map((row) => [value(row), row]);
    const sign = state.down ? -1 : 1;
    found.sort(([a, left], [b, right]) => (a === b ? left.index - right.index : a === null ? 1 : b === null ? -1 : sign * (a - b)));
    return found.map(([, row]) => row);
  }

  function show() {
    const found = selected();
    const pages = Math.max(1, Math.ceil(found.length / state.size));
    state.page = Math.max(0, Math.min(pages - 1, state.page));
    const from = state.page * state.size;
    const part = found.slice(from, from + state.size);
    count.textContent = part.length
      ? `${(from + 1).toLocaleString("en-US")} to ${(from + part.length).toLocaleString("en-US")} of ${found.length.toLocaleString("en-US")}${found.length < rows.length ? ` found among ${rows.length.toLocaleString("en-US")}` : " samples"}`
      : "No sample matches; change the search or the filter.";
    for (const one of pagers) {
      one.back.disabled = state.page === 0;
      one.forth.disabled = state.page >= pages - 1;
      one.where.textContent = `Page ${state.page + 1} of ${pages}`;
      one.row.hidden = pages === 1;
    }
    list.replaceChildren(...part.map(card));
  }

  function card(row) {
    return html("article", { class: "sample" },
      html("h3", {}, html("span", {}, `${row.index + 1}. `), ...marked(row.prompt)),
      html("div", { class: "answers" }, ...data.policies.map((policy, column) => {
        if (row.answers[column] === null) return null;
        const scores = [["proxy", row.proxy[column]], ["gold", row.gold[column]]].filter(([, score]) => score !== null);
        return html("div", { class: `answer c-${policy.role}` },
          html("div", { class: "who" }, html("b", {}, policy.label), html("span", {}, scores.map(([name, score]) => `${name} ${score < 0 ? "-" : "+"}${Math.abs(score).toFixed(2)}`).join(" \u00b7 "))),
          html("p", {}, ...(row.answers[column] ? marked(row.answers[column]) : [html("i", {}, "(empty answer)")])));
      })));
  }

  /** The text with what was searched for marked. */
  function marked(text) {
    const wanted = state.query.trim().toLowerCase();
    const low = text.toLowerCase();
    if (!wanted || low.length !== text.length) return [text];
    const parts = [];
    let from = 0;
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
      parts.push(text.slice(from, at), html("mark", {}, text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    return [...parts, text.slice(from)];
  }
  show();
}
