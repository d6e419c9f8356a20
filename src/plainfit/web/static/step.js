// One step of a rung's training in pictures: batch, predictions, loss, gradients, update.

import { element, filled, get, show, t } from "./common.js";

const PHASES = ["batch", "predictions", "loss", "gradients", "update"];
const WIDEST = 256; // pixels of a picture of many kernels
const id = (name) => document.getElementById(name);
let rung, dataName, found;
const state = { phase: 0, sample: 0, asked: 0 };

export function lookInside(options) {
  ({ rung, data: dataName } = options);
  const inside = id("inside");
  const lines = JSON.parse(inside.dataset.phases);
  if (id("at")) {
    const places = PHASES.map((phase, at) => element("li", {}, element("button", { onclick: () => turn(at) }, t[`phase_${phase}`])));
    id("phases").replaceChildren(...places);
    id("at").addEventListener("change", () => load(Number(id("at").value)));
    id("first").addEventListener("click", () => load(0));
    id("later").addEventListener("click", () => load(found.step + 10));
    id("last").addEventListener("click", () => load(found.last));
    id("back").addEventListener("click", () => move(-1));
    id("forward").addEventListener("click", () => move(1));
  }
  document.getElementById("data").addEventListener("change", () => load(0));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new IntersectionObserver((seen, watching) => { // the first look trains, so it waits to be seen
    if (!seen.some((one) => one.isIntersecting)) return;
    watching.disconnect();
    load(0);
  }).observe(inside);

  function turn(phase) {
    state.phase = phase;
    draw();
  }

  function move(by) {
    const phase = state.phase + by;
    if (phase >= 0 && phase < PHASES.length) turn(phase);
    else if (found && found.step + by >= 0 && found.step + by <= found.last) {
      state.phase = by > 0 ? 0 : PHASES.length - 1;
      load(found.step + by);
    }
  }

  async function load(step) {
    const asked = ++state.asked; // a later question makes earlier answers void
    if (found) step = Math.min(Math.max(Math.trunc(step) || 0, 0), found.last);
    id("looking").textContent = t.loading;
    try {
      const answer = await get(`/api/ladder/${rung === "00" ? "01" : rung}/step/${step}?data=${dataName()}`);
      if (asked !== state.asked) return;
      found = decoded(answer);
      state.sample = Math.min(state.sample, found.yb.length - 1);
      draw();
    } catch (error) {
      show(error);
    } finally {
      if (asked === state.asked) id("looking").textContent = "";
    }
  }

  function draw() {
    if (!found) return;
    if (!id("at")) {
      id("values").replaceChildren(...batch());
      return;
    }
    const phase = PHASES[state.phase];
    id("at").value = found.step;
    id("at").max = found.last;
    id("of").textContent = filled(t.of, found);
    id("back").disabled = state.phase === 0 && found.step === 0;
    id("forward").disabled = state.phase === PHASES.length - 1 && found.step === found.last;
    [...id("phases").children].forEach((item, at) => {
      if (at === state.phase) item.firstChild.setAttribute("aria-current", "step");
      else item.firstChild.removeAttribute("aria-current");
    });
    for (const item of inside.querySelectorAll("[data-line]")) {
      item.classList.toggle("now", lines[phase].includes(Number(item.dataset.line)));
    }
    const about = phase === "predictions" && !linear() ? t.about_predictions_cnn : t[`about_${phase}`];
    id("readout").textContent = "";
    id("values").replaceChildren(element("p", {}, about), ...{ batch, predictions, loss, gradients, update }[phase]());
  }
}

// Numbers arrive as the bytes of float32 values.
function decoded(answer) {
  const array = ({ shape, values }) => ({
    shape, values: new Float32Array(Uint8Array.from(atob(values), (one) => one.charCodeAt(0)).buffer),
  });
  const arrays = (all) => Object.fromEntries(Object.entries(all).map(([name, one]) => [name, array(one)]));
  return {
    ...answer, xb: array(answer.xb), pred: array(answer.pred), parameters: arrays(answer.parameters),
    gradients: arrays(answer.gradients), updated: arrays(answer.updated),
  };
}

