// The page's frame: its three parts, and one place for what went wrong.

import { connect } from "./api.js";
import { Play } from "./play.js";
import { Rate } from "./rate.js";
import { Runs } from "./runs.js";
import { $ } from "./tools.js";

const names = ["play", "runs", "rate"];
const error = $("#error");

function complain(text) {
  error.hidden = !text;
  $("p", error).textContent = text || "";
}
$("button", error).addEventListener("click", () => complain(""));

const runs = new Runs(complain);
const rate = new Rate(complain);
const play = new Play(complain, (message) => socket.send(message));
const socket = connect((message) => play.receive(message), complain);

function show(name, focus = false) {
  for (const each of names) {
    const tab = $(`#tab-${each}`);
    const chosen = each === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(`#${each}`).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  if (name === "runs") runs.show();
  if (name === "rate") rate.show();
  rate.visible = name === "rate";
  complain("");
}

names.forEach((name, i) => {
  const tab = $(`#tab-${name}`);
  tab.addEventListener("click", () => show(name));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      event.preventDefault();
      event.stopPropagation();
      show(names[(i + step + names.length) % names.length], true);
    }
  });
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, button, a, [role=tab], video, iframe");
  if (event.ctrlKey || event.metaKey || event.altKey || $("#play").hidden) return;
  if (event.key === "Escape") return play.cancel();
  if (event.target.id === "strip" && event.key.startsWith("Arrow")) return; // scrolls
  if (!typing || (event.target.matches("button, a") && event.key !== " " && event.key !== "Enter")) play.key(event);
});

show(names.includes(location.hash.slice(1)) ? location.hash.slice(1) : "play");
