import { element, filled, get, post, show, t } from "./common.js";

const SMALL = 64; // pixels: a smaller image is shown as squares

const last = (path) => path.split(/[\\/]/).at(-1);
const partOf = ({ part }) => t[`part_${part}`] ?? part;
const originOf = ({ origin }) => (isTable() ? filled(t.row, { origin }) : origin);

function nameOf(data) {
  const name = last(data);
  const dot = name.search(/\.(csv|tsv|jsonl|parquet|arrow|feather)(\.gz)?$/i);
  return dot > 0 ? `${name.slice(0, dot)}-mended${name.slice(dot)}` : `${name}-mended`;
}

const at = (id) => document.getElementById(id);
let name, found, list, place;

const base = () => `/api/clean/${encodeURIComponent(name)}`;
const image = (number) => `${base()}/samples/${number}/image`;
const sample = (number) => found.samples[number];
const isTable = () => found.kind === "a table";

async function begin() {
  const names = await get("/api/clean");
  at("none").hidden = names.length > 0;
  at("found").hidden = names.length === 0;
  if (!names.length) return;
  at("results").replaceChildren(...names.map((each) => element("option", { value: each }, each)));
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (names.includes(wanted)) at("results").value = wanted;
  await open();
}

async function open() {
  name = at("results").value;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  found = await get(base());
  at("about").textContent = filled(t.about, {
    data: last(found.data), all: found.all.toLocaleString("en"), accuracy: (100 * found.accuracy).toFixed(1), folds: found.folds,
  });
  at("lists").replaceChildren(...["suspects", "equal"].map((value) =>
    element("option", { value }, filled(t[`list_${value}`], { count: found[value].length }))));
  at("lists").value = found.suspects.length || !found.equal.length ? "suspects" : "equal";
  at("to").replaceChildren(...found.classes.map((each) => element("option", { value: each }, each)));
  at("out").value = nameOf(found.data);
  at("written").hidden = true;
  choices();
  changed();
}

function listed() {
  return at("lists").value === "suspects" ? found.suspects : found.equal.flat();
}