const number = (value) => (value === 0 ? "0" : Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toFixed(3)).replace("-", "−");
const shapeText = (shape) => shape.join("×");
const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
const pixels = () => found.xb.values.length / found.yb.length;
const side = () => Math.sqrt(pixels());
const image = (at) => found.xb.values.subarray(at * pixels(), (at + 1) * pixels());
const probabilities = (at) => {
  const scores = scoresOf(at), most = Math.max(...scores);
  const powers = [...scores].map((score) => Math.exp(score - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
};
const scoresOf = (at) => found.pred.values.subarray(at * found.classes.length, (at + 1) * found.classes.length);
const lossOf = (at) => -Math.log(Math.max(probabilities(at)[found.yb[at]], 1e-38));

// The weights and biases of a linear model, by class; nothing for another model.
function linear() {
  const [[name, weights], [, bias]] = Object.entries(found.parameters);
  if (Object.keys(found.parameters).length !== 2 || weights.shape.length !== 2) return null;
  return { name, bias: bias.values, of: (at) => column(name, weights, at) };
}

// The weights of a class: a column of a matrix made by hand, a row of a layer's.
function column(name, { shape, values }, at) {
  if (shape[0] === found.classes.length && name !== "weights") return values.subarray(at * shape[1], (at + 1) * shape[1]);
  return Float32Array.from({ length: shape[0] }, (_, row) => values[row * shape[1] + at]);
}

function rgb(name) {
  const brush = document.createElement("canvas").getContext("2d");
  brush.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
  return [1, 3, 5].map((at) => parseInt(brush.fillStyle.slice(at, at + 2), 16));
}

// A picture of values: from the page's colour to ink, or, with `most`, from blue over it to red.
function picture(values, width, height, { most = null, scale = 6, tall = scale, label, at = (row, place) => `${row}, ${place}` }) {
  const canvas = element("canvas", { width, height, role: "img", "aria-label": label });
  canvas.style.width = `${Math.round(width * scale)}px`;
  canvas.style.height = `${Math.round(height * tall)}px`;
  const [zero, ink, plus, minus] = ["--page", "--ink", "--c4", "--c0"].map(rgb);
  const brush = canvas.getContext("2d"), drawn = brush.createImageData(width, height);
  values.forEach((value, place) => {
    if (Number.isNaN(value)) return; // a gap, see through
    const part = Math.min(Math.abs(value) / (most ?? 1), 1) || 0;
    const full = most == null ? ink : value > 0 ? plus : minus;
    drawn.data.set([...zero.map((from, one) => from + (full[one] - from) * part), 255], place * 4);
  });
  brush.putImageData(drawn, 0, 0);
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * width), 0), width - 1);
    const y = Math.min(Math.max(Math.floor(((event.clientY - box.top) / box.height) * height), 0), height - 1);
    const value = values[y * width + x];
    id("readout").textContent = Number.isNaN(value) ? "" : `${label} [${at(y, x)}]: ${number(value)}`;
  });
  return canvas;
}

const imagePicture = (at, size) => picture(image(at), side(), side(), { scale: size / side(), label: `${t.image} ${at}` });
const weightPicture = (values, most, size, label) => picture(values, side(), side(), { most, scale: size / side(), label });
const nameOfClass = (at) => found.classes[at];

