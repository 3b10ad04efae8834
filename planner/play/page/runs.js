// The second part: what other commands finished.

import { ask } from "./api.js";
import { $, count, el, number } from "./tools.js";

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
    const rows = run.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.label), el("td", { class: "n" }, interval(row.distance)), el("td", { class: "n" }, share(row.success))));
    const heads = ["", run.unit ? `distance, ${run.unit}` : "distance", "success"].map((text, i) => el("th", { scope: "col", class: i ? "n" : false }, text));
    const media = run.media.map((name) => name.endsWith(".mp4")
      ? el("video", { src: path(name), controls: true, preload: "none", "aria-label": name })
      : el("img", { src: path(name), alt: name.split("/").at(-1), loading: "lazy" }));
    return el("article", { class: "card run" },
      el("div", { class: "head" }, el("h3", {}, run.name, el("span", { class: "badge" }, run.kind === "run" ? "planner.run" : "planner.evaluate")), toggle),
      el("p", { class: "parts" }, Object.entries(run.parts).map(([k, v]) => `${k} ${v}`).join(" · ")),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))),
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
