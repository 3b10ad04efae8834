// The third part: two unnamed clips, and what a person thinks of them.

import { ask, post } from "./api.js";
import { $, count, el, number } from "./tools.js";

const FPS = 4, REST = 5; // frames a second; frames that the end stays

export class Rate {
  constructor(complain) {
    Object.assign(this, { complain, pair: null, visible: false, frame: 0, playing: true });
    this.form = $("#rating");
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.save(); });
    $("#so-far").addEventListener("toggle", (event) => { if (event.target.open) this.summarize(); });
    $("#next-pair").addEventListener("click", () => this.next());
    $("#pair-replay").addEventListener("click", () => {
      this.playing = !this.playing;
      $("#pair-replay").textContent = this.playing ? "Pause" : "Play";
    });
    setInterval(() => { if (this.visible && this.playing) this.tick(); }, 1000 / FPS);
  }

  show() {
    if (!this.pair) this.next();
  }

  async next() {
    try {
      this.pair = await post("ratings/pair");
      this.complain("");
      this.frame = 0;
      this.form.hidden = false;
      $("#so-far").open = false; // it names what the clips are
      $("#rate-status").textContent = this.pair.left ? `${count(this.pair.left, "pair", "pairs")} not rated yet` : "every pair has a rating";
      $("#criteria").replaceChildren(...Object.entries(this.pair.criteria).map(([name, question]) => this.criterion(name, question)));
      this.tick();
    } catch (error) {
      this.form.hidden = true;
      this.complain(error.message);
    }
  }

  criterion(name, question) {
    const slider = (side) => {
      const out = el("output", {}, "–");
      const input = el("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.5, name: `${side}-${name}`, "aria-label": `${name} of clip ${side.toUpperCase()}`, "aria-valuetext": "not rated" });
      const rated = () => {
        input.dataset.rated = "yes";
        out.textContent = Number(input.value).toFixed(2);
        input.removeAttribute("aria-valuetext");
      };
      input.addEventListener("input", rated);
      input.addEventListener("click", rated);
      return el("label", {}, `Clip ${side.toUpperCase()}`, input, out);
    };
    return el("fieldset", { class: "criterion" }, el("legend", {}, el("strong", {}, name), el("span", {}, question)), slider("a"), slider("b"));
  }

  tick() {
    if (!this.pair) return;
    const frames = this.pair.a.length;
    const i = Math.min(this.frame, frames - 1);
    $("#clip-a").src = this.pair.a[i];
    $("#clip-b").src = this.pair.b[i];
    $("#pair-caption").textContent = this.pair.captions[i];
    this.frame = (this.frame + 1) % (frames + REST);
  }

  async save() {
    const scores = { a: {}, b: {} };
    for (const input of this.form.querySelectorAll("input[type=range]")) {
      const [side, name] = input.name.split("-");
      if (!input.dataset.rated) {
        input.focus();
        return this.complain(`Rate the ${name} of clip ${side.toUpperCase()}: move its slider.`);
      }
      scores[side][name] = Number(input.value);
    }
    try {
      await post("ratings", JSON.stringify({ token: this.pair.token, scores, rater: $("#rater").value }));
      await this.next();
      $("#rate-status").textContent = "Saved. " + $("#rate-status").textContent;
    } catch (error) {
      this.complain(error.message);
    }
  }

  async summarize() {
    try {
      this.table(await ask("ratings"));
    } catch (error) {
      this.complain(error.message);
    }
  }

  table({ ratings, raters, tasks }) {
    const place = $("#summary");
    if (!ratings) return place.replaceChildren(el("p", { class: "note" }, "Nobody has rated anything yet."));
    const by = raters ? ` by ${count(raters, "person who gave a name", "people who gave names")}` : "";
    place.replaceChildren(
      el("p", { class: "note" }, `${count(ratings, "rating", "ratings")}${by}. Means from 0 to 1, and differences within a pair, with 95% intervals over pairs; a pair that is rated again counts once.`),
      ...tasks.flatMap((told) => this.task(told)),
    );
  }

  task({ task, ratings, pairs, conditions, differences }) {
    const names = Object.keys(conditions[0]).filter((name) => !["memory", "weights"].includes(name));
    const shown = ({ mean, low, high, n }, sign) => {
      const text = (value) => (sign && value > 0 ? "+" : "") + number(value, 2);
      return n < 2 ? text(mean) : `${text(mean)} [${text(low)}, ${text(high)}]`; // one pair has no interval
    };
    const made = ({ memory, weights }) => `${memory}, weights ${weights || "not recorded"}`;
    const less = (first, second) => `${first.weights === second.weights ? first.memory : made(first)} less ${made(second)}`;
    const row = (label, told, sign) => el("tr", {}, el("th", { scope: "row" }, label), ...names.map((name) => el("td", { class: "n" }, shown(told[name], sign))), el("td", { class: "n" }, told[names[0]].n));
    const heads = ["memory and weights", ...names, "pairs"].map((text, i) => el("th", { scope: "col", class: i ? "n" : false }, text));
    const rows = [
      ...conditions.map((told) => row(made(told), told, false)),
      ...differences.map((told) => row(less(told.first, told.second), told, true)),
    ];
    return [
      el("h3", {}, `${task || "Task not recorded"}: ${count(ratings, "rating", "ratings")} of ${count(pairs, "pair", "pairs")}`),
      el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))),
    ];
  }
}
