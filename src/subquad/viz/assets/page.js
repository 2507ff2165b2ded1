"use strict";
// What surrounds the maps: choice of layer and head, one query laid on its input, overview, numbers.
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const make = (tag, told = {}, ...inside) => { const e = Object.assign(document.createElement(tag), told); e.append(...inside); return e; };
const number = v => v === 0 ? "0" : Math.abs(v) >= 0.001 ? v.toFixed(4) : v.toExponential(2);
const VIEWS = [];
let query = null;

DATA.models.forEach((model, m) => {
  const layers = make("select", { ariaLabel: "Layer" }), heads = make("select", { ariaLabel: "Head" });
  layers.id = `layer-${m}`; heads.id = `head-${m}`;
  model.layers.forEach((layer, i) => layers.append(new Option(`${layer.title}, ${layer.kind}`, i)));
  const canvas = make("canvas", { className: "map", tabIndex: 0 }), readout = make("p", { className: "readout" });
  canvas.id = `map-${m}`; canvas.setAttribute("role", "img"); readout.setAttribute("aria-live", "polite");
  $("models").append(make("figure", {}, make("figcaption", {}, model.title),
    make("div", { className: "bar" }, make("label", {}, "Layer ", layers), make("label", {}, "Head ", heads)), canvas, readout));
  const view = new MapView(canvas, part => VIEWS.forEach(v => v !== view && v.follow(part)), pick, (q, k, found) => { readout.textContent = told(model, view.layer, q, k, found); });
  Object.assign(view, { model, layers, heads, readout });
  VIEWS.push(view);
  layers.onchange = () => { fill(view); choose(view); };
  heads.onchange = () => choose(view);
});

function name(model, axis, count, n) { const names = named(model.labels, axis, count); return names ? `${n} “${shown(names[n])}”` : String(n); }
function told(model, layer, q, k, found) {
  const over = found.down * found.across > 1 ? `, a mean of ${found.down} queries over ${found.across} keys` : "";
  return `from ${layer.queriesAre} ${name(model, layer.queriesAre, layer.queries, q)} to ${layer.keysAre} ${name(model, layer.keysAre, layer.keys, k)}: ${number(found.value)}${over}`;
}

function fill(view) {
  const layer = view.model.layers[view.layers.value], old = view.heads.value;
  view.heads.replaceChildren(...layer.heads.map((head, i) => new Option(head.title, i)));
  if (old && old < layer.heads.length) view.heads.value = old;
}
function choose(view) {
  const layer = view.model.layers[view.layers.value], head = layer.heads[view.heads.value];
  view.show(layer, head, view.model.labels);
  view.canvas.setAttribute("aria-label", `${layer.title}, ${head.title}: ${layer.queries} by ${layer.keys} weights. Arrows move, plus and minus zoom, 0 shows all.`);
  const last = head.levels[head.levels.length - 1], kept = Object.keys(last.tiles).length;
  const part = last.whole ? "" : ` Single tokens are kept where most weight is: ${kept} of ${last.of} tiles.`;
  view.readout.textContent = `${layer.name}: ${layer.note}${part}`;
  document.querySelectorAll(`.heads button[data-model="${VIEWS.indexOf(view)}"]`).forEach(b => b.setAttribute("aria-pressed", b.dataset.layer === view.layers.value && b.dataset.head === view.heads.value));
  if (query === null || query >= layer.queries) query = layer.queries - 1;
  pick(query);
}

