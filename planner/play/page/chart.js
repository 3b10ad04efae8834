// One small plot: a value per chunk, as bars or as dots on a line, with its numbers written on it.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 168, LEFT = 44, BOTTOM = 22, TOP = 18;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text != null) made.textContent = text;
  return made;
}

export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((m) => m * power).find((m) => m >= value * 0.999);
}

// One row of a table as a plot: each [interval, colour] as a dot on its line, on a scale from 0 to top.
export function whiskers(marks, top) {
  const width = 220, gap = 11, height = gap * (marks.length + 1);
  const x = (value) => 4 + ((width - 8) * Math.min(value, top)) / top;
  const svg = shape("svg", { class: "whiskers", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": true });
  for (const part of [0, 0.5, 1]) svg.append(shape("line", { class: "axis", x1: x(part * top), x2: x(part * top), y1: 0, y2: height }));
  marks.forEach(([told, colour], i) => {
    if (told?.mean == null) return;
    const y = gap * (i + 1);
    svg.append(shape("line", { x1: x(told.low), x2: x(told.high), y1: y, y2: y, stroke: colour, "stroke-width": 2, "stroke-opacity": 0.55 }));
    svg.append(shape("circle", { cx: x(told.mean), cy: y, r: 4, fill: colour }));
  });
  return svg;
}

// values: a number or null per chunk; show: number to text; kind: bars | line; colour: of the marks.
export function chart(place, values, { show, kind, colour, label, empty, slots = 6 }) {
  const known = values.filter((v) => v != null);
  place.replaceChildren();
  if (!known.length) {
    const said = document.createElement("p");
    said.className = "note";
    said.textContent = empty;
    place.append(said);
    return;
  }
  const width = Math.max(240, place.clientWidth);
  const top = ceiling(Math.max(...known, 1e-6));
  const count = Math.max(slots, values.length);
  const gap = (width - LEFT) / count;
  const x = (i) => LEFT + gap * (i + 0.5);
  const y = (v) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - v / top);
  const told = values.map((v, i) => `chunk ${i + 1}: ${v == null ? "not measured" : show(v)}`).join(", ");
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": `${label}. ${told}` });
  for (const part of [0, 0.5, 1]) {
    svg.append(shape("line", { class: "axis", x1: LEFT, x2: width, y1: y(part * top), y2: y(part * top) }));
    svg.append(shape("text", { x: LEFT - 8, y: y(part * top) + 4, "text-anchor": "end" }, show(part * top)));
  }
  if (kind === "line") {
    const points = values.map((v, i) => [v, i]).filter(([v]) => v != null).map(([v, i]) => `${x(i)},${y(v)}`);
    svg.append(shape("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-opacity": 0.45 }));
  }
  const every = Math.ceil(count / Math.max(1, Math.floor((width - LEFT) / 46)));
  values.forEach((v, i) => {
    if (i % every === 0) svg.append(shape("text", { x: x(i), y: HEIGHT - 4, "text-anchor": "middle" }, i + 1));
    if (v == null) return;
    const bar = Math.min(38, gap * 0.6);
    svg.append(
      kind === "line"
        ? shape("circle", { cx: x(i), cy: y(v), r: 5, fill: colour })
        : shape("rect", { x: x(i) - bar / 2, y: y(v), width: bar, height: Math.max(1, y(0) - y(v)), rx: 3, fill: colour }),
    );
    if (i % every === 0) svg.append(shape("text", { class: "value", x: x(i), y: y(v) - 8, "text-anchor": "middle" }, show(v)));
  });
  place.append(svg);
}
