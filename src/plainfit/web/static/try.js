// Shows what runs answer to a drawing, a picture, or a row of a table, and why.

import { element, filled, get, post, refusal, show, svg, t, trusting } from "./common.js";

const SIDE = 336; // pixels of the longer side of the canvas
const PAUSE = 250; // ms without a change, until the model is looked into
const MOST_IN_ORDER = 30; // classes; of more, the likeliest come first
const CURVE = { width: 220, height: 60, edge: 6 };

const at = (id) => document.getElementById(id);
const api = (run, what) => `/api/try/${encodeURIComponent(run.name)}${what}`;
const number = (value) => Math.abs(value) >= 1e6 || (value && Math.abs(value) < 1e-3)
  ? value.toExponential(2)
  : value.toLocaleString("en", { maximumSignificantDigits: 5, useGrouping: Math.abs(value) >= 1e4 });
const share = (value) => `${(100 * value).toFixed(1)} %`;

let runs = [];
let panels = [];
let shown = 0; // counts changes of what is shown, so that late answers are dropped

// One run's answers.
class Panel {
  constructor(run, place) {
    this.run = run;
    this.line = place;
    this.verdict = element("p", { class: "verdict", role: "status" });
    this.problem = element("p", { class: "note", role: "alert", hidden: true });
    this.result = element("div", { class: "result" });
    this.more = element("div");
    this.bars = new Map();
    this.element = element("section", { class: "answer", "aria-label": run.name },
      element("h2", {}, run.name), element("p", { class: "title" }, run.model ? filled(t.on_data, run) : ""),
      this.verdict, this.problem, this.result, this.more);
    this.isBusy = this.isAwaited = false;
    this.clear();
  }

  clear() {
    this.verdict.replaceChildren(element("small", { class: "hint" }, this.run.kind === "row" ? t.fill : t.draw));
    this.result.replaceChildren();
    this.more.replaceChildren();
    this.bars.clear();
  }

  // Ask for what is there now; while an answer is awaited, only the last change is kept.
  async ask() {
    this.isAwaited = true;
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.isAwaited && panels.includes(this)) {
      this.isAwaited = false;
      const version = shown;
      try {
        const answered = await this.request();
        if (!panels.includes(this)) break;
        if (answered) this.draw(answered);
        this.fail(null);
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.look(version), PAUSE);
      } catch (error) {
        this.fail(error);
      }
    }
    this.isBusy = false;
  }

  fail(error) {
    this.problem.hidden = !error;
    if (!error) return;
    show(error, this.problem);
    this.clear();
  }

  draw({ answer, seen, how }) {
    this.verdict.replaceChildren(...verdict(this.run, answer));
    if (seen) this.figure(seen, how);
    if (answer.overlaid) this.mask(answer);
    else if (answer.probabilities) this.update(answer.probabilities, answer.class ?? answer.labels.split("|"));
  }

  figure(seen, how) {
    this.seen = seen;
    if (!this.image?.isConnected) {
      this.image = element("img", { class: "pixels", alt: t.sees });
      this.how = element("figcaption");
      this.result.prepend(element("figure", { class: "seen" }, this.image, this.how));
    }
    this.image.src = seen;
    this.how.textContent = filled(t.sees_how, { how: filled(t[`how_${how}`], this.run) });
  }

  mask({ overlaid, shares }) {
    const legend = shares.map(({ name, share: part, colour }) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = `rgb(${colour})`;
      return element("li", {}, swatch, `${name} ${share(part)}`);
    });
    this.result.querySelector(".mask")?.remove();
    this.result.append(element("figure", { class: "seen mask" },
      element("img", { class: "pixels", src: overlaid, alt: t.pixels }),
      element("figcaption", {}, t.pixels, element("ul", { class: "runs" }, ...legend))));
  }

  update(probabilities, chosen) {
    const rows = Object.entries(probabilities);
    if (rows.length > MOST_IN_ORDER) rows.sort((a, b) => b[1] - a[1]);
    if (!this.list?.isConnected) {
      this.list = element("ul", { class: "bars", tabindex: rows.length > 12 && 0, "aria-label": t.probabilities });
      this.bars.clear();
      this.result.append(this.list);
    }
    rows.forEach(([name, value], place) => {
      if (!this.bars.has(name)) this.bars.set(name, bar(name));
      const { row, fill, text } = this.bars.get(name);
      fill.style.width = `${100 * value}%`;
      text.textContent = share(value);
      row.className = chosen === name || (Array.isArray(chosen) && chosen.includes(name)) ? "first" : "";
      if (this.list.children[place] !== row) this.list.insertBefore(row, this.list.children[place] ?? null);
    });
  }
}

