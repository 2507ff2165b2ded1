"use strict";
// The map of a head on a canvas: pans and zooms over tiles of several scales. No library, no network.
const STEPS = 32767, SIDE = 256;
const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// lightness alone tells weights apart, so that no eye for colours is needed; orange is below zero
const RAMPS = {
  light: [[255, 255, 255], [189, 215, 240], [74, 144, 200], [8, 81, 156], [4, 28, 70]],
  dark: [[14, 17, 22], [20, 62, 110], [36, 128, 190], [120, 196, 240], [244, 251, 255]],
};
const BELOW = { light: [[255, 255, 255], [253, 190, 133], [217, 100, 10], [120, 50, 4]],
  dark: [[14, 17, 22], [110, 55, 5], [215, 120, 20], [255, 226, 180]] };

function mix(ramp, t) {
  const at = Math.min(Math.max(t, 0), 1) * (ramp.length - 1), i = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[i].map((c, k) => c + (at - i) * (ramp[i + 1][k] - c));
}

function colours(contrast) {
  const theme = dark() ? "dark" : "light", table = new Uint8ClampedArray(2 * 1024 * 3);
  for (let i = 0; i < 1024; i++) {
    const t = Math.pow(i / 1023, 1 / contrast);
    table.set(mix(RAMPS[theme], t), 3 * i);
    table.set(mix(BELOW[theme], t), 3 * (1024 + i));
  }
  return table;
}

async function unpack(text) {
  const raw = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Int16Array(await new Response(stream).arrayBuffer());
}

function weight(step, most) {
  const share = step / STEPS;
  return Math.sign(share) * share * share * most;
}

