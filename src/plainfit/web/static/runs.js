// The page Runs: a table of all runs, curves of those chosen, what to do with them, new trainings.

import { copied, element, filled, post, show, t, trusting } from "./common.js";
import { LineChart, lineStyle } from "./chart.js";

const NONE = "-";
const MOST = 8;
const NOT_METRICS = ["epoch", "train_loss", "valid_loss", "seconds", "samples_per_second"];
const at = (id) => document.getElementById(id);

const lines = new Map(); // of the table, by the name of the run
const rows = new Map(); // of each chosen run: { epochs, steps }
const slots = new Map(); // the colour of each chosen run
const drawn = new Map(); // what is on the page of a run: { tr, label, box, line, columns }
const opened = new Map(); // the part of a chosen run below the curves
const charts = new Map();
const awaited = new Set(); // runs to choose once they are there
let sort = { column: "when", down: true };
let columns = [];
let source = null;
let isNew = !location.hash; // nothing has been chosen yet

// The server's events

function connect() {
  source?.close();
  const chosen = [...slots.keys()].map((name) => `run=${encodeURIComponent(name)}`).join("&");
  source = new EventSource(`/api/runs/events?${chosen}`);
  let isFirst = true;
  source.onopen = () => { isFirst = true; tell(t.live, true); };
  source.onerror = () => tell(source.readyState === EventSource.CLOSED ? t.closed : t.lost, false);
  source.onmessage = ({ data }) => {
    const told = JSON.parse(data);
    if (isFirst) lines.clear();
    for (const line of told.changed) lines.set(line.name, line);
    for (const name of told.gone) lines.delete(name);
    for (const { run, kind, from, rows: added, every } of told.rows) {
      if (!rows.has(run)) rows.set(run, { epochs: [], steps: [], every: 1 });
      const mine = rows.get(run);
      mine[kind] = [...mine[kind].slice(0, from), ...added]; // from there on, rows are taken back
      if (kind === "steps") mine.every = every;
    }
    if (told.trainings) drawTrainings(told.trainings);
    if (isFirst || told.changed.length || told.gone.length) drawRuns();
    if (told.rows.length || told.changed.length) drawCurves();
    isFirst = false;
  };
}

function tell(what, isOn) {
  if (at("live").textContent !== what) at("live").textContent = what;
  at("live").classList.toggle("on", isOn);
}

document.addEventListener("visibilitychange", () => { // a page that is not seen costs nothing
  if (document.hidden) source?.close();
  else connect();
});

// The table

const settingText = (value) => (value == null ? NONE : value === true ? t.yes : value === false ? t.no
  : typeof value === "object" ? JSON.stringify(value) : String(value));
const stateText = (state) => t[`state_${state}`] ?? state;
const two = (number) => String(number).padStart(2, "0");

// The name of a result, or of a metric, in words.
function nameText(name) {
  const [, part, own] = /^(?:(best|test)_)?(.*)$/.exec(name);
  const words = t[`name_${own}`] ?? own.replaceAll("_", " ");
  return part ? filled(part === "best" ? t.best : t.test, { name: words }) : words;
}

