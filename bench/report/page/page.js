"use strict";
// The table, its filters and the dialog of a row; plots are in plots.js, which comes after.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLUMNS = [
  {key: "model", title: "model"}, {key: "target", title: "target"}, {key: "device_name", title: "GPU"},
  {key: "resolution", title: "px", number: true}, {key: "batch_size", title: "batch", number: true},
  {key: "dtype", title: "dtype"}, {key: "steps", title: "steps", number: true}, {key: "profile", title: "profile"},
  {key: "vram_bytes", title: "card [GiB]", number: true, scale: 2 ** -30},
  {key: "latency_s", title: "latency [s]", number: true, cell: latencyCell},
  {key: "step_s", title: "step [s]", number: true}, {key: "images_per_s", title: "images/s", number: true},
  {key: "speedup_vs_sdxl", title: "x sdxl", number: true},
  {key: "memory", title: "memory [GiB]", number: true, scale: 2 ** -30},
  {key: "energy_j", title: "J/image", number: true}, {key: "weights", title: "weights"},
];
const FILTERS = {
  model: "model", target: "target", device_name: "GPU", resolution: "resolution", dtype: "dtype", profile: "profile",
  vram_bytes: "VRAM cap", status: "outcome",
};
const WORDS = {oom: "out of memory", timeout: "timed out", unsupported: "not possible", failed: "failed"};
const PAGE = 200;
const state = {text: "", chosen: {}, sort: null, down: false, page: 0, rows: []};

function value(key, row) {
  if (key === "memory") {
    return value("peak_reserved_bytes", row) ?? value("rss_peak_bytes", row);
  }
  const column = DATA.columns[key];
  if (column === undefined) return null;
  if (Array.isArray(column)) return column[row];
  return column.codes[row] < 0 ? null : column.texts[column.codes[row]];
}

function shown(number, digits = 3) {
  if (number === null) return "";
  if (Number.isInteger(number)) return String(number);
  return new Intl.NumberFormat("en", {maximumSignificantDigits: digits, minimumSignificantDigits: digits, useGrouping: false})
    .format(number);
}

function element(tag, text, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== null) made.textContent = text;
  made.append(...children);
  return made;
}

function latencyCell(row, cell) {
  const status = value("status", row);
  if (status !== "ok") {
    cell.classList.add("bad");
    cell.textContent = WORDS[status] ?? status;
    return;
  }
  const low = value("latency_low_s", row), high = value("latency_high_s", row);
  const between = low === null
    ? `${shown(value("latency_min_s", row))} to ${shown(value("latency_max_s", row))}`
    : `[${shown(low)}, ${shown(high)}]`;
  cell.append(shown(value("latency_s", row)) + " ", element("span", between, {className: "between"}));
}

// ---- filters, kept in the address so that a view can be shared

function label(key, choice) {
  if (choice === null) return key === "vram_bytes" ? "none: the whole card" : "none";
  if (key === "vram_bytes") return `${shown(choice * 2 ** -30)} GiB`;
  return key === "status" ? WORDS[choice] ?? choice : String(choice);
}

function choices(key) {
  const found = new Set();
  for (let row = 0; row < DATA.rows; row++) found.add(value(key, row));
  return [...found].sort((a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}

function buildFilters() {
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  const search = element("input", null, {type: "search", placeholder: "model, GPU, profile …", id: "search"});
  search.setAttribute("aria-label", "Rows with this text");
  search.value = state.text;
  search.addEventListener("input", () => { state.text = search.value; changed(); });
  form.append(search);
  for (const [key, title] of Object.entries(FILTERS)) {
    const all = choices(key);
    if (all.length < 2) continue;
    const box = element("div", null, {className: "choices"});
    const details = element("details", null, {}, element("summary", title), box);
    details.dataset.key = key;
    for (const choice of all) {
      const tick = element("input", null, {type: "checkbox", checked: state.chosen[key]?.has(String(choice)) ?? false});
      tick.addEventListener("change", () => {
        const chosen = state.chosen[key] ??= new Set();
        if (tick.checked) chosen.add(String(choice)); else chosen.delete(String(choice));
        changed();
      });
      box.append(element("label", null, {}, tick, " " + label(key, choice)));
    }
    form.append(details);
  }
  const clear = element("button", "clear", {type: "button", id: "clear"});
  clear.addEventListener("click", () => {
    state.text = search.value = "";
    state.chosen = {};
    form.querySelectorAll("input[type=checkbox]").forEach((tick) => { tick.checked = false; });
    changed();
  });
  form.append(clear);
  document.addEventListener("click", (event) => closeOthers(event.target));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeOthers(null); });
}

function closeOthers(inside) {
  for (const open of document.querySelectorAll("#filters details[open]")) {
    if (open.contains(inside)) continue;
    if (open.contains(document.activeElement)) open.querySelector("summary").focus();
    open.open = false;
  }
}

