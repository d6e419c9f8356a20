// A chart of lines that keeps its place while points arrive. The pointer, or the arrow keys, show
// the values at the nearest x; dragging, or + and -, zoom; 0, a double click or a button show all.
//
//   const chart = new LineChart(parent, { title: "loss", x: "step" });
//   chart.draw([{ name: "run 1", color: 0, points: [[0, 2.3], [1, null]], marks: [1] }]);
//   chart.set({ log: true, smoothing: 0.9 });
//
// `points` are in the order of x; a y of null leaves a gap. `marks` are places x that get a ring,
// which `markText` explains. `smoothing` is the weight of what came before, in a moving average
// that starts without a bias.

import { element, filled, svg, t } from "./common.js";

const MARGIN = { left: 52, right: 14, top: 10, bottom: 34 };
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const COLORS = 8; // --c0 to --c7 of page.css; further lines are dashed
const MOST_DOTS = 40;
let count = 0;

export const lineStyle = (color) => ({
  stroke: `var(--c${color % COLORS})`, "stroke-dasharray": DASHES[Math.floor(color / COLORS) % 4],
});

export function numberText(value) {
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: size < 1e4 ? 4 : 7 });
}

export function smooth(points, weight) {
  let mean = 0, total = 0;
  return points.map(([x, y]) => {
    if (y == null) return [x, y];
    mean = weight * mean + (1 - weight) * y;
    total = weight * total + (1 - weight);
    return [x, mean / total];
  });
}

function linearTicks(low, high, most, whole) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(power * ([1, 2, 5].find((one) => one * power >= rough) ?? 10), whole ? 1 : 0);
  const first = Math.ceil(low / step - 1e-9);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, place) => Number(((first + place) * step).toPrecision(12)));
}

function logTicks(low, high, most) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.ceil((to - from) / most);
  const within = (factors) => {
    const made = [];
    for (let power = from; power <= to; power += every) made.push(...factors.map((one) => one * 10 ** power));
    return made.filter((one) => one >= low * 0.999 && one <= high * 1.001);
  };
  const found = [[1], [1, 3], [1, 2, 5]].map(within).find((ticks) => ticks.length >= 3);
  return found ?? linearTicks(low, high, most, false);
}

// Where `x` is, or would be, among points in the order of x.
function placeOf(points, x) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(points, x) {
  const at = placeOf(points, x);
  const [before, after] = [points[at - 1], points[at]];
  return !before || (after && after[0] - x < x - before[0]) ? after : before;
}

// Of the points that share a column of pixels, the first, the least, the greatest and the last.
function thinned(points, column) {
  const kept = [];
  for (let start = 0, end; start < points.length; start = end) {
    for (end = start + 1; end < points.length && column(points[end]) === column(points[start]); end++);
    const group = points.slice(start, end);
    const known = group.filter(([, y]) => y != null).sort((a, b) => a[1] - b[1]);
    const chosen = new Set([group[0], known[0], known.at(-1), group.at(-1)]);
    kept.push(...(end - start > 4 ? group.filter((one) => chosen.has(one)) : group));
  }
  return kept;
}

export class LineChart {
  constructor(parent, { title, x = "", whole = true, log = false, smoothing = 0, height = 230, markText = "" }) {
    Object.assign(this, { title, x, whole, log, smoothing, height, markText });
    this.series = [];
    this.view = null; // [low, high] of x, while zoomed
    this.cursor = null; // an x
    this.clip = `chart-${count++}`;
    this.drawing = svg("svg", {
      tabindex: 0, role: "application", "aria-roledescription": t.chart,
      "aria-label": filled(t.chart_label, { title, x }), height,
    });
    this.values = element("div", { class: "chart-values", role: "status", hidden: true });
    this.all = element("button", { class: "chart-all", hidden: true, onclick: () => this.zoom(null) }, t.chart_all);
    this.figure = element("figure", { class: "line-chart" }, element("figcaption", {}, element("b", {}, title), this.all),
      element("div", { class: "chart-area" }, this.drawing, this.values));
    parent.append(this.figure);
    new ResizeObserver(() => this.update()).observe(this.drawing);
    this.listen();
  }

  draw(series) {
    this.series = series;
    this.update();
  }

  set(options) {
    Object.assign(this, options);
    this.update();
  }

  zoom(view) {
    const [low, high] = this.extent;
    if (view) {
      const width = Math.min(Math.max(view[1] - view[0], this.whole ? 1 : (high - low) / 1e6), high - low);
      const start = Math.min(Math.max(view[0], low), high - width);
      view = width < high - low ? [start, start + width] : null;
    }
    if (!view && document.activeElement === this.all) this.drawing.focus(); // the button goes
    this.view = view;
    this.update();
  }