function dateText(seconds) {
  const date = new Date(seconds * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

function shownLines() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const textOf = (line) => [line.name, line.state, stateText(line.state), line.model, line.data,
    ...Object.entries(line.settings ?? {}).map(([name, value]) => `${name}=${settingText(value)}`)].join(" ").toLowerCase();
  return [...lines.values()].filter((line) => words.every((word) => textOf(line).includes(word)));
}

// Columns: the fixed ones, results of any run, settings that differ between the runs shown.
function columnsOf(shown) {
  const named = new Set(shown.flatMap(({ cells = {} }) => Object.keys(cells)));
  named.delete("epochs");
  const rank = (name) => ["best", "test"].indexOf(name.split("_")[0]) & 3; // the others, -1, come last
  const results = [...named].sort((a, b) => rank(a) - rank(b)).map((name) => ({
    key: `result ${name}`, head: nameText(name), isNumber: true,
    value: ({ cells }) => cells?.[name]?.value, text: ({ cells }) => cells?.[name]?.text ?? NONE,
  }));
  const readable = shown.filter((line) => line.settings);
  const names = [...new Set(readable.flatMap(({ settings }) => Object.keys(settings)))];
  const differ = names.filter((name) => name !== "epochs" && new Set(readable.map(({ settings }) => JSON.stringify(settings[name]))).size > 1);
  return [
    { key: "name", head: t.column_name, value: (line) => line.name },
    { key: "state", head: t.column_state, value: (line) => stateText(line.state) },
    { key: "epochs", head: t.name_epochs, isNumber: true, value: ({ cells }) => cells?.epochs.value,
      text: ({ cells, of }) => (cells ? epochsText(cells.epochs.value, of) : NONE) },
    ...differ.map((name) => ({
      key: `setting ${name}`, head: name.replaceAll("_", " "), value: (line) => settingOf(line, name),
      text: (line) => settingText(settingOf(line, name)),
    })),
    ...results,
    { key: "when", head: t.column_when, value: (line) => line.when, text: ({ when }) => (when ? dateText(when) : NONE) },
  ];
}

const epochsText = (done, all) => filled(t.epochs_of, { done: done.toLocaleString("en"), all: all.toLocaleString("en") });

function settingOf(line, name) {
  if (!line.settings) return null;
  if (name in line.settings) return line.settings[name];
  const control = at("form").elements[name];
  return control ? (control.type === "checkbox" ? control.defaultChecked : defaultOf(control) || null) : null;
}

function compare(a, b) {
  const column = columns.find(({ key }) => key === sort.column) ?? columns[0];
  const [x, y] = [column.value(a), column.value(b)];
  if (x == null || y == null) return (x == null) - (y == null); // without a value: last
  const order = typeof x === "number" && typeof y === "number" ? x - y
    : String(x).localeCompare(String(y), "en", { numeric: true });
  return (sort.down ? -order : order) || a.name.localeCompare(b.name);
}

function drawRuns() {
  if (isNew && lines.size) { // what trains now, or else the newest
    const readable = [...lines.values()].filter(({ cells }) => cells).sort((a, b) => b.when - a.when);
    const training = readable.filter(({ state }) => state === "running");
    for (const { name } of (training.length ? training.slice(0, MOST) : readable.slice(0, 1))) choose(name, true);
    isNew = false;
  }
  for (const name of awaited) {
    if (lines.has(name) && choose(name, true)) awaited.delete(name);
  }
  const shown = shownLines();
  at("count").textContent = filled(shown.length < lines.size ? t.count_shown : t.count, { shown: shown.length, all: lines.size });
  at("empty").hidden = lines.size > 0;
  at("scroll").hidden = !lines.size;
  columns = columnsOf(shown);
  drawHead();
  const body = document.querySelector(".runs-table tbody");
  const wanted = shown.sort(compare).map(rowOf);
  if (wanted.length !== body.children.length || wanted.some((tr, place) => body.children[place] !== tr)) {
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (body.contains(focused)) focused.focus();
  }
  for (const name of drawn.keys()) if (!lines.has(name)) drawn.delete(name);
  for (const name of slots.keys()) if (!lines.has(name)) choose(name, false);
  drawDetails();
}

function drawHead() {
  const head = document.querySelector(".runs-table thead tr");
  const signature = columns.map(({ key }) => key).join("\n");
  if (head.dataset.columns !== signature) {
    head.dataset.columns = signature;
    head.replaceChildren(...columns.map(({ key, head: text, isNumber }) => element("th", { scope: "col", class: isNumber && "number" },
      element("button", { type: "button", lang: key.startsWith("setting") && "en", onclick: () => {
        sort = { column: key, down: sort.column === key ? !sort.down : false };
        drawRuns();
      } }, text, element("span", { "aria-hidden": "true" })))));
  }
  columns.forEach(({ key }, place) => {
    const is = sort.column === key;
    if (is) head.children[place].setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else head.children[place].removeAttribute("aria-sort");
    head.children[place].querySelector("span").textContent = is ? (sort.down ? " \u2193" : " \u2191") : "";
  });
}

function rowOf(line) {
  let mine = drawn.get(line.name);
  if (!mine) {
    const box = element("input", { type: "checkbox", disabled: line.state === "damaged", onchange: () => choose(line.name, box.checked) });
    const swatch = element("span", { class: "swatch" });
    const th = element("th", { scope: "row" }, element("label", {}, box, swatch, element("span", {}, line.name)));
    mine = { box, swatch, th, tr: element("tr", {}, th) };
    drawn.set(line.name, mine);
  }
  const signature = columns.map(({ key }) => key).join("\n");
  if (mine.line !== line || mine.columns !== signature) {
    while (mine.tr.lastChild !== mine.th) mine.tr.lastChild.remove(); // the first stays, it may have the focus
    mine.tr.append(...columns.slice(1).map(({ key, isNumber, text, value }) => element("td", { class: isNumber && "number" },
      ...(key === "state" ? [pill(line), ...(line.problem ? [element("small", { lang: "en" }, line.problem)] : [])] : [text(line, value)]))));
    Object.assign(mine, { line, columns: signature });
  }
  mine.box.disabled = line.state === "damaged";
  mine.box.checked = slots.has(line.name);
  mine.tr.classList.toggle("chosen", slots.has(line.name));
  mine.swatch.style.background = slots.has(line.name) ? lineStyle(slots.get(line.name)).stroke : "none";
  return mine.tr;
}

const pill = ({ state }) => element("span", { class: `state ${state}` }, stateText(state));

// Choose a run, or no longer; remember which in the address. Return whether it is as asked.
function choose(name, wanted) {
  if (wanted === slots.has(name)) return true;
  if (wanted && (slots.size === MOST || lines.get(name)?.state === "damaged")) {
    if (slots.size === MOST) show(new Error(filled(t.most, { most: MOST })));
    const mine = drawn.get(name);
    if (mine) mine.box.checked = false;
    return false;
  }
  if (wanted) slots.set(name, [...Array(MOST).keys()].find((slot) => ![...slots.values()].includes(slot)));
  else {
    slots.delete(name);
    rows.delete(name);
  }
  history.replaceState(null, "", `#${[...slots.keys()].map(encodeURIComponent).join("&")}`);
  connect();
  const line = lines.get(name);
  if (line && drawn.has(name)) rowOf(line);
  drawDetails();
  drawCurves();
  return true;
}

// The curves

function drawCurves() {
  at("curves").hidden = !slots.size;
  const chosen = [...slots].filter(([name]) => rows.has(name)).sort(([, a], [, b]) => a - b);
  at("legend").replaceChildren(...chosen.map(([name, slot]) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = lineStyle(slot).stroke;
    return element("li", {}, swatch, name);
  }));
  const metrics = [...new Set(chosen.flatMap(([name]) => Object.keys(rows.get(name).epochs.at(-1) ?? {})))]
    .filter((name) => !NOT_METRICS.includes(name));
  const log = at("log").checked, smoothing = Number(at("smoothing").value);
  const byEpoch = (column) => ([name, slot]) => ({
    name, color: slot, marks: marksOf(name).epochs,
    points: rows.get(name).epochs.map((row) => [row.epoch + 1, row[column] ?? null]),
  });
  const byStep = (cell) => ([name, slot]) => ({
    name, color: slot, marks: marksOf(name).steps, points: rows.get(name).steps.map((row) => [row[0], row[cell]]),
  });
  const wanted = [
    ["loss", t.loss_curve, t.epochs_done, { log, smoothing }, [
      ...chosen.map(byEpoch("valid_loss")),
      ...chosen.map(byEpoch("train_loss")).map((one) => ({ ...one, name: filled(t.training_line, one), color: one.color + MOST, marks: [] })),
    ].filter(({ points }) => points.some(([, y]) => y != null) || !points.length)],
    ...metrics.map((metric) => [metric, nameText(metric), t.epochs_done, { smoothing }, chosen.map(byEpoch(metric))]),
    ["step_loss", t.step_loss, t.step, { log, smoothing }, chosen.map(byStep(2))],
    ["rate", t.rate, t.step, { log }, chosen.map(byStep(3))],
  ];
  const keys = wanted.map(([key]) => key);
  for (const [key, chart] of charts) {
    if (!keys.includes(key)) {
      chart.figure.remove();
      charts.delete(key);
    }
  }
  wanted.forEach(([key, title, x, options, series], place) => {
    if (!charts.has(key)) charts.set(key, new LineChart(at("charts"), { title, x, markText: t.resumed }));
    const chart = charts.get(key);
    if (at("charts").children[place] !== chart.figure) at("charts").insertBefore(chart.figure, at("charts").children[place]);
    chart.set(options);
    chart.draw(series);
  });
  const every = Math.max(1, ...chosen.map(([name]) => rows.get(name).every));
  at("thinned").firstChild.textContent = every > 1 ? filled(t.thinned, { every }) : "";
}