function matches(row) {
  for (const [key, chosen] of Object.entries(state.chosen)) {
    if (chosen.size && !chosen.has(String(value(key, row)))) return false;
  }
  if (!state.text) return true;
  const all = ["model", "target", "device_name", "dtype", "profile", "weights"].map((key) => value(key, row)).join(" ").toLowerCase();
  return state.text.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state.text = asked.get("text") ?? "";
  state.sort = COLUMNS.some((column) => column.key === asked.get("sort")) ? asked.get("sort") : null;
  state.down = asked.get("down") === "1";
  for (const key of Object.keys(FILTERS)) {
    if (asked.has(key)) state.chosen[key] = new Set(asked.getAll(key));
  }
}

function writeAddress() {
  const said = new URLSearchParams();
  if (state.text) said.set("text", state.text);
  if (state.sort) said.set("sort", state.sort);
  if (state.down) said.set("down", "1");
  for (const [key, chosen] of Object.entries(state.chosen)) for (const choice of chosen) said.append(key, choice);
  history.replaceState(null, "", said.size ? "#" + said : location.pathname + location.search);
}

// ---- the table

function buildHead() {
  const line = element("tr", null);
  for (const column of COLUMNS.filter(filled)) {
    const button = element("button", column.title, {type: "button"});
    button.addEventListener("click", () => {
      state.down = state.sort === column.key ? !state.down : false;
      state.sort = column.key;
      changed();
    });
    const head = element("th", null, {scope: "col", className: column.number ? "number" : ""}, button);
    head.dataset.key = column.key;
    line.append(head);
  }
  document.querySelector("#table thead").append(line);
}

function filled(column) {
  for (let row = 0; row < DATA.rows; row++) if (value(column.key, row) !== null) return true;
  return false;
}

function compare(key) {
  const way = state.down ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(key, a), value(key, b)];
    if (x === null || y === null) return (x === null) - (y === null);  // what was not measured comes last
    return way * (typeof x === "number" ? x - y : x.localeCompare(y));
  };
}

function changed(first = false) {
  state.rows = [...Array(DATA.rows).keys()].filter(matches);
  if (state.sort) state.rows.sort(compare(state.sort));
  state.page = 0;
  if (!first) writeAddress();
  document.querySelectorAll("#filters details").forEach((details) => {
    details.classList.toggle("on", Boolean(state.chosen[details.dataset.key]?.size));
  });
  document.querySelectorAll("#table th").forEach((head) => {
    if (head.dataset.key === state.sort) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  document.getElementById("shown").textContent = `${state.rows.length} of ${DATA.rows} rows`;
  drawTable(PAGE);
  drawPlot();
}

function drawTable(most) {
  const columns = COLUMNS.filter(filled);
  const lines = state.rows.slice(state.page * PAGE, state.page * PAGE + most).map((row) => {
    const line = element("tr", null);
    for (const column of columns) {
      const cell = element("td", null, {className: column.number ? "number" : ""});
      if (column.key === "model") {
        const open = element("button", value("model", row), {type: "button"});
        open.addEventListener("click", () => openRow(row));
        cell.append(open);
      } else if (column.cell) column.cell(row, cell);
      else if (column.number) {
        const number = value(column.key, row);
        cell.textContent = number === null ? "" : shown(number * (column.scale ?? 1));
      } else cell.textContent = value(column.key, row) ?? "";
      line.append(cell);
    }
    return line;
  });
  document.querySelector("#table tbody").replaceChildren(...lines);
  drawPages();
}

function drawPages() {
  const pages = Math.ceil(state.rows.length / PAGE), place = document.getElementById("pages");
  if (pages < 2) return place.replaceChildren();
  const turn = (text, to) => {
    const button = element("button", text, {type: "button", disabled: to < 0 || to >= pages});
    button.addEventListener("click", () => { state.page = to; drawTable(PAGE); });
    return button;
  };
  place.replaceChildren(turn("earlier", state.page - 1), turn("further", state.page + 1), `page ${state.page + 1} of ${pages}`);
}

// ---- one row: what its table line leaves out

function facts(pairs) {
  const list = element("dl", null);
  for (const [name, fact] of pairs) {
    if (fact === null || fact === undefined || fact === "") continue;
    list.append(element("dt", name), element("dd", typeof fact === "number" ? shown(fact, 6) : String(fact)));
  }
  return list;
}

function openRow(row) {
  const dialog = document.getElementById("row");
  const close = element("button", "close", {type: "button", className: "close"});
  close.addEventListener("click", () => dialog.close());
  const title = `${value("model", row)} on ${value("device_name", row) ?? "an unknown device"}`;
  const names = Object.keys(DATA.columns).filter((key) => key !== "model" && key !== "device_name");
  dialog.replaceChildren(close, element("h3", title, {id: "row-title"}), facts(names.map((key) => [key, value(key, row)])));
  if (DATA.whole) {
    const samples = DATA.samples[row];
    dialog.append(element("h4", `${samples.length} samples, in seconds, in the order they were taken`));
    const strip = element("div", null, {id: "samples"});
    dialog.append(strip, element("p", samples.map((sample) => shown(sample, 4)).join(", "), {className: "faint"}));
    dialog.append(element("h4", "Environment"), facts(Object.entries(DATA.environments[DATA.environment[row]] ?? {})));
    if (samples.length) drawSamples(strip, samples);
  } else dialog.append(element("p", `A median over rows: of ${DATA.of} rows the page leaves out samples and environments.`));
  dialog.showModal();
}