  update() { // once a frame, however many changes there are
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  render() {
    const width = this.drawing.clientWidth;
    if (!width) return; // not shown
    const usable = (y) => y != null && (!this.log || y > 0);
    const given = this.series.map((one) => ({ ...one, points: one.points.map(([x, y]) => [x, usable(y) ? y : null]) }));
    const xs = given.flatMap(({ points }) => (points.length ? [points[0][0], points.at(-1)[0]] : []));
    this.extent = xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    if (this.extent[0] === this.extent[1]) this.extent = [this.extent[0] - 1, this.extent[1] + 1];
    this.all.hidden = !this.view;
    const [low, high] = this.view ?? this.extent;
    const right = width - MARGIN.right, bottom = this.height - MARGIN.bottom;
    const toX = (x) => MARGIN.left + ((x - low) / (high - low)) * (right - MARGIN.left);
    this.fromX = (pixel) => low + ((pixel - MARGIN.left) / (right - MARGIN.left)) * (high - low);

    this.lines = given.map((one) => {
      const smoothed = this.smoothing ? smooth(one.points, this.smoothing) : one.points;
      const seen = (points) => points.slice(Math.max(placeOf(points, low) - 1, 0), placeOf(points, high + 1e-9) + 1);
      return { ...one, smoothed, seen: seen(smoothed), raw: this.smoothing ? seen(one.points) : [] };
    });
    let least = Infinity, greatest = -Infinity;
    for (const { seen, raw } of this.lines) {
      for (const [, y] of [...seen, ...raw]) if (y != null) [least, greatest] = [Math.min(least, y), Math.max(greatest, y)];
    }
    this.isEmpty = least > greatest;
    if (this.isEmpty) [least, greatest] = [0, 1];
    const scale = this.log && !this.isEmpty ? Math.log10 : (y) => y;
    const pad = (scale(greatest) - scale(least)) * 0.05 || (this.log ? 0.1 : Math.abs(greatest) * 0.05 || 1);
    const [from, to] = [scale(least) - pad, scale(greatest) + pad];
    const toY = (y) => bottom - ((scale(y) - from) / (to - from)) * (bottom - MARGIN.top);
    const isLog = scale === Math.log10;

    const grid = svg("g", { "aria-hidden": "true" });
    const yTicks = isLog ? logTicks(10 ** from, 10 ** to, 5) : linearTicks(from, to, 5, false);
    for (const y of this.isEmpty ? [] : yTicks) {
      grid.append(svg("path", { class: "grid", d: `M${MARGIN.left} ${toY(y)}H${right}` }),
        svg("text", { x: MARGIN.left - 6, y: toY(y) + 4, "text-anchor": "end" }, numberText(y)));
    }
    for (const x of linearTicks(low, high, Math.max(2, width / 80), this.whole)) {
      grid.append(svg("path", { class: "grid", d: `M${toX(x)} ${bottom}v4` }),
        svg("text", { x: toX(x), y: bottom + 16, "text-anchor": "middle" }, x.toLocaleString("en")));
    }
    grid.append(svg("path", { class: "axis", d: `M${MARGIN.left} ${bottom}H${right}` }),
      svg("text", { x: right, y: this.height - 4, "text-anchor": "end" }, this.x));
    if (this.isEmpty) grid.append(svg("text", { x: (MARGIN.left + right) / 2, y: bottom / 2, "text-anchor": "middle" }, t.chart_empty));

    const body = svg("g", { "clip-path": `url(#${this.clip})` });
    const path = (points) => {
      let pen = "M", d = "";
      for (const [x, y] of thinned(points, ([x]) => Math.round(toX(x)))) {
        if (y != null) d += `${pen}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`;
        pen = y == null ? "M" : "L";
      }
      return d;
    };
    for (const { color, seen, raw, smoothed, marks = [] } of this.lines.toReversed()) { // the first on top
      const style = lineStyle(color);
      if (raw.length) body.append(svg("path", { class: "line faint", ...style, d: path(raw) }));
      body.append(svg("path", { class: "line", ...style, d: path(seen) }));
      const dots = seen.length <= MOST_DOTS ? seen : [];
      for (const [x, y] of dots) if (y != null) body.append(svg("circle", { cx: toX(x), cy: toY(y), r: 2.2, fill: style.stroke }));
      for (const mark of marks) {
        const point = nearest(smoothed, mark);
        if (point && point[1] != null && point[0] >= low && point[0] <= high) {
          body.append(svg("circle", { class: "line mark", ...style, cx: toX(point[0]), cy: toY(point[1]), r: 5 }, svg("title", {}, this.markText)));
        }
      }
    }
    const clip = svg("clipPath", { id: this.clip }, svg("rect", {
      x: MARGIN.left - 6, y: 0, width: Math.max(right - MARGIN.left, 0) + 12, height: bottom + 1 }));
    this.pointer = svg("g", { "aria-hidden": "true" });
    this.drawing.replaceChildren(clip, grid, body, this.pointer);
    Object.assign(this, { toX, toY, bottom, width });
    this.point();
  }

  // Show the values at the cursor, and what is being dragged over.
  point() {
    if (!this.pointer) return;
    this.pointer.replaceChildren();
    if (this.dragged) {
      const [a, b] = this.dragged.map(this.toX).sort((a, b) => a - b);
      this.pointer.append(svg("rect", { class: "dragged", x: a, y: MARGIN.top, width: b - a, height: this.bottom - MARGIN.top }));
    }
    const found = this.cursor == null ? [] : this.lines.map(({ smoothed }) => nearest(smoothed, this.cursor));
    const near = found.filter((one) => one).sort((a, b) => Math.abs(a[0] - this.cursor) - Math.abs(b[0] - this.cursor))[0];
    this.values.hidden = !near;
    if (!near) return;
    const x = near[0], at = this.toX(x);
    const rows = this.lines.flatMap(({ name, color, smoothed, points }) => {
      if (!points.length || x < points[0][0] || x > points.at(-1)[0]) return [];
      const [placeX, y] = nearest(smoothed, x);
      if (y == null) return [];
      this.pointer.append(svg("circle", { cx: this.toX(placeX), cy: this.toY(y), r: 4, fill: lineStyle(color).stroke }));
      const key = svg("svg", { width: 16, height: 8, "aria-hidden": "true" }, svg("path", { class: "line", ...lineStyle(color), d: "M0 4H16" }));
      return [element("div", {}, key, element("span", {}, name), element("b", {}, numberText(y)))];
    });
    this.pointer.prepend(svg("path", { class: "cursor", d: `M${at} ${MARGIN.top}V${this.bottom}` }));
    this.values.replaceChildren(element("small", {}, `${this.x} ${x.toLocaleString("en")}`), ...rows);
    const onLeft = at > this.width / 2;
    this.values.style.left = onLeft ? "auto" : `${at + 12}px`;
    this.values.style.right = onLeft ? `${this.width - at + 12}px` : "auto";
  }

  listen() {
    const xOf = (event) => this.fromX(event.clientX - this.drawing.getBoundingClientRect().left);
    let start = null;
    const stop = () => { start = this.dragged = null; };
    const listeners = {
      pointerdown: (event) => { if (event.button === 0) start = xOf(event); },
      pointermove: (event) => {
        this.cursor = xOf(event);
        if (start != null && Math.abs(this.toX(start) - this.toX(this.cursor)) > 5) {
          this.dragged = [start, this.cursor];
          this.drawing.setPointerCapture(event.pointerId);
        }
        this.point();
      },
      pointerup: () => {
        if (this.dragged) this.zoom(this.dragged.toSorted((a, b) => a - b));
        stop();
        this.point();
      },
      pointercancel: stop,
      pointerleave: () => { if (!this.dragged) { this.cursor = null; this.point(); } },
      dblclick: () => this.zoom(null),
      blur: () => { this.cursor = null; this.point(); },
      keydown: (event) => this.key(event),
    };
    for (const [name, call] of Object.entries(listeners)) this.drawing.addEventListener(name, call);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.toX) return;
    const [low, high] = this.view ?? this.extent, width = high - low;
    const middle = Math.min(Math.max(this.cursor ?? (low + high) / 2, low), high);
    const to = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (to && event.shiftKey) this.zoom([low + (to * width) / 4, high + (to * width) / 4]);
    else if (to) this.step(to, low, high);
    else if (event.key === "+" || event.key === "=") this.zoom([middle - width / 4, middle + width / 4]);
    else if (event.key === "-") this.zoom([middle - width, middle + width]);
    else if (event.key === "0" || event.key === "Escape") this.zoom(null);
    else return;
    event.preventDefault();
  }

  // Move the cursor to another point, at least a pixel away.
  step(to, low, high) {
    const from = this.cursor == null ? (to > 0 ? -Infinity : Infinity) : this.cursor;
    const least = Number.isFinite(from) ? (high - low) / this.width : 0;
    const ahead = this.lines.flatMap(({ seen }) => seen.map(([x]) => x))
      .filter((x) => x >= low && x <= high && (x - from) * to > 0 && Math.abs(x - from) >= least);
    if (!ahead.length) return;
    this.cursor = ahead.reduce((a, b) => ((a - b) * to < 0 ? a : b));
    this.point();
  }
}
