// The report's own script. Texts of facts, models and recipes are only ever set as text, never as HTML.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function made(tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (name) node.className = name;
  return node;
}

// -- charts -------------------------------------------------------------------------------------

const touch = matchMedia("(pointer: coarse)").matches;
const settings = { responsive: true, displayModeBar: false, displaylogo: false, scrollZoom: false };

const narrow = () => innerWidth < 600;

function coloured(spec) {
  const layout = structuredClone(spec.layout);
  Object.assign(layout, { paper_bgcolor: css("--card"), plot_bgcolor: "rgba(0,0,0,0)" }); // a PNG is not see-through
  layout.font = { ...layout.font, color: css("--text"), family: getComputedStyle(document.body).fontFamily };
  layout.hoverlabel = { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--text") }, align: "left" };
  layout.dragmode = touch ? false : "zoom";
  for (const name of ["xaxis", "yaxis"]) {
    if (layout[name]) Object.assign(layout[name], { gridcolor: css("--grid"), linecolor: css("--line"), fixedrange: touch });
  }
  if (layout.polar) {
    layout.polar.bgcolor = "rgba(0,0,0,0)";
    for (const axis of ["radialaxis", "angularaxis"]) {
      Object.assign(layout.polar[axis], { gridcolor: css("--grid"), linecolor: css("--line") });
    }
    layout.polar.radialaxis.tickfont = { size: 10, color: css("--soft") };
    if (narrow()) {
      const lines = layout.polar.angularaxis.ticktext.flatMap((name) => name.split("<br>"));
      const side = 10 + 5.6 * Math.max(...lines.map((line) => line.length)); // of a name beside the circle
      layout.polar.angularaxis.tickfont = { size: 10 };
      layout.polar.radialaxis.tickvals = [50, 100];
      Object.assign(layout, { margin: { l: side, r: side, t: 32, b: 24 }, height: layout.height - 70 });
    }
  }
  if (narrow()) layout.font.size = 11;
  for (const shape of layout.shapes || []) shape.line.color = css("--soft");
  return layout;
}

function drawn(figure) {
  const id = figure.dataset.figure;
  const spec = data.figures[id].spec;
  const plot = figure.querySelector(".plot");
  plot.style.minHeight = "";
  const traces = structuredClone(spec.data);
  // numbers in the cells say what the scale says, and a phone has no room for both
  for (const trace of traces) if (narrow() && trace.texttemplate) Object.assign(trace, { showscale: false, textfont: { size: 10 } });
  // nor for names beside points: a touch tells them
  for (const trace of traces) if (narrow() && trace.mode) trace.mode = trace.mode.replace("+text", "");
  return Plotly.react(plot, traces, coloured(spec), settings);
}

// one at a time, so that the page can be read and used meanwhile
async function drawShown() {
  delete document.body.dataset.drawn;
  for (const figure of document.querySelectorAll("figure[data-figure]:not([hidden])")) {
    drawn(figure);
    await new Promise((done) => setTimeout(done));
  }
  document.body.dataset.drawn = "all";
}

for (const group of document.querySelectorAll("[data-group]")) {
  const selects = [...group.querySelectorAll("select[data-choice]")];
  const figures = [...group.querySelectorAll("figure")];
  const fits = (figure, select) => data.figures[figure.dataset.figure].choice[select.dataset.choice] === select.value;
  for (const changed of selects) {
    changed.addEventListener("change", () => {
      const able = figures.filter((figure) => fits(figure, changed));
      const chosen = able.find((figure) => selects.every((select) => fits(figure, select))) || able[0];
      for (const select of selects) select.value = data.figures[chosen.dataset.figure].choice[select.dataset.choice];
      for (const figure of figures) figure.hidden = figure !== chosen;
      drawn(chosen);
    });
  }
}

// -- downloads ----------------------------------------------------------------------------------

function saved(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { csv, png } = button.dataset;
  if (csv) saved(data.figures[csv].csv, `${data.name}_${csv}.csv`, "text/csv;charset=utf-8");
  if (png) {
    const plot = document.getElementById(`plot-${png}`);
    const bounds = plot.getBoundingClientRect();
    Plotly.downloadImage(plot, { format: "png", filename: `${data.name}_${png}`, width: bounds.width, height: bounds.height, scale: 3 });
  }
  if ("copy" in button.dataset) {
    const block = button.parentElement.querySelector("pre");
    getSelection().selectAllChildren(block);
    const done = await copied(block.textContent);
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
});

function copied(text) {
  if (!navigator.clipboard) return Promise.resolve(false);
  return navigator.clipboard.writeText(text).then(() => true, () => false);
}

// -- light and dark -----------------------------------------------------------------------------

const theme = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);

function themed() {
  theme.setAttribute("aria-pressed", String(isDark()));
  theme.setAttribute("aria-label", "Dark colours");
  theme.textContent = isDark() ? "☾ Dark" : "☀ Light";
}

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  themed();
  drawShown();
});
prefersDark.addEventListener("change", () => { themed(); drawShown(); });

// -- facts --------------------------------------------------------------------------------------

const STEP = 20;
const CHOSE = "chose the merge";
const facts = data.facts;
let most = STEP;