class PicturePanel extends Panel {
  async request() {
    const content = await board.content();
    if (!content) return this.clear();
    return post(api(this.run, "/picture"), formOf(content));
  }

  async look(version) {
    const content = await board.content();
    if (!content || board.pointer !== null || version !== shown) return;
    const seen = this.seen;
    const inside = formOf(content);
    if (at("of").value) inside.append("of", at("of").value);
    const parts = [];
    const put = (some) => {
      if (version !== shown || !panels.includes(this)) return;
      parts.push(...some);
      this.more.replaceChildren(...parts);
    };
    await post(api(this.run, "/inside"), inside).then((found) => put(insideOf(found, seen)), (error) => put(failed(error)));
    if (version !== shown || this.run.task === "segmentation") return;
    await post(api(this.run, "/nearest"), formOf(content)).then(
      (found) => { parts.unshift(...nearestOf(found)); put([]); }, (error) => put(failed(error)));
  }
}

class RowPanel extends Panel {
  async request() {
    return post(api(this.run, "/row"), { row: rowNow(this.run) });
  }

  async look(version) {
    if (version !== shown) return;
    try {
      const asked = { row: rowNow(this.run), of: at("of").value || null };
      const { of, curves } = await post(api(this.run, "/curves"), asked);
      if (version === shown) drawCurves(this, of, curves);
    } catch (error) {
      this.fail(error);
    }
  }
}

const formOf = (content) => {
  const form = new FormData();
  form.append("image", content, "picture");
  return form;
};

function verdict(run, answer) {
  if (answer.shares) return [answer.shares[0].name, " ", element("small", {}, share(answer.shares[0].share))];
  if (answer.labels !== undefined) return [answer.labels.replaceAll("|", ", ") || t.no_labels];
  if (answer.class !== undefined) {
    return [answer.class, " ", element("small", {}, share(answer.probabilities[answer.class]))];
  }
  return Object.entries(answer).flatMap(([name, value], place) => [
    ...(place ? [element("br")] : []), number(value), " ", element("small", {}, name)]);
}

function bar(name) {
  const fill = element("div", { class: "fill" });
  const text = element("span", { class: "number" });
  const row = element("li", {}, element("span", { class: "label", title: name }, name || t.empty),
    element("div", { class: "track" }, fill), text);
  return { row, fill, text };
}

const failed = (error) => [element("p", { class: "note", lang: error.lang }, error.message)];

function nearestOf({ samples, reason }) {
  if (reason) return [element("h3", {}, t.nearest), element("p", { class: "hint", lang: "en" }, reason)];
  const figures = samples.map(({ picture, label }) => element("figure", {},
    element("img", { class: "pixels", src: picture, alt: "" }), element("figcaption", { title: label }, label)));
  return [element("h3", {}, t.nearest), element("div", { class: "near" }, ...figures),
    element("p", { class: "hint" }, t.nearest_hint)];
}