function batch() {
  const sheet = element("fieldset", { class: "sheet" }, element("legend", { class: "hidden" }, t.image));
  found.yb.forEach((label, at) => {
    const input = element("input", { type: "radio", name: "sample", value: at, checked: at === state.sample,
      "aria-label": `${t.image} ${at}: ${nameOfClass(label)}`, onchange: () => { state.sample = at; } });
    const shown = imagePicture(at, 44);
    shown.removeAttribute("role");
    shown.removeAttribute("aria-label");
    shown.setAttribute("aria-hidden", "true");
    sheet.append(element("label", {}, input, shown, element("span", { "aria-hidden": "true" }, nameOfClass(label))));
  });
  return [shapeLine("xb", found.xb), element("p", { class: "shape" }, `yb ${found.yb.length}: ${found.yb.slice(0, 12).join(" ")} …`), sheet];
}

function shapeLine(name, { shape, values }) {
  const least = values.reduce((a, b) => Math.min(a, b)), most = values.reduce((a, b) => Math.max(a, b));
  return element("p", { class: "shape" }, `${name} ${shapeText(shape)}, ${number(least)} … ${number(most)}`);
}

// A bar from the middle: to the right for what is positive.
function bar(value, most, isPart = false) {
  const made = element("span", { class: `bar ${value < 0 ? "minus" : "plus"}` });
  const width = most ? (Math.abs(value) / most) * (isPart ? 100 : 50) : 0;
  made.style.width = `${width}%`;
  made.style.left = isPart ? "0" : `${value < 0 ? 50 - width : 50}%`;
  return element("span", { class: "track", "aria-hidden": "true" }, made);
}

