// Small things that every part of the page needs.

export const $ = (selector, within = document) => within.querySelector(selector);

// An element: el("p", {class: "note"}, "text", child). Texts are never read as HTML.
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
}

export function number(value, digits = 3) {
  if (value == null || !Number.isFinite(value)) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(digits);
}

export const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;

export const seconds = (value) => `${value.toFixed(1)}\u00a0s`;