function insideOf({ of, gradient, hiding, layers }, seen) {
  const why = (map, ...caption) => element("figure", {},
    element("div", { class: "layered" }, element("img", { class: "pixels", src: seen, alt: "" }),
      element("img", { class: "pixels", src: map, alt: "" })), element("figcaption", {}, ...caption));
  const word = (kind, text) => element("b", { class: kind }, text);
  const parts = gradient ? [element("h3", {}, filled(t.why, { name: of })), element("div", { class: "why" },
    why(gradient, t.gradient, word("up", t.raise), t.or, word("down", t.lower)),
    why(hiding, t.hiding, word("up", t.for), t.or, word("down", t.against)))] : [];
  const sheets = layers.flatMap(({ name, shape, maps }) => [
    element("p", {}, element("b", {}, name), ` ${shapeText(shape, maps.length)}`),
    element("div", { class: maps.length > 1 ? "maps" : "maps square" },
      ...maps.map((map) => element("img", { class: "pixels", src: map, alt: "" })))]);
  return [...parts, element("h3", {}, t.layers), element("p", { class: "hint" }, t.layers_hint,
    word("up", t.above), t.or, word("down", t.below)),
    element("div", { class: "layers" }, ...sheets)];
}

function shapeText([count, height, width], shown) {
  if (!height) return filled(t.numbers, { count });
  return filled(shown < count ? t.some_maps : t.maps, { count, height, width, shown });
}

// The canvas: a picture below, strokes above; what is sent is the file itself if nothing is drawn.
const board = {
  canvas: at("canvas"),
  strokes: [],
  pointer: null, // the one that draws: a hand on the canvas does not
  pen: { x: SIDE / 2, y: SIDE / 2, isDown: false },

  fit({ width, height, drawing }) {
    const scale = SIDE / Math.max(width, height);
    [this.canvas.width, this.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    this.drawing = drawing;
    at("colours").hidden = drawing.is_light;
    this.redraw();
  },

  redraw() {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.fillStyle = this.drawing.is_light ? "#000" : at("ground").value;
    context.fillRect(0, 0, width, height);
    if (this.picture) {
      const scale = Math.min(width / this.picture.width, height / this.picture.height);
      const [w, h] = [this.picture.width * scale, this.picture.height * scale];
      context.drawImage(this.picture, (width - w) / 2, (height - h) / 2, w, h);
    }
    context.lineCap = context.lineJoin = "round";
    for (const { points, colour, size } of this.strokes) {
      context.strokeStyle = colour;
      points.forEach((point, place) => {
        const before = points[Math.max(0, place - 1)];
        context.lineWidth = size * point.force;
        context.beginPath();
        context.moveTo(before.x, before.y);
        context.lineTo(point.x, point.y);
        context.stroke();
      });
    }
  },

  async content() {
    if (!this.strokes.length) return this.file ?? null;
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  },

  begin(point) {
    const size = this.drawing.brush * Number(at("brush").value) * Math.min(this.canvas.width, this.canvas.height);
    this.strokes.push({ points: [point], size, colour: this.drawing.is_light ? "#fff" : at("ink").value });
    this.changed();
  },

  extend(...points) {
    this.strokes.at(-1).points.push(...points);
    this.changed();
  },

  undo() {
    if (this.strokes.length) this.strokes.pop();
    else this.file = this.picture = null;
    this.lift();
    this.changed();
  },

  clear() {
    this.strokes = [];
    this.file = this.picture = null;
    for (const button of at("shelf").children) button.setAttribute("aria-pressed", false);
    this.lift();
    this.changed();
  },

  lift() {
    this.pen.isDown = false;
    this.pointer = null;
    at("pen").classList.remove("down");
  },

  async open(file) {
    this.strokes = [];
    this.file = file;
    this.picture = await createImageBitmap(file).catch(() => null); // the server may read more kinds
    this.changed();
  },

  changed() {
    this.redraw();
    changed();
  },
};

function changed() {
  shown += 1;
  for (const panel of panels) panel.ask();
}

function wireBoard() {
  const { canvas } = board;
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) * canvas.width / box.width,
      y: (event.clientY - box.top) * canvas.height / box.height,
      force: event.pointerType === "pen" ? 0.4 + 1.2 * event.pressure : 1,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || board.pointer !== null) return;
    canvas.setPointerCapture(event.pointerId);
    board.lift();
    board.pointer = event.pointerId;
    at("pen").hidden = true;
    board.begin(point(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const events = event.getCoalescedEvents?.() ?? [];
    if (event.pointerId === board.pointer) board.extend(...(events.length ? events : [event]).map(point));
  });
  canvas.addEventListener("lostpointercapture", (event) => {
    if (event.pointerId !== board.pointer) return;
    board.pointer = null;
    changed();
  });
  canvas.addEventListener("keydown", byKeyboard);
  canvas.addEventListener("blur", () => { at("pen").hidden = true; board.lift(); });
  at("undo").addEventListener("click", () => board.undo());
  at("clear").addEventListener("click", () => board.clear());
  for (const id of ["ink", "ground"]) at(id).addEventListener("input", () => board.strokes.length ? board.changed() : board.redraw());
  at("files").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  const over = (isOver) => at("sheet").classList.toggle("over", isOver);
  const onFiles = (kind, act) => document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // beside the canvas too, or the browser would leave the page
    act(event);
  });
  onFiles("dragover", () => over(true));
  onFiles("dragleave", () => over(false));
  onFiles("drop", (event) => { over(false); take(event.dataTransfer.files); });
  at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  at("camera").addEventListener("click", () => photograph().catch(show));
}

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function byKeyboard(event) {
  const { canvas, pen } = board;
  const move = MOVES[event.key];
  if (move) {
    const step = Math.max(canvas.width, canvas.height) / (event.shiftKey ? 112 : 28);
    pen.x = Math.min(canvas.width, Math.max(0, pen.x + move[0] * step));
    pen.y = Math.min(canvas.height, Math.max(0, pen.y + move[1] * step));
    if (pen.isDown) board.extend({ x: pen.x, y: pen.y, force: 1 });
  } else if (event.key === " ") {
    pen.isDown = !pen.isDown;
    at("pen").classList.toggle("down", pen.isDown);
    if (pen.isDown) board.begin({ x: pen.x, y: pen.y, force: 1 });
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
    board.undo();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    board.clear();
  } else {
    return;
  }
  event.preventDefault();
  at("pen").hidden = false;
  at("pen").style.left = `${100 * pen.x / canvas.width}%`;
  at("pen").style.top = `${100 * pen.y / canvas.height}%`;
}