function choices() {
  const counts = new Map();
  for (const number of listed()) {
    const { label } = sample(number);
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const options = found.classes.filter((each) => counts.has(each)).map((each) =>
    element("option", { value: each }, filled(t.one_class, { name: each, count: counts.get(each) })));
  const all = element("option", { value: "" }, filled(t.all_classes, { count: listed().length }));
  at("classes").replaceChildren(all, ...options);
  fill();
}

function fill() {
  const only = at("classes");
  list = listed().filter((number) => !only.selectedIndex || sample(number).label === only.value);
  place = Math.max(0, list.findIndex((number) => !found.decisions[number]));
  at("desk").hidden = list.length === 0;
  at("empty").hidden = list.length > 0;
  const groups = new Map(found.equal.flatMap((group, at) => group.map((number) => [number, at])));
  at("queue").replaceChildren(...list.map((number, position) => {
    const one = sample(number);
    const title = at("lists").value === "equal"
      ? filled(t.group, { at: groups.get(number) + 1, label: one.label })
      : `${one.label} → ${one.suggested}`;
    const source = isTable() ? `${originOf(one)}, ${partOf(one)}` : partOf(one);
    const picture = isTable() ? [] : [element("img", {
      src: image(number), alt: "", loading: "lazy", onload: sharp,
    })];
    return element("li", {}, element("button", {
      class: isTable() ? "row" : "", onclick: () => { place = position; look(); },
    }, ...picture, element("span", {}, title, element("br"), element("small", {}, source)),
      element("small", { class: "done" })));
  }));
  marks();
  if (list.length) look();
}

function sharp(event) {
  event.target.classList.toggle("pixels", event.target.naturalWidth <= SMALL);
}

function marks() {
  for (const [position, item] of [...at("queue").children].entries()) {
    item.querySelector(".done").textContent = decision(list[position], "");
  }
}

function decision(number, otherwise) {
  const made = found.decisions[number];
  return made ? filled(t[`done_${made.action}`], made) : otherwise;
}

async function look() {
  const number = list[place], one = sample(number);
  at("place").textContent = filled(t.place, { at: place + 1, count: list.length });
  at("origin").textContent = filled(t.origin, { origin: originOf(one), part: partOf(one) });
  at("label").textContent = one.label;
  at("suggested").textContent = one.suggested;
  at("decided").textContent = decision(number, t.undecided);
  at("to").value = found.decisions[number]?.label ?? one.suggested;
  at("previous").disabled = place === 0;
  at("next").disabled = place === list.length - 1;
  for (const [position, item] of [...at("queue").children].entries()) {
    const button = item.firstChild;
    if (position === place) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  const item = at("queue").children[place], queue = at("queue");
  const top = item.offsetTop - queue.offsetTop;
  if (top < queue.scrollTop) queue.scrollTop = top;
  else if (top + item.offsetHeight > queue.scrollTop + queue.clientHeight) {
    queue.scrollTop = top + item.offsetHeight - queue.clientHeight;
  }
  if (!isTable()) {
    at("shown").replaceChildren(element("img", {
      src: image(number), alt: filled(t.image, one), onload: sharp,
    }));
  }
  const more = await get(`${base()}/samples/${number}`);
  if (number !== list[place]) return; // another one is shown by now
  at("bars").replaceChildren(...more.probabilities.map(([label, share]) => bar(one, label, share)));
  if (isTable()) {
    at("shown").replaceChildren(element("table", {}, element("tbody", {}, ...more.row.map(
      ([column, value]) => element("tr", {}, element("th", { scope: "row" }, column),
        element("td", {}, value))))));
  }
}

function bar(one, label, share) {
  const kind = label === one.label ? "given" : label === one.suggested ? "suggested" : "";
  const filled = element("div", { class: "bar" });
  filled.style.width = `${100 * share}%`;
  return element("li", { class: kind }, element("span", { title: label }, label),
    element("div", {}, filled), element("span", {}, share.toFixed(3)));
}

function changed() {
  const isChanged = found.relabelled + found.dropped > 0;
  at("changes").textContent = isChanged ? filled(t.changes, found) : t.no_changes;
  at("write").disabled = !isChanged;
}

async function decide(action) {
  const number = list[place];
  const label = action === "relabel" ? at("to").value : null;
  found = { ...found, ...await post(`${base()}/decisions`, { number, action, label }) };
  marks();
  changed();
  const left = list.filter((each) => !found.decisions[each]).length;
  at("said").textContent = left ? filled(t.left, { left }) : t.all_decided;
  const later = list.findIndex((each, position) => position > place && !found.decisions[each]);
  if (later >= 0) place = later;
  await look();
}

async function undo() {
  const before = JSON.stringify(found.decisions);
  found = { ...found, ...await post(`${base()}/decisions`, { action: "undo" }) };
  const differs = (number) =>
    JSON.stringify(found.decisions[number]) !== JSON.stringify(JSON.parse(before)[number]);
  const other = list.findIndex(differs);
  if (other >= 0) place = other;
  at("said").textContent = before === JSON.stringify(found.decisions) ? t.nothing_undone : t.undone;
  marks();
  changed();
  await look();
}

async function move(by) {
  place = Math.min(list.length - 1, Math.max(0, place + by));
  await look();
}

async function apply(event) {
  event.preventDefault();
  at("write").disabled = true;
  try {
    const made = await post(`${base()}/apply`, { out: at("out").value });
    at("where").textContent = filled(t.where, made);
    at("commands").textContent = made.commands.join("\n");
    at("written").hidden = false;
  } finally {
    changed();
  }
}

const KEYS = {
  k: () => decide("keep"), r: () => decide("relabel"), d: () => decide("drop"), u: undo,
  ArrowLeft: () => move(-1), ArrowUp: () => move(-1),
  ArrowRight: () => move(1), ArrowDown: () => move(1),
};
let turn = Promise.resolve(); // one after the other, in the order of the keys

const calmly = (call) => (...given) => { turn = turn.then(() => call(...given)).catch(show); };

document.addEventListener("keydown", (event) => {
  const call = KEYS[event.key];
  const isTyped = event.target.closest("input, select, textarea");
  if (!call || isTyped || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!found || at("desk").hidden) return;
  event.preventDefault();
  calmly(call)();
});
for (const action of ["keep", "relabel", "drop"]) {
  at(action).addEventListener("click", calmly(() => decide(action)));
}
at("undo").addEventListener("click", calmly(undo));
at("previous").addEventListener("click", calmly(() => move(-1)));
at("next").addEventListener("click", calmly(() => move(1)));
at("results").addEventListener("change", calmly(open));
at("lists").addEventListener("change", calmly(choices));
at("classes").addEventListener("change", calmly(fill));
at("apply").addEventListener("submit", (event) => {
  event.preventDefault();
  calmly(apply)(event);
});
calmly(begin)();