// Where a run was resumed: the steps, and the epochs that were done then.
function marksOf(name) {
  const steps = lines.get(name)?.resumed ?? [];
  const known = rows.get(name).steps;
  const epochs = steps.map((step) => known.find((row) => row[0] >= step)?.[1]).filter((epoch) => epoch != null);
  return { steps, epochs };
}

// What can be done with the chosen runs

function drawDetails() {
  for (const [name, mine] of opened) {
    if (!slots.has(name)) {
      mine.whole.remove();
      opened.delete(name);
    }
  }
  for (const name of slots.keys()) {
    const line = lines.get(name);
    if (!line) continue;
    if (!opened.has(name)) {
      const [summary, actions, report] = [element("summary"), element("div"), element("div")];
      const whole = element("details", { class: "one" }, summary, actions, report);
      opened.set(name, { whole, summary, actions, report });
      at("details").append(whole);
    }
    const mine = opened.get(name);
    if (mine.line === line) continue;
    mine.line = line;
    mine.summary.replaceChildren(element("b", {}, name), pill(line), line.model ? ` ${filled(t.on_data, line)} ` : "",
      element("span", { lang: "en" }, line.stopped ?? ""));
    if (JSON.stringify([line.state, line.commands]) === mine.signature) continue; // keep the focus
    mine.signature = JSON.stringify([line.state, line.commands]);
    mine.actions.replaceChildren(actionsOf(line, mine), ...(line.commands ?? []).map(([what, command]) => copied(t[`command_${what}`], command)));
  }
  at("details").hidden = !opened.size;
}