function take(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|tiff?)$/i.test(file.name));
  if (!pictures.length || at("picture").hidden) return;
  endCamera();
  const buttons = pictures.map((file) => {
    const url = URL.createObjectURL(file);
    const button = element("button", { "aria-pressed": "false", onclick: () => {
      for (const other of at("shelf").children) other.setAttribute("aria-pressed", other === button);
      board.open(file);
    } }, element("img", { src: url, alt: file.name || t.camera }));
    return button;
  });
  for (const image of at("shelf").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  at("shelf").replaceChildren(...buttons);
  at("shelf").hidden = pictures.length < 2;
  buttons[0].click();
}

function endCamera() {
  for (const track of at("video").srcObject?.getTracks() ?? []) track.stop();
  at("video").hidden = true;
  at("camera").textContent = t.camera;
}

async function photograph() {
  const video = at("video");
  if (video.hidden) {
    const camera = navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = await camera.catch(({ message }) => { throw new Error(filled(t.no_camera, { why: message })); });
    video.hidden = false;
    at("camera").textContent = t.take;
    await video.play();
    return;
  }
  const photo = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  photo.getContext("2d").drawImage(video, 0, 0);
  take([await new Promise((resolve) => photo.toBlob(resolve, "image/png"))]);
}

// The form of a table or a text.
let fields = [];
let rows = [];
let next = 0;

async function openForm(run) {
  ({ fields, rows } = await get(api(run, "/form")));
  fields.run = run;
  at("fields").replaceChildren(...fields.map(fieldElement));
  at("another").hidden = rows.length < 2;
  next = 0;
}

