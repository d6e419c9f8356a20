// The tutorial: turn pages, run rungs beside one another, check them all.

import { LineChart, lineStyle } from "./chart.js";
import { ask, element, filled, refusal, show, svg, t } from "./common.js";
import { lookInside } from "./step.js";

const book = document.getElementById("book");
const { rung } = book.dataset; // its label; none on the page of contents
const id = (name) => document.getElementById(name);
const nameOf = (label) => filled(t.rung, { label });
const DATA = "plainfit-ladder-data";

turnByKeys();
if (window.innerWidth < 992) id("contents").open = false; // as in ladder.css
chooseData();
let stopping = null; // an AbortController, while something runs
id("run").addEventListener("click", () => (rung ? runHere() : checkAll()).catch(show));
id("stop").addEventListener("click", () => stopping?.abort());
if (id("inside")) lookInside({ rung, data: () => id("data").value });

function turnByKeys() {
  document.addEventListener("keydown", (event) => {
    const free = !event.ctrlKey && !event.altKey && !event.metaKey && !event.shiftKey;
    const target = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
    if (free && target && event.target === document.body) id(target)?.click();
  });
}

function chooseData() {
  const known = [...id("data").options].map((option) => option.value);
  const chosen = localStorage.getItem(DATA);
  if (known.includes(chosen)) id("data").value = chosen;
  const note = () => { if (id("small")) id("small").hidden = id("data").value !== "digits"; };
  id("data").addEventListener("change", () => {
    localStorage.setItem(DATA, id("data").value);
    note();
  });
  note();
}

// Yield the answers of a run, each a line of JSON, until its end; to stop listening stops the run.
async function* answersOf(rungs) {
  stopping = new AbortController();
  id("run").disabled = true;
  id("stop").hidden = false;
  say(t.starting);
  try {
    const response = await ask("/api/ladder/run", {
      method: "POST", signal: stopping.signal, headers: { "content-type": "application/json" },
      body: JSON.stringify({ rungs, data: id("data").value }),
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const answer = JSON.parse(line);
        if (answer.ended) throw new Error(t.ended);
        if (answer.error) throw refusal(answer.error);
        yield answer;
      }
    }
    say("");
  } catch (error) {
    say(t.stopped);
    if (error.name !== "AbortError") throw error;
  } finally {
    stopping = null;
    if (document.activeElement === id("stop")) setTimeout(() => id("run").focus());
    id("stop").hidden = true;
    id("run").disabled = false;
  }
}

function say(words) {
  if (id("status").textContent !== words) id("status").textContent = words;
}

const runningText = (label) => filled(t.running_rung, { label });

let chart = null;

async function runHere() {
  const before = Number(rung) > 1 ? String(Number(rung) - 1).padStart(2, "0") : null;
  const losses = { [rung]: [] }, printed = { [rung]: "" };
  if (before) Object.assign(losses, { [before]: [] });
  if (before) printed[before] = "";
  id("verdict").hidden = true;
  id("outputs").replaceChildren();
  if (id("chart") && !chart) {
    chart = new LineChart(id("chart"), {
      title: t.train_loss, x: t.step,
    });
    id("smooth").addEventListener("change", settings);
    id("log").addEventListener("change", settings);
    settings();
  }
  if (chart) {
    chart.view = null;
    id("chart").firstElementChild.classList.toggle("alone", !before);
    id("legend").replaceChildren(key(rung, 0, ""), ...(before ? [key(before, 1, "before")] : []));
    id("legend").hidden = false;
  }
  for await (const answer of answersOf(rung)) {
    if ("loss" in answer) {
      losses[answer.rung]?.push([losses[answer.rung].length, answer.loss]);
      say(runningText(answer.rung));
      chart?.draw([rung, before].filter(Boolean).map((label, color) => (
        { name: nameOf(label), color, points: losses[label] })));
    } else if ("text" in answer && answer.rung in printed) {
      printed[answer.rung] += answer.text;
      id("outputs").replaceChildren(...Object.keys(printed).sort().filter((label) => printed[label])
        .map((label) => output(label, printed[label])));
    } else if (answer.comparison) verdict(answer.comparison);
  }
}

const settings = () => chart.set({ smoothing: id("smooth").checked ? 0.9 : 0, log: id("log").checked });

function key(label, color, kind) {
  const line = svg("svg", { width: 24, height: 10, "aria-hidden": "true" },
    svg("path", { class: "line", ...lineStyle(color), d: "M0 5H24" }));
  return element("span", { class: `key ${kind}` }, line, nameOf(label));
}

function output(label, printed) {
  const title = filled(t.prints, { rung: nameOf(label) });
  return element("section", {}, element("b", {}, title),
    element("pre", { tabindex: 0, lang: "en", "aria-label": title }, printed));
}

function result(row) {
  const word = row.error ? t.failed : row.holds ? t.holds : t.broken;
  return element("b", {}, `${row.holds && !row.error ? "✓" : "✗"} ${word}`);
}

const figures = (row) => [
  ["loss", row.valid_loss?.toFixed(4)], ["accuracy", row.accuracy?.toFixed(4)],
  ["seconds", row.rung ? row.seconds.toFixed(2) : null],
].filter(([, value]) => value != null);

function verdict(row) {
  const values = figures(row).map(([name, value]) => `${t[`figure_${name}`]} ${value}`).join(" · ");
  id("verdict").replaceChildren(result(row), filled(t.verdict, { relation: t[`relation_${row.relation}`] }),
    element("span", { lang: "en" }, row.measured), ...(values ? [element("br"), values] : []));
  if (row.error) id("verdict").append(element("pre", { tabindex: 0, lang: "en" }, row.error));
  id("verdict").classList.toggle("broken", !row.holds);
  id("verdict").hidden = false;
}

async function checkAll() {
  for (const cell of id("rungs").querySelectorAll("tbody td")) {
    if (Object.keys(cell.dataset).length) cell.replaceChildren();
  }
  let held = 0, all = 0;
  for await (const answer of answersOf(id("run").dataset.rungs)) {
    if (answer.rung) say(runningText(answer.rung));
    if (!answer.comparison) continue;
    const row = answer.comparison;
    const cells = id("rungs").querySelector(`[data-rung="${String(row.rung).padStart(2, "0")}"]`);
    const put = (name, ...content) => cells.querySelector(`[data-${name}]`).replaceChildren(...content);
    put("result", result(row));
    put("measured", element("span", { lang: "en" }, row.measured));
    for (const [name, value] of figures(row)) put(name, value);
    cells.querySelector("[data-result]").className = row.holds ? "right" : "wrong";
    held += row.holds;
    all += 1;
  }
  if (all === id("rungs").tBodies[0].rows.length) say(filled(t.done_all, { held, all }));
}
