// Interactive plots of the rows shown. Plotly is in the page, compressed, and unpacked once.
const MOST_POINTS = 5000, MOST_BARS = 40;
const GIB = 2 ** -30;
const PARTS = ["encode", "denoise", "decode", "rest"];
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c82", "#b2a300"];
const PLOTS = {
  latency: {title: "latency by resolution", draw: () => bySize("latency_s", 1, "latency [s]")},
  memory: {title: "memory by resolution", draw: () => bySize("memory", GIB, "memory [GiB]")},
  parts: {title: "where the time goes", draw: parts},
  roofline: {title: "roofline", draw: roofline},
  ...(DATA.quality?.length ? {quality: {title: "quality", draw: quality}} : {}),
};
const narrow = matchMedia("(max-width: 60rem)");
let current = "latency";

const plotly = (async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(element("script", await new Response(unpacked).text()));
  return window.Plotly;
})();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(more) {
  const axis = {gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--faint"), automargin: true};
  return {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: {color: colour("--ink"), family: "system-ui, sans-serif", size: 13},
    margin: {l: 60, r: 20, t: 20, b: 50}, hovermode: "closest", showlegend: true,
    legend: {font: {size: 11}, itemwidth: 30, ...(narrow.matches ? {orientation: "h", y: -0.2} : {})},
    hoverlabel: {bgcolor: colour("--raised"), bordercolor: colour("--line"), font: {color: colour("--ink")}},
    ...more, xaxis: {...axis, ...more.xaxis}, yaxis: {...axis, ...more.yaxis},
  };
}

// Text in a plot may hold a few HTML tags: what comes from rows holds none.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// What tells a row from the others that are shown.
const SAID = {
  model: (model) => model, target: (target) => target, resolution: (side) => `${side} px`, dtype: (dtype) => dtype,
  steps: (steps) => `${steps} steps`, profile: (profile) => profile, batch_size: (count) => `batch ${count}`,
  vram_bytes: (bytes) => `card of ${shown(bytes * GIB)} GiB`, device_name: (device) => device,
};

function name(row, ...without) {
  const keys = Object.keys(SAID).filter((key) => !without.includes(key) && (key === "model" || varies(key)));
  return plain(keys.map((key) => [key, value(key, row)]).filter(([, what]) => what !== null).map(([key, what]) => SAID[key](what)).join(", "));
}

function varies(key) {
  const first = value(key, state.rows[0]);
  return state.rows.some((row) => value(key, row) !== first);
}

function ended() {
  return state.rows.filter((row) => value("status", row) === "ok");
}

function bySize(key, scale, title) {
  const series = new Map();
  for (const row of ended()) {
    if (value(key, row) === null) continue;
    const called = name(row, "resolution");
    series.set(called, [...(series.get(called) ?? []), row]);
  }
  const traces = [...series].map(([called, rows], place) => {
    rows.sort((a, b) => value("resolution", a) - value("resolution", b));
    return {
      name: called, mode: "lines+markers", x: rows.map((row) => value("resolution", row)),
      y: rows.map((row) => value(key, row) * scale), line: {color: COLOURS[place % COLOURS.length]},
      hovertemplate: `${called}<br>%{x} px: %{y:.3g}<extra></extra>`,
    };
  });
  const sides = [...new Set(traces.flatMap((trace) => trace.x))];
  return [traces, {
    xaxis: {title: {text: "resolution [px]"}, type: "log", tickvals: sides, ticktext: sides.map(String)},
    yaxis: {title: {text: title}, type: "log"},
  }];
}

function parts() {
  const rows = ended().filter((row) => PARTS.some((part) => value(`${part}_s`, row) !== null)).slice(0, MOST_BARS).reverse();
  const traces = PARTS.map((part, place) => ({
    name: part, type: "bar", orientation: "h", y: rows.map((row) => name(row)), x: rows.map((row) => value(`${part}_s`, row)),
    marker: {color: COLOURS[place]}, hovertemplate: `${part}: %{x:.3g} s<extra>%{y}</extra>`,
  }));
  const high = {height: Math.max(320, 60 + 22 * rows.length)};
  return [rows.length ? traces : [], {barmode: "stack", xaxis: {title: {text: "seconds"}}, yaxis: {tickfont: {size: 11}}, ...high}];
}

function roofline() {
  const rows = ended().filter((row) => ["latency_s", "flops", "moved_bytes"].every((key) => value(key, row) > 0));
  const points = {
    name: "rows", mode: "markers", x: rows.map((row) => value("flops", row) / value("moved_bytes", row)),
    y: rows.map((row) => value("flops", row) / value("latency_s", row) / 1e12), text: rows.map((row) => name(row)),
    marker: {color: COLOURS[0], size: 8}, hovertemplate: "%{text}<br>%{x:.3g} FLOP/byte, %{y:.3g} TFLOP/s<extra></extra>",
  };
  const roofs = new Map(rows.filter((row) => value("peak_flops_per_s", row) > 0 && value("peak_bytes_per_s", row) > 0).map(
    (row) => [plain(`${value("device_name", row)}, ${value("dtype", row)}`), row]));
  const traces = [...roofs].map(([called, row], place) => {
    const [flops, bytes] = [value("peak_flops_per_s", row), value("peak_bytes_per_s", row)], ridge = flops / bytes;
    return {
      name: `roof: ${called}`, mode: "lines", x: [ridge / 100, ridge, ridge * 100], y: [flops / 1e14, flops / 1e12, flops / 1e12],
      line: {color: COLOURS[(place + 1) % COLOURS.length], width: 1.5}, hoverinfo: "skip",
    };
  });
  const axes = {xaxis: {title: {text: "FLOP per byte moved"}, type: "log"}, yaxis: {title: {text: "TFLOP/s"}, type: "log"}};
  return [rows.length ? [points, ...traces] : [], axes];
}

function quality() {
  const traces = [...new Set(DATA.quality.map((line) => line.device))].map((device, place) => {
    const own = DATA.quality.filter((line) => line.device === device);
    return {
      name: plain(device), mode: "markers", x: own.map((line) => line.latency_s), y: own.map((line) => line.quality),
      text: own.map((line) => plain(`${line.model}, ${line.steps} steps, ${shown(line.peak_memory_bytes * GIB)} GiB`)),
      marker: {
        color: COLOURS[place % COLOURS.length], size: own.map((line) => 6 + 3 * Math.sqrt(line.peak_memory_bytes * GIB)),
        line: {width: own.map((line) => line.efficient ? 2.5 : 0), color: colour("--ink")},
      },
      hovertemplate: "%{text}<br>%{x:.3g} s per image, %{y:.4g}<extra></extra>",
    };
  });
  const up = DATA.quality[0].higher_is_better ? "higher" : "lower";
  return [traces, {
    xaxis: {title: {text: "latency [s per image]"}, type: "log"}, yaxis: {title: {text: plain(`${DATA.quality[0].metric} (${up} is better)`)}},
  }];
}

async function drawPlot() {
  const Plotly = await plotly, place = document.getElementById("plot"), note = document.getElementById("plot-note");
  const [traces, more] = state.rows.length ? PLOTS[current].draw() : [[], {}];
  const points = traces.reduce((sum, trace) => sum + trace.x.length, 0);
  note.textContent = points > MOST_POINTS ? `${points} points are too many to draw: filter the rows.`
    : !points ? "None of the rows shown has what this plot needs."
    : current === "parts" ? `The first ${traces[0].x.length} of the rows shown whose parts were measured.`
    : current === "quality" ? "Every measured pairing; rings mark those that no other of the same device beats." : "";
  if (!points || points > MOST_POINTS) return Plotly.purge(place);
  await Plotly.react(place, traces, layout(more), {responsive: true, displaylogo: false, displayModeBar: false});
  place.dataset.drawn = current;
}

async function drawSamples(place, samples) {
  const Plotly = await plotly;
  const trace = {mode: "markers", x: samples.map((_, i) => i + 1), y: samples, marker: {color: COLOURS[0], size: 6},
                 hovertemplate: "%{x}: %{y:.4g} s<extra></extra>"};
  Plotly.newPlot(place, [trace], layout({height: 180, showlegend: false, yaxis: {title: {text: "s"}}}), {responsive: true, displayModeBar: false});
}

function buildTabs() {
  const tabs = document.getElementById("tabs");
  for (const [key, {title}] of Object.entries(PLOTS)) {
    const tab = element("button", title, {type: "button", id: `tab-${key}`});
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "plot");
    tab.addEventListener("click", () => choose(key));
    tab.addEventListener("keydown", (event) => {
      const keys = Object.keys(PLOTS), step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (step) choose(keys[(keys.indexOf(key) + step + keys.length) % keys.length], true);
    });
    tabs.append(tab);
  }
  choose(current);
}

function choose(key, focus = false) {
  current = key;
  for (const other of Object.keys(PLOTS)) {
    const tab = document.getElementById(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === key));
    tab.tabIndex = other === key ? 0 : -1;
    if (other === key && focus) tab.focus();
  }
  document.getElementById("plot").setAttribute("aria-labelledby", `tab-${key}`);
  drawPlot();
}

// ---- light and dark; paper shows every row

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => drawPlot());
document.getElementById("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  drawPlot();
});
window.addEventListener("beforeprint", () => { state.page = 0; drawTable(DATA.rows); });
window.addEventListener("afterprint", () => drawTable(PAGE));

readAddress();
buildFilters();
buildHead();
state.rows = [...Array(DATA.rows).keys()];
buildTabs();
changed(true);