function table(heads, rows, label) {
  const made = element("table", { class: "scores" },
    element("thead", {}, element("tr", {}, ...heads.map((head, at) => element("th", { scope: "col", colspan: at === heads.length - 1 ? 2 : null }, head)))),
    element("tbody", {}, ...rows));
  return element("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, made);
}

function rowOf(at, ...cells) {
  const isRight = at === found.yb[state.sample];
  return element("tr", { class: isRight ? "right-class" : null },
    element("th", { scope: "row" }, nameOfClass(at), ...(isRight ? [element("small", {}, ` ✓ ${t.right}`)] : [])),
    ...cells.map((cell) => element("td", {}, cell)));
}

const chosen = () => element("figure", {}, imagePicture(state.sample, 112),
  element("figcaption", {}, `${t.image} ${state.sample}: ${nameOfClass(found.yb[state.sample])}`));

function predictions() {
  const scores = scoresOf(state.sample), most = largest(scores), model = linear();
  const name = rung === "01" ? t.log_probability : t.score;
  const made = [];
  if (model) {
    const all = found.classes.map((_, at) => model.of(at));
    const scale = Math.max(...all.map(largest));
    const input = image(state.sample);
    const products = all.map((weights) => weights.map((weight, at) => weight * input[at]));
    const strongest = Math.max(...products.map(largest));
    const rows = found.classes.map((label, at) => rowOf(at,
      weightPicture(all[at], scale, 48, `${t.weights} ${label}`),
      weightPicture(products[at], strongest, 48, `${t.product} ${label}`),
      number(products[at].reduce((a, b) => a + b, 0)), number(model.bias[at]),
      number(scores[at]), bar(scores[at], most)));
    made.push(element("div", { class: "chosen" }, chosen(), table(
      [t.class, t.weights, t.product, t.sum, t.bias, name], rows, t.phase_predictions)));
  } else {
    const rows = found.classes.map((_, at) => rowOf(at, number(scores[at]), bar(scores[at], most)));
    made.push(element("div", { class: "chosen" }, chosen(), table([t.class, name], rows, t.phase_predictions)),
      ...tensors(found.parameters, ""));
  }
  const count = found.yb.length, classes = found.classes.length;
  const turned = Float32Array.from({ length: count * classes }, (_, at) => found.pred.values[(at % count) * classes + Math.floor(at / count)]);
  made.push(element("div", { class: "tensor" }, element("b", {}, `pred ${shapeText(found.pred.shape)}`), element("br"), element("small", {}, t.all_pred),
    element("div", { class: "tiles", tabindex: 0, role: "region", "aria-label": t.all_pred },
      picture(turned, count, classes, { most: largest(turned), scale: 9, label: "pred", at: (row, place) => `${place}, ${row}` }))));
  return made;
}

function loss() {
  const scores = scoresOf(state.sample), parts = probabilities(state.sample), right = found.yb[state.sample];
  const rows = found.classes.map((_, at) => rowOf(at, number(scores[at]), number(parts[at]), bar(parts[at], 1, true)));
  const losses = Float32Array.from(found.yb, (_, at) => lossOf(at));
  return [
    element("div", { class: "chosen" }, chosen(), table(
      [t.class, rung === "01" ? t.log_probability : t.score, t.probability], rows, t.phase_loss)),
    element("p", {}, `${t.this_loss}: −log ${number(parts[right])} = `, element("b", {}, number(losses[state.sample])),
      ` · ${t.batch_loss}: `, element("b", {}, `loss = ${found.loss.toFixed(4)}`)),
    element("div", { class: "tensor" }, element("small", {}, t.all_losses),
      element("div", { class: "tiles", tabindex: 0, role: "region", "aria-label": t.all_losses },
        picture(losses, losses.length, 1, { most: largest(losses), scale: 9, tall: 28, label: t.phase_loss, at: (_, place) => place }))),
  ];
}

const gradients = () => tensors(found.gradients, ".grad");

function update() {
  const made = [element("p", {}, `${t.loss_before_after}: `,
    element("b", {}, `${found.loss.toFixed(4)} → ${found.lossAfter?.toFixed(4) ?? "?"}`))];
  for (const [name, { shape, values }] of Object.entries(found.parameters)) {
    const after = found.updated[name].values;
    const change = { shape, values: values.map((value, at) => after[at] - value) };
    const most = Math.max(largest(values), largest(after));
    made.push(element("div", { class: "steps" }, tensor(`${name}: ${t.before}`, name, { shape, values }, most),
      tensor(`${name}: ${t.change}`, name, change), tensor(`${name}: ${t.after}`, name, { shape, values: after }, most)));
  }
  return made;
}

const tensors = (all, ending) => Object.entries(all).map(([name, one]) => tensor(`${name}${ending}`, name, one));

// A parameter, or its gradient, in pictures: one a class, or all kernels of a layer in one.
function tensor(title, name, { shape, values }, most = largest(values)) {
  let tiles;
  if (shape.length === 2) {
    tiles = found.classes.map((label, at) => element("figure", {},
      weightPicture(column(name, { shape, values }, at), most, 72, `${title} ${label}`), element("figcaption", {}, label)));
  } else if (shape.length === 4) {
    tiles = [kernels(title, shape, values, most)];
  } else {
    tiles = [picture(values, values.length, 1, { most, scale: 28, label: title, at: (_, place) => place })];
  }
  return element("div", { class: "tensor" }, element("b", {}, `${title} ${shapeText(shape)}`), element("small", {}, ` ${t.blue} ${number(-most)} · ${t.red} ${number(most)}`),
    element("div", { class: "tiles", tabindex: 0, role: "region", "aria-label": title }, ...tiles));
}

// The kernels of a convolution, a row an output channel; few outputs of one input are one row.
function kernels(label, [outputs, inputs, height, width], values, most) {
  const [rows, columns] = inputs === 1 ? [1, outputs] : [outputs, inputs];
  const wide = columns * (width + 1) - 1, high = rows * (height + 1) - 1;
  const drawn = new Float32Array(wide * high).fill(NaN);
  values.forEach((value, at) => {
    const kernel = Math.floor(at / (width * height)), within = at % (width * height);
    const y = Math.floor(kernel / columns) * (height + 1) + Math.floor(within / width);
    drawn[y * wide + (kernel % columns) * (width + 1) + (within % width)] = value;
  });
  return picture(drawn, wide, high, { most, scale: Math.min(8, ((inputs === 1 ? 2 : 1) * WIDEST) / wide), label });
}