function fieldElement(field, place) {
  const id = `field-${place}`;
  const attributes = { id, oninput: changed, "aria-describedby": field.low === undefined ? null : `${id}-hint` };
  if (field.kind === "category") {
    field.input = element("select", attributes, ...field.choices.map((name) => element("option", { value: name }, name || t.empty)));
  } else if (field.kind === "text") {
    field.input = element("textarea", { ...attributes, rows: 5 });
  } else if (field.kind === "date") {
    field.input = element("input", { ...attributes, type: field.with_time ? "datetime-local" : "date" });
  } else {
    field.input = element("input", { ...attributes, type: "number", step: "any" });
  }
  const text = (value) => typeof value === "number" ? number(value) : value.replace("T", " ");
  field.hint = element("p", { class: "hint", id: `${id}-hint` },
    field.low === undefined ? ""
    : filled(field.is_known ? t.range : t.usual_range, { low: text(field.low), high: text(field.high) }));
  field.curves = element("div");
  return element("div", { class: `field ${field.kind}` }, element("label", { for: id }, field.name), field.input, field.hint, field.curves);
}

function fill() {
  const row = rows[next++ % rows.length];
  for (const { name, input } of fields) input.value = row[name] ?? "";
  changed();
}

function rowNow(run) {
  const values = fields.filter(({ name }) => run.columns.includes(name)).map(({ name, kind, input }) => {
    const isGap = input.value === "" && (kind === "number" || kind === "date");
    return [name, isGap ? null : kind === "number" ? Number(input.value) : input.value];
  });
  return Object.fromEntries(values);
}

function drawCurves(panel, of, curves) {
  panel.curves = { of, curves };
  const drawn = panels.filter((each) => each.curves);
  const all = drawn.flatMap((each) => Object.values(each.curves.curves).flat().map(({ y }) => y));
  const isShare = panel.run.task !== "regression";
  const [low, high] = isShare ? [0, 1] : [Math.min(...all), Math.max(...all)];
  for (const field of fields) {
    const lines = drawn.filter((each) => each.curves.curves[field.name]);
    field.curves.replaceChildren(...(lines.length ? [curveOf(field, lines, low, high, isShare)] : []));
  }
}

function curveOf(field, lines, low, high, isShare) {
  const { width, height, edge } = CURVE;
  const place = (x, points) => field.kind === "category" ? points.findIndex((point) => point.x === x)
    : field.kind === "date" ? Date.parse(x) : Number(x);
  const points = lines[0].curves.curves[field.name];
  const places = points.map(({ x }) => place(x, points));
  const [first, last] = [places[0], places.at(-1)];
  const left = (x) => edge + (width - 2 * edge) * (x - first) / (last - first || 1);
  const top = (y) => height - edge - (height - 2 * edge) * (y - low) / (high - low || 1);
  const shapes = lines.flatMap((panel) => {
    const colour = `var(--c${panel.line})`;
    const some = panel.curves.curves[field.name].map(({ x, y }) => [left(place(x, points)), top(y)]);
    const marks = field.kind === "category"
      ? some.map(([x, y]) => svg("circle", { cx: x, cy: y, r: 3.5, fill: colour }))
      : [svg("polyline", { class: "line", stroke: colour, points: some.map((pair) => pair.join()).join(" ") })];
    return marks;
  });
  const here = place(field.input.value, points);
  if (field.input.value !== "" && here >= first && here <= last) {
    shapes.unshift(svg("line", { class: "axis", x1: left(here), x2: left(here), y1: 0, y2: height, "stroke-dasharray": "2 3" }));
  }
  const text = (y) => isShare ? share(y) : number(y);
  const said = lines.map(({ curves: { of, curves } }) => {
    const ys = curves[field.name].map(({ y }) => y);
    const [least, most] = [Math.min(...ys), Math.max(...ys)].map(text);
    return filled(least === most ? t.still : t.moves, { of, value: least, low: least, high: most });
  }).join("; ");
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said },
    svg("line", { class: "grid", x1: 0, x2: width, y1: height - 1, y2: height - 1 }), ...shapes);
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const wanted = (event.clientX - box.left) * width / box.width;
    const gaps = places.map((x) => Math.abs(left(x) - wanted));
    const { x } = points[gaps.indexOf(Math.min(...gaps))];
    field.input.value = typeof x === "number" ? Number(x.toPrecision(6)) : x;
    changed();
  });
  return element("figure", {}, drawing, element("figcaption", { class: "hint" }, said));
}