function pick(q) {
  query = q; $("query").value = q;
  VIEWS.forEach(v => { if (v.layer) { v.query = q < v.layer.queries ? q : null; v.draw(); } });
  rows();
}
async function rows() {
  const made = [];
  for (const view of VIEWS) {
    const { layer, head, model } = view;
    if (!layer) continue;
    const weights = query < layer.queries ? await view.tiles.row(head, query, layer.keys) : null;
    const block = make("div", { className: "row" }, make("h3", {}, `${model.title}: ${layer.title}, ${head.title}`));
    if (!weights) block.append(make("p", {}, head.rowsKept.length ? `Weights token by token are kept here of the queries ${head.rowsKept.join(", ")}.` : "This view is kept by blocks of tokens alone."));
    else block.append(...laid(model, layer, weights));
    made.push(block);
  }
  $("rows").replaceChildren(...made);
}
function laid(model, layer, weights) {
  const order = weights.map((w, k) => [w, k]).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0])).slice(0, 8).filter(([w]) => w);
  const most = make("p", {}, "Most: " + order.map(([w, k]) => `${name(model, layer.keysAre, layer.keys, k)} ${number(w)}`).join(" · "));
  const over = model.over && model.over.axis === layer.keysAre && weights.length === model.over.count ? model.over : null;
  const names = named(model.labels, layer.keysAre, layer.keys);
  if (over) return [OVER[over.kind](over, weights), most];
  if (names && weights.length <= 20000) return [texted(names, layer, weights), most];
  return [bars(weights, layer.keysAre), most];
}
function texted(names, layer, weights) {
  const top = Math.max(...weights.map(Math.abs)) || 1, box = make("div", { className: "text", tabIndex: 0 });
  box.setAttribute("role", "region"); box.setAttribute("aria-label", "The input, underlined by weight");
  if (names.every(text => /^(<\w+>|[\d.:\- s]+)$/.test(text))) box.classList.add("apart");
  names.forEach((text, k) => {
    const span = make("span", { textContent: text === "\n" ? "⏎\n" : text, title: number(weights[k]) });
    const share = Math.sqrt(Math.abs(weights[k]) / top), hue = weights[k] < 0 ? css("--far") : css("--mark");
    if (share > 0.03) { span.style.borderBottomColor = `color-mix(in srgb, ${hue} ${Math.round(100 * share)}%, transparent)`; span.style.background = `color-mix(in srgb, ${hue} ${Math.round(38 * share)}%, transparent)`; }
    if (k === query && layer.keysAre === layer.queriesAre) span.className = "from";
    box.append(span);
  });
  return box;
}
function canvasOf(w, h, label) { const c = make("canvas", { className: "over", width: w, height: h }); c.setAttribute("role", "img"); c.setAttribute("aria-label", label); return c; }
function bars(weights, what, from = 0) {
  const w = Math.min(1000, Math.max(300, weights.length)), c = canvasOf(w, 160, `Weights over ${what}`), g = c.getContext("2d");
  barsInto(g, weights, 0, w, 10, 130); g.fillStyle = css("--ink"); g.font = "12px system-ui";
  g.fillText(String(from), 2, 155); g.textAlign = "right"; g.fillText(`${what} ${from + weights.length - 1}`, w - 2, 155);
  return c;
}
function barsInto(g, weights, x, w, y, h) {
  const top = Math.max(...weights.map(Math.abs)) || 1, each = w / weights.length;
  weights.forEach((v, k) => { g.fillStyle = css(v < 0 ? "--far" : "--mark"); const high = Math.abs(v) / top * h; g.fillRect(x + k * each, y + h - high, Math.max(each, 1), high); });
}
function raster(told) {
  const raw = Uint8Array.from(atob(told.pixels), c => c.charCodeAt(0)), image = new ImageData(told.width, told.height), c = make("canvas", { width: told.width, height: told.height });
  for (let p = 0; p < told.width * told.height; p++) { const v = told.channels === 3 ? [raw[3 * p], raw[3 * p + 1], raw[3 * p + 2]] : [raw[p], raw[p], raw[p]]; image.data.set([...v, 255], 4 * p); }
  c.getContext("2d").putImageData(image, 0, 0);
  return c;
}
const OVER = {
  picture(over, weights) {
    const scale = Math.max(1, Math.floor(480 / Math.max(over.width, over.height))), w = over.width * scale, h = over.height * scale;
    const c = canvasOf(w, h, "Weights laid on the picture"), g = c.getContext("2d"), top = Math.max(...weights.map(Math.abs)) || 1;
    const whole = raster(over); g.imageSmoothingEnabled = false; g.drawImage(whole, 0, 0, w, h);
    g.fillStyle = "rgba(96,96,96,.35)"; g.fillRect(0, 0, w, h);
    weights.slice(over.skip).forEach((v, k) => {
      const x = k % over.columns * w / over.columns, y = Math.floor(k / over.columns) * h / over.lines;
      g.globalAlpha = 0.8 * Math.sqrt(Math.abs(v) / top); g.fillStyle = "#56B4E9"; g.fillRect(x, y, w / over.columns, h / over.lines);
      g.globalAlpha = 1; g.strokeStyle = "rgba(255,255,255,.25)"; g.strokeRect(x, y, w / over.columns, h / over.lines);
      if (k + over.skip === query) { g.strokeStyle = "#E69F00"; g.lineWidth = 3; g.strokeRect(x + 1, y + 1, w / over.columns - 2, h / over.lines - 2); g.lineWidth = 1; }
    });
    return c;
  },
  spectrogram(over, weights) {
    const w = Math.max(600, Math.min(1200, over.width)), c = canvasOf(w, 300, "Weights over the spectrogram"), g = c.getContext("2d");
    g.drawImage(raster(over), 0, 0, w, 180); barsInto(g, weights, 0, w, 190, 85);
    g.fillStyle = css("--ink"); g.font = "12px system-ui"; g.fillText("0 s", 2, 295); g.textAlign = "right"; g.fillText(`${over.seconds.toFixed(2)} s`, w - 2, 295);
    g.strokeStyle = css("--far"); g.lineWidth = 2; g.strokeRect((query + 0.5) * w / weights.length, 0, 0.1, 276);
    return c;
  },
  series(over, weights) {
    const w = 900, c = canvasOf(w, 330, "Weights under the series, over lags"), g = c.getContext("2d"), v = over.values, n = v.length;
    const known = v.filter(x => x !== null), low = Math.min(...known), high = Math.max(...known), x = k => (k + 0.5) * w / n;
    g.strokeStyle = css("--ink"); g.beginPath(); let on = false;
    v.forEach((y, k) => { if (y === null) { on = false; return; } const at = 150 - (y - low) / (high - low || 1) * 140; on ? g.lineTo(x(k), at) : g.moveTo(x(k), at); on = true; });
    g.stroke(); barsInto(g, weights, 0, w, 165, 125); g.fillStyle = css("--ink"); g.font = "12px system-ui"; g.textAlign = "center";
    const step = over.season > 1 ? over.season : Math.max(1, Math.round(n / 10)), every = step * Math.max(1, Math.ceil(n / step / 12));
    for (let lag = 0; query - lag >= 0; lag += every) { g.fillText(`${lag}`, x(query - lag), 308); g.strokeStyle = css("--line"); g.strokeRect(x(query - lag), 160, 0.1, 132); }
    g.textAlign = "left"; g.fillText("lag: steps back from the query", 2, 325);
    return c;
  },
};