const share = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(value === 1 || value === 0 ? 0 : 1)} %`);

function answer(text) {
  if (text === null || text === undefined) return made("span", "not generated", "empty");
  return text.trim() ? made("span", text) : made("span", "(nothing)", "empty");
}

function cell(head, content, name) {
  const node = made("td", undefined, name);
  node.dataset.head = head;
  node.append(content);
  return node;
}

function badge(value, good, bad) {
  if (value === null) return made("span", "not compared", "badge none");
  return made("span", value ? good : bad, value ? "badge good" : "badge bad");
}

function probeList(fact) {
  const box = made("div");
  for (const probe of fact.probes) {
    const one = made("div", undefined, "probe");
    const about = made("p");
    about.append(badge(probe.right, "right", "wrong"), ` ${probe.aspect.replace("_", " ")}${probe.kind ? `, ${probe.kind}` : ""}`);
    const asked = made("p", probe.prompt);
    asked.append(made("span", `  wanted: ${probe.wanted}`, "soft"));
    const before = made("p", "before: ", "soft");
    before.append(answer(probe.before));
    const after = made("p", "after: ");
    after.append(answer(probe.after));
    one.append(about, asked, before, after);
    box.append(one);
  }
  return box;
}

function cellList(fact) {
  const box = made("div");
  const said = new Map(fact.answers);
  fact.cells.forEach((found, at) => {
    const one = made("p", undefined, "probe");
    const [value, failed] = found || [null, null];
    one.append(badge(found ? !failed : null, share(value), share(value)), ` ${data.cells[at]}`);
    if (failed && value === 1) one.append(" (the generated answer is wrong)");
    if (said.has(at)) one.append(": ", answer(said.get(at)));
    box.append(one);
  });
  return box;
}

function rowsOf(fact) {
  const row = made("tr", undefined, fact.failed ? "failed" : "");
  const name = made("th");
  name.scope = "row";
  name.append(badge(!fact.failed, data.cells ? "every cell" : "right", data.cells ? `missed ${fact.missed}×` : "failed"));
  name.append(document.createElement("br"), made("span", fact.id, "soft"));
  if (fact.chose) name.append(document.createElement("br"), made("span", CHOSE, "badge none"));
  row.append(name, cell("prompt", made("span", fact.prompt), "text"), cell("new answer", made("span", fact.wanted)));
  row.append(cell("before", answer(fact.before), "text"));
  if (!data.cells) {
    row.append(cell("after", answer(fact.after), "text"));
    fact.scores.forEach((value, at) => row.append(cell(data.heads[at], made("span", share(value)), "score")));
  }
  const inner = data.cells ? cellList(fact) : fact.probes.length ? probeList(fact) : null;
  const long = [fact.prompt, fact.before, fact.after].some((text) => text && text.length > 60);
  if (!inner && !long) return [row];
  const button = made("button", data.cells ? "cells" : inner ? `probes (${fact.probes.length})` : "whole", "quiet");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `${button.textContent} of ${fact.id}`);
  const below = made("tr", undefined, "probes");
  below.hidden = true;
  const wide = made("td");
  wide.colSpan = row.children.length;
  if (inner) wide.append(inner);
  below.append(wide);
  button.addEventListener("click", () => {
    const open = row.classList.toggle("open");
    below.hidden = !open || !inner;
    button.setAttribute("aria-expanded", String(open));
  });
  name.append(document.createElement("br"), button);
  return [row, below];
}

const words = new Map();
function textOf(fact) {
  if (!words.has(fact)) {
    const probes = (fact.probes || []).flatMap((probe) => [probe.prompt, probe.wanted, probe.before, probe.after]);
    const others = (fact.answers || []).map(([, text]) => text);
    words.set(fact, [fact.id, fact.chose ? CHOSE : "", fact.prompt, fact.wanted, fact.before, fact.after, ...probes, ...others].join("\n").toLowerCase());
  }
  return words.get(fact);
}

const orders = {
  failed: null, // as they come
  edits: (a, b) => a.at - b.at,
  ...Object.fromEntries((data.heads || []).map((head, at) => [head, (a, b) => (a.scores[at] ?? 2) - (b.scores[at] ?? 2)])),
};

function showFacts() {
  const body = document.querySelector("#fact-table tbody");
  const wanted = document.getElementById("search").value.trim().toLowerCase();
  const only = document.getElementById("failed").checked;
  const found = facts.filter((fact) => (!only || fact.failed) && (!wanted || textOf(fact).includes(wanted)));
  const order = orders[document.getElementById("order").value];
  if (order) found.sort(order);
  body.replaceChildren(...found.slice(0, most).flatMap(rowsOf));
  const failing = found.filter((fact) => fact.failed).length;
  document.getElementById("count").textContent = `${found.length} of ${data.all} facts, ${failing} failed`;
  document.getElementById("further").hidden = found.length <= most;
}

if (document.getElementById("fact-table")) {
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["search", "failed", "order"]) {
    document.getElementById(id).addEventListener("input", () => { most = STEP; showFacts(); });
  }
  document.getElementById("further").addEventListener("click", () => { most += STEP; showFacts(); });
  showFacts();
}

themed();
drawShown();
