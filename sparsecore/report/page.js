"use strict";
// What pointing at a panel says: the stop next to the pointer, and the series that have a value there.
const MOST_ROWS = 14;

function nearestStop(panel, x, y) {
  let best = -1, least = Infinity;
  panel.at.forEach((stop, index) => {
    let distance = Math.abs(stop - (panel.along === "y" ? y : x));
    if (panel.along === "xy") {
      const places = panel.rows.map(row => row.places[index]).filter(place => place !== null);
      distance = places.length ? Math.hypot(stop - x, places[0] - y) : Infinity;
    }
    if (distance < least) { least = distance; best = index; }
  });
  return best;
}

function rowsAt(panel, stop, other, hidden) {
  const there = panel.rows.filter(row => row.texts[stop] !== null && !hidden.has(row.key));
  const away = row => row.places[stop] === null ? Infinity : Math.abs(row.places[stop] - other);
  const near = [...there].sort((one, next) => away(one) - away(next)).slice(0, MOST_ROWS);
  const shown = there.filter(row => near.includes(row));
  return { shown, nearest: near[0], more: there.length - shown.length };
}

function valueOf(panel, row, stop) {
  return panel.unit ? row.texts[stop] + " " + panel.unit : row.texts[stop];
}

// The rest shows it in the page, switches between light and dark, and hides series.
function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fillTip(tip, panel, stop, found) {
  const lines = found.shown.map(row => element("div", {},
    element("i", { className: row.colour }),
    element("span", { textContent: row.name }),
    element("b", { textContent: valueOf(panel, row, stop) })));
  if (found.more) lines.push(element("div", { textContent: "and " + found.more + " more" }));
  tip.replaceChildren(element("strong", { textContent: panel.heads[stop] }), ...lines);
}

function placeTip(tip, x, y) {
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), width = document.documentElement.clientWidth;
  const left = x + 16 + box.width < width ? x + 16 : Math.max(4, Math.min(x - 16 - box.width, width - box.width - 4));
  const top = Math.max(4, Math.min(y + 16, window.innerHeight - box.height - 4));
  tip.style.transform = "translate(" + Math.round(left) + "px, " + Math.round(top) + "px)";
}

// Takes the cross and the tooltip away that are shown now.
let clear = () => {};

function attach(svg, panel, hidden, tip) {
  if (!panel.at.length) return;
  const marks = drawn("g", { class: "cross-marks" }), [left, top, right, bottom] = panel.box;
  svg.append(marks);
  const upright = panel.along === "y";
  let stop = -1;
  const leave = () => { stop = -1; marks.replaceChildren(); svg.classList.remove("pointed"); tip.hidden = true; };
  const show = (index, other, clientX, clientY) => {
    if (stop < 0) { clear(); clear = leave; }
    stop = index;
    const found = rowsAt(panel, index, other, hidden);
    if (!found.shown.length) return leave();
    const at = panel.at[index];
    const line = upright ? "M" + left + " " + at + "H" + right : "M" + at + " " + top + "V" + bottom;
    const spots = found.shown.filter(row => row.places[index] !== null).map(row => drawn("circle", {
      class: "spot " + row.colour, r: row === found.nearest ? 4.5 : 3,
      cx: upright ? row.places[index] : at, cy: upright ? at : row.places[index] }));
    marks.replaceChildren(drawn("path", { class: "cross", d: line }), ...spots);
    svg.classList.add("pointed");
    fillTip(tip, panel, index, found);
    placeTip(tip, clientX, clientY);
  };
  const point = event => {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    if (y < top - 12 || y > bottom + 12) return leave();
    show(nearestStop(panel, x, y), upright ? x : y, event.clientX, event.clientY);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") leave(); });
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(panel.at.length - 1, stop < 0 ? 0 : stop + step));
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const x = upright ? (left + right) / 2 : panel.at[next], y = upright ? panel.at[next] : (top + bottom) / 2;
    show(next, upright ? x : y, box.left + x * scale, box.top + y * scale);
  });
}

function switchTheme(root, button) {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    // a browser may refuse storage to files
    try { localStorage.setItem("sparsecore-theme", root.dataset.theme); } catch { /* not remembered */ }
    label();
  });
  system.addEventListener("change", label);
  label();
}

function start() {
  const root = document.documentElement;
  root.classList.add("js");
  switchTheme(root, document.getElementById("theme"));
  const tip = element("div", { id: "tip", hidden: true });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  for (const figure of document.querySelectorAll("figure.chart")) {
    const hidden = new Set();
    for (const box of figure.querySelectorAll(".legend input")) {
      box.addEventListener("change", () => {
        hidden[box.checked ? "delete" : "add"](box.value);
        for (const mark of figure.querySelectorAll(".mark." + box.value)) mark.classList.toggle("hidden", !box.checked);
      });
    }
    const panels = JSON.parse(figure.querySelector("script").textContent);
    figure.querySelectorAll("svg.plot").forEach((svg, number) => attach(svg, panels[number], hidden, tip));
  }
  document.addEventListener("pointerdown", event => { if (!event.target.closest("svg.plot")) clear(); });
  document.addEventListener("scroll", () => clear(), { passive: true });
}

if (typeof document !== "undefined") start();