class Tiles { // of one head: unpacked when first asked for
  constructor(levels, ready) { this.levels = levels; this.ready = ready; this.kept = new Map(); this.painted = new Map(); }
  at(n, i, j) {
    const key = `${n}/${i},${j}`, told = this.levels[n].tiles[`${i},${j}`];
    if (!told) return null;
    if (!this.kept.has(key)) {
      this.kept.set(key, null);
      unpack(told[2]).then(steps => { this.kept.set(key, { down: told[0], across: told[1], steps }); this.ready(); });
    }
    return this.kept.get(key);
  }
  picture(n, i, j, table) {
    const key = `${n}/${i},${j}`, tile = this.at(n, i, j);
    if (!tile) return null;
    const old = this.painted.get(key);
    if (old && old.table === table) return old.canvas;
    const canvas = document.createElement("canvas");
    canvas.width = tile.across; canvas.height = tile.down;
    const image = new ImageData(tile.across, tile.down), data = image.data;
    for (let p = 0; p < tile.steps.length; p++) {
      const s = tile.steps[p], c = 3 * ((s < 0 ? 1024 : 0) + Math.round(Math.abs(s) / STEPS * 1023));
      data[4 * p] = table[c]; data[4 * p + 1] = table[c + 1]; data[4 * p + 2] = table[c + 2]; data[4 * p + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.painted.set(key, { table, canvas });
    return canvas;
  }
  // the weight of a pair at the finest scale that is kept, and that scale
  value(q, k) {
    for (let n = this.levels.length - 1; n >= 0; n--) {
      const level = this.levels[n], y = Math.floor(q / level.down), x = Math.floor(k / level.across);
      const key = `${Math.floor(y / SIDE)},${Math.floor(x / SIDE)}`;
      if (!level.tiles[key]) { if (level.whole) return { value: 0, down: level.down, across: level.across }; continue; }
      const tile = this.at(n, ...key.split(",").map(Number));
      if (tile) return { value: weight(tile.steps[(y % SIDE) * tile.across + x % SIDE], level.max), down: level.down, across: level.across };
    }
    return { value: 0, down: 1, across: 1 };
  }
  // all weights of a query, token by token; null where they are not kept
  async row(head, q, keys) {
    if (head.rows[q]) { const [text, most] = head.rows[q]; return Array.from(await unpack(text), s => weight(s, most)); }
    const level = this.levels[this.levels.length - 1], out = new Array(keys).fill(0);
    if (level.down > 1 || level.across > 1) return null;
    for (let j = 0; j * SIDE < keys; j++) {
      const told = level.tiles[`${Math.floor(q / SIDE)},${j}`];
      if (!told) { if (!level.whole) return null; continue; }
      const steps = await unpack(told[2]), first = (q % SIDE) * told[1];
      for (let x = 0; x < told[1]; x++) out[j * SIDE + x] = weight(steps[first + x], level.max);
    }
    return out;
  }
}

class MapView {
  constructor(canvas, onMove, onPick, onHover) {
    Object.assign(this, { canvas, onMove, onPick, onHover, tiles: null, box: null, query: null });
    this.contrast = 1; this.table = colours(1);
    canvas.addEventListener("wheel", e => { e.preventDefault(); const p = this.where(e); this.zoom(e.deltaY < 0 ? 1.25 : 0.8, p.x, p.y); }, { passive: false });
    canvas.addEventListener("pointerdown", e => { this.held = { x: e.offsetX, y: e.offsetY, moved: false }; if (this.zoomed()) canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", e => this.drag(e));
    canvas.addEventListener("pointerup", e => { if (this.held && !this.held.moved) { const p = this.where(e); if (this.inside(p)) this.onPick(Math.floor(p.y)); } this.held = null; });
    canvas.addEventListener("pointerleave", () => { this.held = null; });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", e => this.key(e));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }
  show(layer, head, labels) {
    const same = this.layer && this.layer.queries === layer.queries && this.layer.keys === layer.keys;
    Object.assign(this, { layer, head, labels });
    this.tiles = new Tiles(head.levels, () => this.later());
    if (!same || !this.box) this.box = { x: 0, y: 0, w: layer.keys, h: layer.queries };
    this.draw();
  }
  paint(contrast = this.contrast) { this.contrast = contrast; this.table = colours(contrast); this.draw(); }
  later() { if (!this.due) { this.due = true; requestAnimationFrame(() => { this.due = false; this.draw(); }); } }
  plane() { const w = this.canvas.clientWidth, m = Math.min(72, w * 0.16); return { m, w: w - m, h: w - m }; }
  zoomed() { return this.box && this.box.w < this.layer.keys - 1e-9; }
  where(e) { const p = this.plane(); return { x: this.box.x + (e.offsetX - p.m) / p.w * this.box.w, y: this.box.y + (e.offsetY - p.m) / p.h * this.box.h }; }
  inside(p) { return p.x >= 0 && p.y >= 0 && p.x < this.layer.keys && p.y < this.layer.queries; }
  move(box, tell = true) {
    const { keys, queries } = this.layer;
    box.w = Math.min(keys, Math.max(box.w, Math.min(keys, 4))); box.h = Math.min(queries, Math.max(box.h, Math.min(queries, 4)));
    box.x = Math.min(Math.max(box.x, 0), keys - box.w); box.y = Math.min(Math.max(box.y, 0), queries - box.h);
    this.box = box; this.canvas.style.touchAction = this.zoomed() ? "none" : "pan-y"; this.draw();
    if (tell) this.onMove({ x: box.x / keys, y: box.y / queries, w: box.w / keys, h: box.h / queries });
  }
  follow(part) { const { keys, queries } = this.layer; this.move({ x: part.x * keys, y: part.y * queries, w: part.w * keys, h: part.h * queries }, false); }
  zoom(by, x = this.box.x + this.box.w / 2, y = this.box.y + this.box.h / 2) {
    const b = this.box; this.move({ x: x - (x - b.x) / by, y: y - (y - b.y) / by, w: b.w / by, h: b.h / by });
  }
  reset() { this.move({ x: 0, y: 0, w: this.layer.keys, h: this.layer.queries }); }
  drag(e) {
    const p = this.where(e);
    if (this.held && this.zoomed() && e.buttons) {
      const dx = e.offsetX - this.held.x, dy = e.offsetY - this.held.y, q = this.plane();
      if (this.held.moved || Math.hypot(dx, dy) > 4) {
        this.held = { x: e.offsetX, y: e.offsetY, moved: true };
        this.move({ ...this.box, x: this.box.x - dx / q.w * this.box.w, y: this.box.y - dy / q.h * this.box.h });
      }
    } else if (this.inside(p)) this.onHover(Math.floor(p.y), Math.floor(p.x), this.tiles.value(Math.floor(p.y), Math.floor(p.x)));
  }
  key(e) {
    const b = this.box, step = 0.2;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (e.key in moves) { const [x, y] = moves[e.key]; this.move({ ...b, x: b.x + x * step * b.w, y: b.y + y * step * b.h }); }
    else if (e.key === "+" || e.key === "=") this.zoom(1.5);
    else if (e.key === "-") this.zoom(1 / 1.5);
    else if (e.key === "0") this.reset();
    else return;
    e.preventDefault();
  }
  draw() {
    const c = this.canvas, size = c.clientWidth, ratio = devicePixelRatio || 1;
    if (!this.tiles || !size) return;
    c.width = c.height = Math.round(size * ratio);
    const g = c.getContext("2d"), p = this.plane(), b = this.box;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.fillStyle = css("--paper"); g.fillRect(0, 0, size, size);
    const zero = mix(RAMPS[dark() ? "dark" : "light"], 0);
    g.save(); g.beginPath(); g.rect(p.m, p.m, p.w, p.h); g.clip();
    g.fillStyle = `rgb(${zero})`; g.fillRect(p.m, p.m, p.w, p.h);
    const sx = p.w / b.w, sy = p.h / b.h;
    this.tiles.levels.forEach((level, n) => {
      const before = this.tiles.levels[n - 1];
      if (before && Math.max(before.across * sx, before.down * sy) < 1.5) return;
      g.imageSmoothingEnabled = Math.min(level.across * sx, level.down * sy) < 1;
      const wide = SIDE * level.across, high = SIDE * level.down;
      for (let i = Math.floor(b.y / high); i * high < b.y + b.h; i++)
        for (let j = Math.floor(b.x / wide); j * wide < b.x + b.w; j++) {
          const picture = this.tiles.picture(n, i, j, this.table);
          if (picture) g.drawImage(picture, p.m + (j * wide - b.x) * sx, p.m + (i * high - b.y) * sy, picture.width * level.across * sx, picture.height * level.down * sy);
        }
    });
    if (this.query !== null) {
      g.strokeStyle = css("--far"); g.lineWidth = 1.5;
      g.strokeRect(p.m - 2, p.m + (this.query - b.y) * sy, p.w + 4, Math.max(sy, 2));
    }
    g.restore();
    g.strokeStyle = css("--line"); g.strokeRect(p.m, p.m, p.w, p.h);
    this.axes(g, p, sx, sy);
  }
  axes(g, p, sx, sy) {
    const b = this.box, L = this.layer;
    g.fillStyle = css("--ink"); g.font = "11px ui-monospace, monospace"; g.textBaseline = "middle";
    const each = (first, count, scale, names, put) => {
      const gap = 14 / scale, step = gap <= 1 ? 1 : [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find(s => s >= (names ? gap : 3.5 * gap)) || 20000;
      for (let n = Math.ceil(first / step) * step; n < first + count; n += step)
        put((n - first + 0.5) * scale, names && step === 1 ? shown(names[n]) : String(n));
    };
    const fits = text => { let t = text; while (t.length > 1 && g.measureText(t).width > p.m - 8) t = t.slice(0, -2) + "…"; return t; };
    g.textAlign = "right";
    each(b.y, b.h, sy, named(this.labels, L.queriesAre, L.queries), (at, text) => { if (at < p.h) g.fillText(fits(text), p.m - 4, p.m + at); });
    each(b.x, b.w, sx, named(this.labels, L.keysAre, L.keys), (at, text) => {
      if (at >= p.w) return;
      g.save(); g.translate(p.m + at, p.m - 4); g.rotate(-Math.PI / 2); g.textAlign = "left"; g.fillText(fits(text), 0, 0); g.restore();
    });
    g.textAlign = "left"; g.font = "10px system-ui, sans-serif";
    g.fillText(`${L.keysAre} →`, 2, 8); g.fillText(`${L.queriesAre} ↓`, 2, 21);
  }
}

function named(labels, axis, count) { const found = labels[axis]; return found && found.length === count ? found : null; }
function shown(label) { return label.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣"); }