function cause(reason) {
  const { lang, message } = refusal(reason);
  return element("span", { lang }, message);
}

// Which runs are shown.
const isBeside = (run, other) => other !== run && other.kind === run.kind && run.kind !== "none"
  && other.columns.every((column) => run.columns.includes(column));

async function choose() {
  const run = runs.find(({ name }) => name === at("run").value);
  const others = runs.filter((other) => isBeside(run, other));
  const kept = others.some(({ name }) => name === at("other").value) ? at("other").value : "";
  at("other").replaceChildren(...[["", t.nothing], ...others.map(({ name }) => [name, name])]
    .map(([value, text]) => element("option", { value }, text)));
  at("other").value = kept;
  const other = others.find(({ name }) => name === kept);
  history.replaceState(null, "", `?${new URLSearchParams({ run: run.name, ...(other ? { other: other.name } : {}) })}`);

  at("picture").hidden = run.kind !== "picture";
  at("row").hidden = run.kind !== "row";
  at("reason").hidden = run.kind !== "none";
  if (run.kind === "none") at("reason").replaceChildren(t.cannot, cause(run.reason));
  at("of-label").hidden = run.kind === "none" || run.task === "segmentation" || run.names.length < 2 || run.is_text;
  const names = (run.names ?? []).map((name) => [name, name]);
  at("of").replaceChildren(...[["", run.task === "regression" ? t.first : t.likeliest], ...names]
    .map(([value, text]) => element("option", { value }, text || t.empty)));

  panels = [];
  shown += 1;
  endCamera();
  if (run.kind === "none") return;
  const Kind = run.kind === "row" ? RowPanel : PicturePanel;
  const made = [run, ...(other ? [other] : [])].map((each, place) => new Kind(each, place));
  at(`${run.kind}-answers`).replaceChildren(...made.map((panel) => panel.element));
  if (run.kind === "picture") board.fit(run);
  const ready = [];
  for (const panel of made) {
    await trusting(panel.run.name, () => get(api(panel.run, ""))).then(() => ready.push(panel), (error) => panel.fail(error));
  }
  if (at("run").value !== run.name || at("other").value !== kept) return;
  if (!ready.includes(made[0])) return;
  const isNew = run.kind === "row" && fields.run !== run;
  if (isNew) await openForm(run);
  if (at("run").value !== run.name || at("other").value !== kept) return;
  panels = ready;
  if (isNew) fill();
  else changed();
}

async function start() {
  runs = await get("/api/try");
  at("none").hidden = runs.length > 0;
  if (!runs.length) return;
  wireBoard();
  const asked = new URLSearchParams(location.search);
  at("run").replaceChildren(...runs.map(({ name }) => element("option", { value: name }, name)));
  const usual = runs.find(({ kind }) => kind !== "none") ?? runs[0];
  at("run").value = runs.some(({ name }) => name === asked.get("run")) ? asked.get("run") : usual.name;
  at("other").replaceChildren(element("option", { value: asked.get("other") ?? "" }));
  at("choice").hidden = false;
  const chosen = () => choose().catch(show);
  for (const id of ["run", "other"]) at(id).addEventListener("change", chosen);
  at("of").addEventListener("change", changed);
  at("another").addEventListener("click", fill);
  at("form").addEventListener("submit", (event) => event.preventDefault());
  await chosen();
}

start().catch(show);