function actionsOf(line, mine) {
  const path = `/api/runs/${encodeURIComponent(line.name)}`;
  const bar = element("div", { class: "tools" });
  const act = (text, call) => element("button", { type: "button", onclick: async (event) => {
    event.target.disabled = true;
    try {
      await call();
    } catch (error) {
      show(error);
      event.target.disabled = false;
    }
  } }, text);
  const goOn = (body) => trusting(line.name, () => post(`${path}/resume`, body));
  if (line.state === "running") {
    bar.append(act(t.stop, async () => {
      await post(`${path}/stop`, {});
      bar.append(element("span", { role: "status" }, t.stopping));
    }));
  } else if (line.state === "finished") {
    const epochs = element("input", { type: "number", min: line.of + 1, value: line.of * 2, "aria-label": t.epochs_in_all });
    bar.append(element("span", {}, epochs, ` ${t.epochs_in_all} `), act(t.train_longer, () => goOn({ epochs: Number(epochs.value) })));
  } else if (line.commands) bar.append(act(t.continue, () => goOn({})));
  if (line.settings) bar.append(element("button", { type: "button", onclick: () => fillForm(line.settings) }, t.like_this));
  const toggle = element("button", { type: "button", "aria-expanded": String(mine.report.hasChildNodes()), onclick: () => {
    if (mine.report.hasChildNodes()) mine.report.replaceChildren();
    else {
      mine.report.replaceChildren(
        element("p", {}, element("a", { href: `${path}/report`, target: "_blank" }, filled(t.report_tab, line))),
        element("iframe", { class: "report", src: `${path}/report`, title: filled(t.report_of, line), sandbox: "" }));
    }
    toggle.setAttribute("aria-expanded", String(mine.report.hasChildNodes()));
  } }, t.show_report);
  bar.append(toggle);
  return bar;
}

