"""The report's style sheet: light, readable on a phone, no colour without a word beside it."""

STYLE = """
:root { --ink: #181c24; --faint: #596273; --line: #dfe3ea; --imagined: #145ca8; --executed: #b25400; }
* { box-sizing: border-box; }
body {
  margin: 0;
  background: #f6f7f9;
  color: var(--ink);
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif;
}
main { max-width: 1100px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; }
h1::first-letter { text-transform: uppercase; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
h3 { font-size: .95rem; font-weight: 400; color: var(--faint); margin: 1rem 0 .4rem; }
.kicker { margin: 0; color: var(--faint); font-family: ui-monospace, monospace; }
.ask, blockquote { color: var(--faint); margin: .3rem 0 0; }
blockquote {
  border-left: 4px solid var(--line);
  padding-left: .8rem;
  font-size: 1.05rem;
  color: var(--ink);
}
section {
  background: #fff;
  border: 1px solid var(--line);
  border-radius: 10px;
  padding: 1rem 1.2rem;
  margin-top: 1rem;
}
.cards {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(190px, 1fr));
  gap: 1rem;
  margin: 0;
}
.card { border-top: 4px solid var(--line); padding-top: .4rem; }
.card.imagined { border-color: var(--imagined); }
.card.executed { border-color: var(--executed); }
.card dt { color: var(--faint); }
.card dd { margin: 0; }
.card strong { display: block; font-size: 1.8rem; line-height: 1.2; }
.card span, .note, figcaption { color: var(--faint); font-size: .87rem; }
b.imagined { color: var(--imagined); }
b.executed { color: var(--executed); }
.parts {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: .2rem 1.5rem;
  margin: 0;
}
.parts div { display: flex; gap: .8rem; border-bottom: 1px solid var(--line); padding: .15rem 0; }
.parts dt { color: var(--faint); min-width: 8.5rem; }
.parts dd { margin: 0; overflow-wrap: anywhere; }
.media {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 1rem;
  align-items: start;
}
figure { margin: 0; }
video, .media img { width: 100%; height: auto; display: block; border-radius: 6px; }
.strip {
  list-style: none;
  margin: 0;
  padding: 0;
  display: grid;
  gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr));
}
.strip img {
  width: 100%;
  display: block;
  image-rendering: pixelated;
  border: 2px solid;
  margin-bottom: 3px;
  border-radius: 3px;
}
.strip img.imagined { border-color: var(--imagined); }
.strip img.executed { border-color: var(--executed); }
.strip span { font-size: .78rem; line-height: 1.25; display: block; }
.badge {
  font-size: .8rem;
  font-weight: 600;
  padding: .1rem .5rem;
  border-radius: 99px;
  white-space: nowrap;
}
.badge.ok { background: #dff3e4; color: #14592a; }
.badge.no { background: #fde4e1; color: #8c1d14; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td {
  text-align: left;
  padding: .35rem .6rem;
  border-bottom: 1px solid var(--line);
  vertical-align: top;
}
thead th { color: var(--faint); font-weight: 600; white-space: nowrap; }
td:nth-child(2) { min-width: 16rem; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
a { color: var(--imagined); }
:focus-visible { outline: 3px solid #ffbf47; outline-offset: 2px; }
@media print { section { break-inside: avoid; } }
"""
