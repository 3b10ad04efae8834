// The second part: what other commands finished.

import { ask } from "./api.js";
import { ceiling, whiskers } from "./chart.js";
import { $, count, el, number } from "./tools.js";

const EXECUTED = "#b25400", IMAGINED = "#145ca8";
const interval = (told) => (told?.mean == null ? "–" : `${number(told.mean)} [${number(told.low)}, ${number(told.high)}]`);
const share = (told) => (told?.share == null ? "–" : `${Math.round(100 * told.share)}% of ${told.n}`);
const path = (name) => `runs/${name.split("/").map(encodeURIComponent).join("/")}`;

export class Runs {
  constructor(complain) {
    this.complain = complain;
    $("#reload-runs").addEventListener("click", () => this.show());
  }

  async show() {
    try {
      const found = await ask("runs");
      const none = el("p", { class: "card note" }, "No run is finished yet. python -m planner.run writes one.");
      $("#runs-list").replaceChildren(...(found.length ? found.map((run) => this.card(run)) : [none]));
    } catch (error) {
      this.complain(error.message);
    }
  }

  card(run) {
    const place = el("div", {});
    const toggle = run.report && el("button", { type: "button", "aria-expanded": "false", onclick: (event) => this.report(event.target, place, run) }, "Report");
    const top = ceiling(Math.max(1e-6, ...run.rows.flatMap((row) => [row.executed?.high, row.imagined?.high]).filter(Number.isFinite)));
    const rows = run.rows.map((row) => el("tr", {},
      el("th", { scope: "row" }, row.label),
      el("td", { class: "plot" }, whiskers([[row.executed, EXECUTED], [row.imagined, IMAGINED]], top)),
      ...[interval(row.executed), interval(row.imagined), share(row.success)].map((told) => el("td", { class: "n" }, told))));
    const unit = run.unit ? `, ${run.unit}` : "";
    const heads = [
      el("th", { scope: "col" }, "row"),
      el("th", { scope: "col", class: "plot" }, el("span", {}, "0"), el("span", {}, `${Number(top.toPrecision(2))}${run.unit ? ` ${run.unit}` : ""}`)),
      el("th", { scope: "col", class: "n" }, el("span", { class: "executed" }, "●"), ` executed${unit}`),
      el("th", { scope: "col", class: "n" }, el("span", { class: "imagined" }, "●"), ` imagined${unit}`),
      el("th", { scope: "col", class: "n" }, "success"),
    ];
    const media = run.media.map((name) => name.endsWith(".mp4")
      ? el("video", { src: path(name), controls: true, preload: "none", "aria-label": name })
      : el("img", { src: path(name), alt: name.split("/").at(-1), loading: "lazy" }));
    return el("article", { class: "card run" },
      el("div", { class: "head" }, el("h3", {}, run.name, el("span", { class: "badge" }, run.kind), run.finished ? null : el("span", { class: "badge" }, "unfinished")), toggle),
      el("p", { class: "parts" }, Object.entries(run.parts).map(([k, v]) => `${k} ${v}`).join(" · ")),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))),
      run.figures ? el("p", { class: "note" }, el("a", { href: path(run.figures), target: "_blank", rel: "noopener" }, "All figures (json)")) : null,
      media.length ? el("details", {}, el("summary", {}, count(media.length, "picture or clip", "pictures and clips")), el("div", { class: "media" }, ...media)) : null,
      place);
  }

  report(button, place, run) {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", !open);
    button.textContent = open ? "Report" : "Close the report";
    place.replaceChildren(...(open ? [] : [el("iframe", { src: path(run.report), title: `Report of ${run.name}`, sandbox: "" })]));
  }
}