// New trainings

const defaultOf = (control) => (control.tagName === "SELECT"
  ? [...control.options].find((one) => one.defaultSelected)?.value ?? "" : control.defaultValue);
const valueOf = (control) => (control.type === "checkbox" ? control.checked : control.value.trim());
const isChanged = (control) => (control.type === "checkbox"
  ? control.checked !== control.defaultChecked : valueOf(control) !== defaultOf(control));
const settingControls = () => [...at("form").elements].filter(({ name }) => name);

function markChanged() {
  for (const control of settingControls()) control.parentElement.classList.toggle("altered", isChanged(control));
}

function showForm(isShown) {
  at("form").hidden = !isShown;
  at("new").setAttribute("aria-expanded", String(isShown));
  if (isShown) at("name").focus();
}

function fillForm(settings) {
  at("form").reset();
  for (const control of settingControls()) {
    if (!(control.name in settings)) continue;
    if (control.type === "checkbox") control.checked = settings[control.name];
    else control.value = settings[control.name] ?? "";
    control.closest("details")?.setAttribute("open", "");
  }
  markChanged();
  showForm(true);
}

at("new").addEventListener("click", () => showForm(at("form").hidden));
at("form").addEventListener("input", markChanged);
at("form").addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const settings = Object.fromEntries(settingControls().filter(isChanged).map((control) => [control.name, valueOf(control)]));
  try {
    const { name } = await post("/api/trainings", { name: at("name").value, settings });
    awaited.add(name);
    showForm(false);
    at("new").focus();
  } catch (error) {
    show(error);
  }
});

function endText(code) {
  if (code < 0) return filled(t.end_signal, { signal: -code });
  return t[`end_${code ?? "running"}`] ?? filled(t.end_code, { code });
}

const cards = new Map(); // of the trainings started here, by number

function drawTrainings(told) {
  at("started").hidden = !told.length;
  for (const [number, card] of cards) {
    if (!told.some((one) => one.number === number)) {
      card.whole.remove();
      cards.delete(number);
    }
  }
  for (const one of told.toReversed()) {
    if (!cards.has(one.number)) {
      const state = element("span", { role: "status" });
      const stop = element("button", { type: "button", onclick: () => post(`/api/trainings/${one.number}/stop`, {}).catch(show) }, t.stop);
      const output = element("pre", { tabindex: 0, role: "region", lang: "en", "aria-label": filled(t.output, { name: one.name, number: one.number + 1 }) });
      const refused = element("p", { class: "note", lang: "en", hidden: true });
      const whole = element("div", { class: "training" },
        element("div", { class: "tools" }, element("b", {}, one.name), state, stop), element("small", {}, element("code", {}, one.command)), refused, output);
      cards.set(one.number, { whole, state, stop, output, refused });
      at("cards").prepend(whole);
    }
    const { state, stop, output, refused } = cards.get(one.number);
    const text = endText(one.code);
    if (state.textContent !== text) state.textContent = text;
    stop.hidden = one.code != null;
    refused.textContent = one.refused;
    refused.hidden = !one.refused;
    output.hidden = !one.output || Boolean(one.refused);
    if (output.textContent !== one.output) {
      const isAtEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 4;
      output.textContent = one.output;
      if (isAtEnd) output.scrollTop = output.scrollHeight;
    }
    if (one.refused) awaited.delete(one.name);
  }
}

// The start

at("filter").addEventListener("input", drawRuns);
at("log").addEventListener("change", drawCurves);
at("smoothing").addEventListener("input", () => {
  at("weight").textContent = at("smoothing").value;
  drawCurves();
});
location.hash.slice(1).split("&").filter(Boolean).slice(0, MOST).forEach((name, slot) => slots.set(decodeURIComponent(name), slot));
connect();
