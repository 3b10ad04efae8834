// The first part: an episode, its actions, its pictures.

import { answered, ask, post } from "./api.js";
import { chart } from "./chart.js";
import { $, count, el, number, options, seconds } from "./tools.js";

const EXECUTED = { expert: "Executed by expert", reader: "Executed" };
const SIDES = ["with", "without", "executed"];

export class Play {
  constructor(complain, send) {
    Object.assign(this, { complain, send, episode: null, page: null, busy: false, fps: 4, sides: [], timer: null });
    this.form = $("#begin");
    this.form.addEventListener("change", () => this.fit());
    this.form.elements.picture.addEventListener("change", () => this.upload());
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.begin(); });
    $("#act").addEventListener("submit", (event) => { event.preventDefault(); this.act($("#text").value); });
    for (const button of document.querySelectorAll(".cancel")) button.addEventListener("click", () => this.cancel());
    $("#undo").addEventListener("click", () => this.undo(this.episode.chunks.length - 1));
    $("#compare").addEventListener("click", () => this.ask({ type: "compare", on: !this.episode.compare }));
    $("#save").addEventListener("click", () => this.ask({ type: "save" }));
    $("#new").addEventListener("click", () => this.renew(true));
    $("#keep").addEventListener("click", () => this.renew(false));
    $("#replay").addEventListener("click", () => (this.timer ? this.pause() : this.replay(0)));
    for (const kind of ["mp4", "gif"]) $(`#${kind}`).addEventListener("click", (event) => { event.preventDefault(); this.download(kind); });
    addEventListener("resize", () => { if (this.episode) this.plots(); });
    this.choices();
  }

  // --- beginning ---

  async choices() {
    try {
      const told = await ask("choices");
      const { task, memory, saved } = this.form.elements;
      this.fps = told.fps;
      this.megabytes = told.upload_megabytes;
      this.weights = told.tasks;
      const tasks = Object.keys(told.tasks);
      options(task, tasks.map((t) => [t, t]), task.value || tasks[0]);
      options(memory, told.memories.map((m) => [m, m]), memory.value || told.memories[0]);
      const shown = told.saved.map((s) => [s.name, `${s.saved} · ${s.memory} · ${count(s.captions.length, "chunk", "chunks")} · ${s.source}`]);
      options(saved, shown.length ? shown : [["", "none yet"]], saved.value);
      this.fit();
    } catch (error) {
      this.complain(error.message);
    }
  }

  fit() {
    const { source: { value: source }, task, weights } = this.form.elements;
    if (this.weights) options(weights, this.weights[task.value].map((w) => [w, w]), weights.value);
    for (const part of this.form.querySelectorAll("[data-source]")) part.hidden = !part.dataset.source.split(" ").includes(source);
    for (const input of this.form.querySelectorAll("[data-source] input, [data-source] select")) input.disabled = input.closest("[data-source][hidden]") != null;
    $(".name", this.form).textContent = source === "seed" ? "Layout and seed" : "Seed";
    $("[type=submit]", this.form).textContent = source === "saved" ? "Open" : "Begin";
    this.enable();
  }

  async upload() {
    const [file] = this.form.elements.picture.files;
    const note = $("#picture-note");
    note.textContent = "";
    if (!file) return;
    if (file.size > this.megabytes * 2 ** 20) {
      this.form.elements.picture.value = "";
      return this.complain(`The picture has more than ${this.megabytes} MB; make it smaller.`);
    }
    try {
      const told = await post(`open/${this.page}/picture`, file);
      this.complain("");
      note.replaceChildren(el("img", { src: told.picture, alt: "The picture as the model sees it", width: 64 }), " ", told.changes);
    } catch (error) {
      this.form.elements.picture.value = "";
      this.complain(error.message);
    }
  }

  begin() {
    const given = this.form.elements;
    const source = given.source.value;
    if (source === "saved") {
      if (given.saved.value) this.ask({ type: "open", name: given.saved.value });
      else this.complain("No episode is saved yet.");
      return;
    }
    this.ask({
      type: "start",
      source,
      task: given.task.value,
      weights: given.weights.value,
      memory: given.memory.value,
      seed: given.seed.valueAsNumber,
      simulator: source === "seed" ? given.simulator.value || null : null,
      compare: given.compare.checked,
    });
  }

  renew(anew) {
    this.form.hidden = !anew && this.episode != null;
    $("#episode").hidden = anew || this.episode == null;
    $("#keep").hidden = this.episode == null;
    if (anew) {
      this.pause();
      this.choices();
      $("[name=source]:checked", this.form).focus();
    }
  }

  // --- what is asked ---

  ask(message) {
    if (this.busy) return;
    if (this.page == null) return this.complain("The page is not connected to the server; reload it.");
    this.complain("");
    this.busy = true;
    this.asked = message;
    this.focused = document.activeElement;
    this.say("Waiting");
    this.enable();
    this.send(message);
  }

  act(text) {
    if (!text.trim()) return $("#text").focus();
    this.ask({ type: "act", text });
  }

  async download(kind) {
    const link = $(`#${kind}`);
    if (!link.href) return;
    try {
      const clip = URL.createObjectURL(await (await answered(link.href)).blob());
      el("a", { href: clip, download: link.download }).click();
      setTimeout(() => URL.revokeObjectURL(clip), 60_000);
    } catch (error) {
      this.complain(error.message);
    }
  }

  undo(chunk) {
    if (chunk >= 0) this.ask({ type: "undo", chunk });
  }

  cancel() {
    if (this.busy) this.send({ type: "cancel" });
  }

  key(event) {
    if (!this.episode || $("#episode").hidden) return;
    const wanted = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = this.episode.actions.find((a) => a.keys.includes(wanted));
    if (wanted === "/") $("#text").focus();
    else if (action) this.act(action.text);
    else if (wanted === "u" && !event.repeat) this.undo(this.episode.chunks.length - 1);
    else if (wanted === " ") $("#replay").click();
    else return;
    event.preventDefault();
  }

  // --- what comes ---

  receive(message) {
    const heard = this[`on_${message.type}`];
    if (heard) heard.call(this, message);
  }

  on_hello({ page }) { this.page = page; this.enable(); }
  on_full({ text }) { this.complain(text); }
  on_closed() {
    this.page = null;
    this.done = "Not connected";
    this.on_idle();
  }

  on_line({ place }) {
    if (!this.busy) return;
    this.say(place ? `Waiting: ${count(place, "job", "jobs")} ahead` : "Working");
    this.begun = performance.now();
  }

  on_phase({ phase }) {
    const said = { open: "Opening the model", remember: "Learning the chunk", execute: "Executing in the simulator", done: "Done" };
    if (phase !== "done") $("#bar").removeAttribute("value");
    this.say(said[phase] || phase);
  }

  on_progress({ side, done, of, chunk }) {
    if (done === 1 || !this.streaming || this.streaming.number !== chunk || this.streaming.side !== side) this.pause();
    $("#bar").max = of;
    $("#bar").value = done;
    const which = side === "without" ? " without memory" : "";
    this.say(`Chunk ${chunk}${which}: step ${done} of ${of}, ${seconds((performance.now() - this.begun) / 1000)}`);
  }

  on_frame({ chunk, side, number: i, picture }) {
    if (this.streaming?.number !== chunk) this.streaming = { number: chunk, text: this.asked?.text || "", frames: {} };
    const frames = (this.streaming.frames[side] ||= []);
    frames[i] = picture;
    this.streaming.side = side;
    if (side === "with" || chunk > this.episode.chunks.length) {
      for (const each of this.sides) this.show(each, this.streaming.frames[each]?.at(-1));
      this.caption(this.streaming.text || this.episode.chunks[chunk - 1]?.text, `chunk ${chunk} · frame ${i + 1}`);
    }
    this.stripPending();
  }

  on_chunk({ chunk }) {
    this.episode.chunks.push(chunk);
    this.streaming = null;
    this.refresh();
    if ($("#text").value.trim() === this.asked.text?.trim()) $("#text").value = "";
    const { imagine, remember } = chunk.seconds;
    this.done = `Chunk ${chunk.number}: ${seconds(imagine + remember)} (imagined in ${seconds(imagine)}, learned in ${seconds(remember)})`;
    this.at(chunk.number, chunk.frames.with.length - 1);
    if (this.sides.length > 1) this.replay(chunk.number);
  }

  on_episode(message) {
    this.episode = message;
    this.streaming = null;
    this.renew(false);
    $("#facts").textContent = `${message.source} · memory ${message.memory} · ${message.weights}`;
    this.usual();
    this.refresh();
    this.done = message.chunks.length ? count(message.chunks.length, "chunk", "chunks") : "Ready";
    const last = message.chunks.at(-1);
    if (!last) this.at(0, 0);
    else this.at(last.number, last.frames.with.length - 1);
    if (["start", "open"].includes(this.asked?.type)) this.focused = this.walks ? null : $("#text");
  }

  on_saved({ folder }) {
    this.done = `Saved in ${folder}`;
    this.choices();
  }

  on_cancelled() {
    this.done = this.episode ? "Cancelled; the episode is as it was" : "Cancelled";
    this.drop();
  }

  on_error({ text }) {
    this.complain(text);
    this.done = "";
    this.drop();
  }

  // What came of the chunk that was given up goes from the views.
  drop() {
    this.streaming = null;
    if (!this.episode) return;
    this.refresh();
    this.at(this.episode.chunks.length, Infinity);
  }

  on_idle() {
    this.busy = false;
    $("#bar").value = 0;
    this.say(this.done || "");
    this.done = "";
    this.enable();
    const { activeElement: active, body } = document;
    if (this.focused?.isConnected && (active === body || !active.checkVisibility())) this.focused.focus({ preventScroll: true });
    this.focused = null;
  }

  // --- what is seen ---

  say(text) {
    $("#status").textContent = text;
    $("#begin-status").textContent = text;
  }

  enable() {
    const able = !this.busy && this.page != null && this.weights != null; // the choices are there
    const chunks = this.episode?.chunks.length || 0;
    for (const button of document.querySelectorAll("#begin [type=submit], #act [type=submit], #usual button, #compare, #new, .rewind")) button.disabled = !able;
    for (const id of ["undo", "save"]) $(`#${id}`).disabled = !able || !chunks;
    $("#replay").disabled = !chunks;
    $("#cancel").disabled = !this.busy;
    $("#cancel-begin").hidden = !this.busy;
    for (const kind of ["mp4", "gif"]) {
      const link = $(`#${kind}`);
      const there = chunks > 0 && this.page != null;
      if (there) link.href = `open/${this.page}/clip.${kind}`;
      else link.removeAttribute("href");
      link.setAttribute("aria-disabled", !there);
    }
    $("#compare").setAttribute("aria-pressed", Boolean(this.episode?.compare));
  }

  usual() {
    const groups = Map.groupBy ? Map.groupBy(this.episode.actions, (a) => a.kind) : new Map([["", this.episode.actions]]);
    $("#usual").replaceChildren(...[...groups.values()].map((actions) => el("div", {}, ...actions.map((action) => {
      const keys = action.keys.filter((k) => k.length === 1).map((k) => el("kbd", {}, k.toUpperCase()));
      return el("button", { type: "button", onclick: () => this.act(action.text) }, action.text, ...keys);
    }))));
    this.walks = this.episode.actions.some((a) => a.keys.length);
    const keys = [["/", "write"], ["Esc", "cancel"], ["U", "undo"], ["Space", "replay"], ...(this.walks ? [["W A S D", "or arrows: walk"]] : [])];
    $("#keys").replaceChildren(...keys.flatMap(([key, what]) => [el("kbd", {}, key), `${what}  `]));
  }

  refresh() {
    const { chunks, compare, simulator } = this.episode;
    const wanted = { with: true, without: compare || chunks.some((c) => c.frames.without), executed: Boolean(simulator) };
    const own = this.episode.memory === "none" ? "Imagined" : `With ${this.episode.memory}`;
    const names = { with: own, without: "Without memory", executed: EXECUTED[simulator] };
    this.sides = SIDES.filter((side) => wanted[side]);
    const shown = this.sides.map((side) => names[side]).join();
    if ($("#views").dataset.shown !== shown) this.views(names);
    this.strip();
    this.plots();
    this.enable();
  }

  views(names) {
    const views = $("#views");
    views.dataset.shown = this.sides.map((side) => names[side]).join();
    views.dataset.count = this.sides.length;
    views.replaceChildren(...this.sides.map((side) => el("figure", { "data-side": side }, el("figcaption", {}, names[side]), el("img", { id: `view-${side}`, src: this.episode.first, alt: names[side] }))));
  }

  film(side, frames, slots) {
    const made = el("div", { class: "film", "data-side": side }, ...Array.from({ length: slots }, (_, i) => (frames?.[i] ? el("img", { src: frames[i], alt: "" }) : el("img", { class: "waiting", alt: "" }))));
    made.style.setProperty("--frames", slots);
    return made;
  }

  strip() {
    const items = this.episode.chunks.map((chunk) => {
      const films = SIDES.filter((side) => chunk.frames[side]).map((side) => this.film(side, chunk.frames[side], chunk.frames[side].length));
      const took = seconds(chunk.seconds.imagine + chunk.seconds.remember);
      return el("li", { id: `chunk-${chunk.number}` }, ...films,
        el("p", {}, `${chunk.number}. ${chunk.text}`),
        el("p", { class: "note" }, [took, chunk.note].filter(Boolean).join(" · ")),
        el("div", { class: "buttons" },
          el("button", { type: "button", class: "quiet", "aria-label": `Replay chunk ${chunk.number}`, onclick: () => this.replay(chunk.number, true) }, "Replay"),
          chunk.number < this.episode.chunks.length
            ? el("button", { type: "button", class: "quiet rewind", "aria-label": `Back to chunk ${chunk.number}`, onclick: () => this.undo(chunk.number) }, "Back to here")
            : null));
    });
    const start = el("li", { class: "first" }, this.film("with", [this.episode.first], 1), el("p", {}, "start"));
    $("#strip").replaceChildren(start, ...items);
    this.reveal();
  }

  stripPending() {
    const { number: n, text, frames } = this.streaming;
    if (n <= this.episode.chunks.length) return;
    const slots = this.episode.chunks.at(-1)?.frames.with.length || Math.max(4, frames.with?.length || 0);
    const item = el("li", { id: `chunk-${n}` }, ...SIDES.filter((s) => frames[s]).map((s) => this.film(s, frames[s], Math.max(slots, frames[s].length))), el("p", {}, `${n}. ${text}`));
    const old = $(`#chunk-${n}`);
    if (old) old.replaceWith(item);
    else $("#strip").append(item);
    this.reveal();
  }

  reveal() {
    const strip = $("#strip");
    strip.scrollLeft = strip.scrollWidth;
  }

  plots() {
    const { chunks, simulator, unit, unmeasured } = this.episode;
    chart($("#effect"), chunks.map((c) => c.effect), {
      kind: "bars", colour: "#145ca8", show: (v) => number(v, 3), label: "What memory changes, per chunk",
      empty: chunks.length ? "This memory does not measure it." : "Comes with the first chunk.",
    });
    $("#distance-plot").hidden = !simulator;
    const hands = simulator === "expert" ? "the expert does the same action" : "the actions read off the imagination are executed";
    $("#distance-note").textContent = this.walks
      ? `Distance (${unit}) between where the chunk was imagined to lead and where one stands when ${hands} in the simulator.`
      : `Distance (${unit}) between where a thing was imagined and where it is when ${hands} in the simulator; measured when it is put down.`;
    chart($("#distance"), chunks.map((c) => c.distance), {
      kind: "line", colour: "#b25400", show: (v) => number(v, v >= 10 ? 0 : 1), label: `Imagined against executed, ${unit}`,
      empty: unmeasured || (this.walks ? "Comes with the first chunk." : "Comes with the first chunk that puts something down."),
    });
  }

  caption(text, small) {
    $("#caption").replaceChildren(text || "", el("small", {}, small));
  }

  show(side, picture) {
    const view = $(`#view-${side}`);
    if (!view) return;
    if (picture) view.src = picture;
    view.classList.toggle("old", !picture);
  }

  // Show frame i of a chunk on every side; chunk 0 is the start.
  at(n, i) {
    const chunk = this.episode.chunks[n - 1];
    for (const side of this.sides) {
      const frames = chunk?.frames[side];
      this.show(side, frames ? frames[Math.min(i, frames.length - 1)] : chunk ? null : this.episode.first);
    }
    if (chunk) this.caption(chunk.text, `chunk ${n} · frame ${Math.min(i + 1, chunk.frames.with.length)}`);
    else this.caption("start", "");
  }

  replay(from, one = false) {
    this.pause();
    const chunks = this.episode.chunks.filter((c) => c.number >= from && (!one || c.number === from));
    const frames = chunks.flatMap((c) => c.frames.with.map((_, i) => [c.number, i]));
    if (from === 0) frames.unshift([0, 0]);
    if (!frames.length) return;
    const next = () => {
      const frame = frames.shift();
      if (!frame) return this.pause();
      this.at(...frame);
    };
    $("#replay").textContent = "Pause";
    next();
    this.timer = setInterval(next, 1000 / this.fps);
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    $("#replay").textContent = "Replay all";
  }
}