function overview() {
  VIEWS.forEach((view, m) => {
    const box = make("div", { className: "heads" });
    view.model.layers.forEach((layer, i) => layer.heads.forEach((head, j) => {
      const canvas = make("canvas", { width: 64, height: 64 }), lines = [layer.title, head.title];
      if (head.entropy !== null) lines.push(`${head.entropy.toFixed(2)} bits`);
      if (head.distance !== null) lines.push(`${head.distance.toFixed(1)} away`);
      const button = make("button", { type: "button" }, canvas, ...lines.flatMap((line, n) => n ? [make("br"), line] : [line]));
      Object.assign(button.dataset, { model: m, layer: i, head: j });
      button.onclick = () => { view.layers.value = i; fill(view); view.heads.value = j; choose(view); };
      box.append(button);
      const tiles = new Tiles(head.levels, thumb);
      function thumb() {
        const picture = tiles.picture(0, 0, 0, view.table), g = canvas.getContext("2d");
        g.fillStyle = `rgb(${mix(RAMPS[dark() ? "dark" : "light"], 0)})`; g.fillRect(0, 0, 64, 64);
        if (!picture) return;
        g.imageSmoothingEnabled = Math.max(picture.width, picture.height) > 64; // few cells stay cells
        g.drawImage(picture, 0, 0, 64, 64);
      }
      thumb();
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(thumb));
    }));
    $("overview").append(make("h3", {}, view.model.title), box);
  });
}
async function buckets() {
  for (const view of VIEWS) for (const layer of view.model.layers) if (layer.buckets) {
    const told = layer.buckets, labels = await unpack(told.labels), rounds = told.rounds, n = layer.queries;
    layer.heads.forEach((head, h) => {
      const w = Math.max(n, 600), c = canvasOf(w, 26 * rounds, `Buckets of ${layer.title}, ${head.title}`), g = c.getContext("2d");
      for (let r = 0; r < rounds; r++) for (let k = 0; k < n; k++) {
        const b = labels[(h * rounds + r) * n + k];
        g.fillStyle = b < 0 ? css("--paper") : `hsl(${b * 137.5 % 360} 65% ${25 + 55 * b / told.count}%)`;
        g.fillRect(k * w / n, 26 * r, Math.max(1, w / n), 24);
        if (w / n >= 15 && b >= 0) { g.font = "10px system-ui"; g.textAlign = "center"; g.fillStyle = b > told.count / 2 ? "#000" : "#fff"; g.fillText(b, (k + 0.5) * w / n, 26 * r + 15); }
      }
      const say = make("p", { className: "faint" }, "Each line is a round of hashing, each cell a token; tokens of one colour share a bucket.");
      c.addEventListener("pointermove", e => {
        const k = Math.min(n - 1, Math.floor(e.offsetX / c.clientWidth * n)), r = Math.min(rounds - 1, Math.floor(e.offsetY / c.clientHeight * rounds));
        say.textContent = `round ${r + 1}: ${name(view.model, layer.queriesAre, n, k)} is in bucket ${labels[(h * rounds + r) * n + k]} of ${told.count}`;
      });
      $("buckets").append(make("h3", {}, `${view.model.title}: ${layer.title}, ${head.title}`), make("div", { className: "wide", tabIndex: 0 }, c), say);
    });
    $("buckets").hidden = false;
  }
}
$("zoom-in").onclick = () => VIEWS[0].zoom(1.5);
$("zoom-out").onclick = () => VIEWS[0].zoom(1 / 1.5);
$("reset").onclick = () => VIEWS[0].reset();
$("query").onchange = e => pick(Math.max(0, Math.min(VIEWS[0].layer.queries - 1, Math.floor(+e.target.value) || 0)));
$("contrast").oninput = e => VIEWS.forEach(v => v.paint(+e.target.value));
VIEWS.forEach(view => { fill(view); choose(view); });
overview();
buckets();
document.documentElement.dataset.ready = "yes";
