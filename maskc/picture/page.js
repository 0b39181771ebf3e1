// The page: draws tiles from the plan's runs, and evaluates exactly what is on screen and in partial tiles.
"use strict";
(async () => {
  const BLOCK = 64; // pairs are evaluated in squares of this side
  const KEPT_BLOCKS = 6000; // evaluated squares that are remembered
  const SLICE = 12; // milliseconds of evaluation between two frames
  const LEFT = 74;
  const TOP = 50;
  const MAX_ZOOM = 48; // pixels a token
  const PALETTE = {
    light: { none: [255, 255, 255], low: [198, 219, 239], high: [66, 146, 198], first: [8, 69, 148], second: [213, 94, 0], both: [150, 156, 163], grid: "rgba(0,0,0,.16)", edge: "#8c959f", cursor: "#e5007e" },
    dark: { none: [16, 21, 27], low: [29, 62, 94], high: [62, 128, 178], first: [166, 216, 255], second: [240, 160, 60], both: [110, 120, 130], grid: "rgba(255,255,255,.17)", edge: "#6e7b88", cursor: "#ff5fb0" },
  };
  const BANDS = { light: ["#44aa99", "#ddcc77", "#cc6677", "#88ccee", "#999933", "#aa4499"], dark: ["#2f7d70", "#9a8c45", "#964a58", "#4f8fae", "#6d6d24", "#7d3270"] };

  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const block = await maskc.inflate(data.block);
  const plans = data.plans.map((p) => maskc.runs(block, p));
  const evaluator = data.nodes.length ? new maskc.Evaluator(data.nodes, maskc.tables(block, data.tables)) : null;
  const examiner = evaluator && new maskc.Examiner(evaluator, data.texts, data.sources);
  const views = data.views.map((v) => ({
    ...v,
    q: v.q ? maskc.array(block, v.q) : null,
    k: v.k ? maskc.array(block, v.k) : null,
  }));
  const { q_len: QL, k_len: KL, q_start: Q0, tile: T } = data;
  const state = { view: 0, layer: 0, head: data.head, x: 0, y: 0, zx: 1, zy: 1, grid: true, cursor: null, theme: data.theme };
  const cache = new Map();
  const stats = { frame: 0, pending: 0, inexact: "", drawn: 0 };
  let queue = [];
  let W = 0, H = 0, ratio = 1;
  const under = $("under").getContext("2d");
  const over = $("over").getContext("2d");
  const scratch = document.createElement("canvas");
  const heat = () => views[state.view].score !== undefined;

  const dark = () => state.theme === "dark" || (state.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  const colors = () => PALETTE[dark() ? "dark" : "light"];
  const view = () => views[state.view];
  const planOf = (channel) => plans[channel.plans[state.layer][state.head]];
  const at = () => ({ h: state.head, b: 0, layer: data.layers[state.layer], s: 0 });
  const queryAt = (i) => Q0 + (view().q ? view().q[i] : i);
  const keyAt = (j) => (view().k ? view().k[j] : j);
  const css = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;
  const blend = (a, b, t) => [0, 1, 2].map((i) => Math.round(a[i] + (b[i] - a[i]) * t));
  const valueColor = (c, value) => (value === 0 ? c.none : value === 3 ? c.both : value === 2 ? c.second : c.first);

  // ---- Where things are: i, j count laid-out queries and keys from 0; x, y are pixels of the plot ----

  const toX = (j) => (j - state.x) * state.zx;
  const toY = (i) => (i - state.y) * state.zy;
  const toJ = (x) => Math.floor(x / state.zx + state.x);
  const toI = (y) => Math.floor(y / state.zy + state.y);

  function clampView() {
    const fitX = W / Math.max(KL, 1), fitY = H / Math.max(QL, 1);
    const fit = Math.min(fitX, fitY);
    state.zx = Math.min(MAX_ZOOM, Math.max(state.zx, Math.min(fit, MAX_ZOOM)));
    state.zy = Math.min(MAX_ZOOM, Math.max(state.zy, Math.min(fit, MAX_ZOOM)));
    state.x = clampOrigin(state.x, KL, W / state.zx);
    state.y = clampOrigin(state.y, QL, H / state.zy);
  }

  const clampOrigin = (at, length, shown) => (shown >= length ? 0 : Math.min(Math.max(at, 0), length - shown));

  function fit() {
    const fitX = W / Math.max(KL, 1), fitY = H / Math.max(QL, 1);
    const both = Math.min(fitX, fitY, MAX_ZOOM);
    // Few queries over many keys: each side fills what it can, up to a square's worth.
    const apart = Math.max(fitX, fitY) / Math.min(fitX, fitY) > 8;
    state.zx = apart ? Math.min(fitX, MAX_ZOOM) : both;
    state.zy = apart ? Math.min(fitY, MAX_ZOOM) : both;
    state.x = state.y = 0;
    draw();
  }

  function zoom(factor, x = W / 2, y = H / 2) {
    const j = x / state.zx + state.x, i = y / state.zy + state.y;
    state.zx *= factor;
    state.zy *= factor;
    if (factor > 1) {
      state.zx = Math.min(state.zx, MAX_ZOOM);
      state.zy = Math.min(state.zy, MAX_ZOOM);
    }
    state.x = j - x / state.zx;
    state.y = i - y / state.zy;
    draw();
  }

  // ---- Tiles ----

  // The first run of a row that ends after a column, by bisection.
  function firstRun(plan, row, col) {
    let lo = plan.offsets[row], hi = plan.offsets[row + 1];
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (plan.end[mid] > col) hi = mid;
      else lo = mid + 1;
    }
    return lo;
  }

  function kindOf(plan, row, col) {
    const run = firstRun(plan, row, col);
    return run < plan.offsets[row + 1] && plan.start[run] <= col ? plan.kind[run] : 0;
  }

  // Where pairs are evaluated, tiles keep to whole pixels, as the squares do that are drawn over them.
  const inPairs = () => Math.min(state.zx, state.zy) * BLOCK >= 6;
  const snap = (x) => (inPairs() ? Math.round(x) : x);

  // Adds the shares of a line's pixels that lie in full and in partial tiles of the rows from i0 to i1.
  function addLine(plan, i0, i1, full, some) {
    const top = Math.max(0, Math.floor(i0 / T));
    const rows = inPairs() ? top + 1 : Math.min(plan.offsets.length - 1, Math.ceil(i1 / T));
    for (let r = top; r < rows; r++) {
      const weight = rows === top + 1 ? 1 : (Math.min(i1, (r + 1) * T) - Math.max(i0, r * T)) / (i1 - i0);
      const last = plan.offsets[r + 1];
      for (let n = firstRun(plan, r, Math.floor(state.x / T)); n < last; n++) {
        const x0 = Math.max(0, snap(toX(plan.start[n] * T)));
        if (x0 >= W) break;
        const x1 = Math.min(W, snap(toX(Math.min(KL, plan.end[n] * T))));
        addSpan(plan.kind[n] === 2 ? full : some, x0, x1, weight);
      }
    }
  }

  function addSpan(line, x0, x1, weight) {
    const a = Math.floor(x0), b = Math.floor(x1);
    const { part, step } = line;
    if (a === b) part[a] += (x1 - x0) * weight;
    else {
      part[a] += (a + 1 - x0) * weight;
      part[b] += (x1 - b) * weight;
      step[a + 1] += weight;
      step[b] -= weight;
    }
  }

  const newLine = () => ({ part: new Float64Array(W + 2), step: new Float64Array(W + 2) });

  function tiles() {
    const c = colors();
    const image = under.createImageData(W, H);
    const lines = view().channels.map(() => [newLine(), newLine()]);
    const right = Math.min(W, Math.ceil(toX(KL)));
    const bottom = Math.min(H, Math.ceil(toY(QL)));
    let drawn = -1, sameRow = -1;
    for (let y = 0; y < bottom; y++) {
      let i0 = y / state.zy + state.y, i1 = Math.min((y + 1) / state.zy + state.y, QL);
      if (inPairs()) {
        i0 = Math.min((i0 + (y + 1) / state.zy + state.y) / 2, QL - 1e-6);
        i1 = i0 + 1e-9;
      }
      const row = inPairs() || Math.floor(i0 / T) === Math.floor((i1 - 1e-9) / T) ? Math.floor(i0 / T) : -1;
      if (row >= 0 && row === sameRow) {
        image.data.copyWithin(y * W * 4, drawn * W * 4, (drawn + 1) * W * 4);
      } else {
        view().channels.forEach((channel, n) => {
          for (const line of lines[n]) { line.part.fill(0); line.step.fill(0); }
          addLine(planOf(channel), i0, i1, ...lines[n]);
        });
        paintLine(image.data, y, right, lines, c);
        drawn = y;
        sameRow = row;
      }
    }
    under.putImageData(image, LEFT * ratio, TOP * ratio);
  }

  // No arrays are made within the loops: they run for every pixel.
  function paintLine(pixels, y, right, lines, c) {
    const count = lines.length;
    const full = new Float64Array(count), part = new Float64Array(count);
    const targets = view().channels.map((channel) => valueColor(c, channel.value));
    for (let x = 0, at = y * W * 4; x < right; x++, at += 4) {
      let [r, g, b] = c.none;
      for (let n = 0; n < count; n++) {
        full[n] += lines[n][0].step[x];
        part[n] += lines[n][1].step[x];
        const all = full[n] + lines[n][0].part[x], some = part[n] + lines[n][1].part[x];
        if (all > 0.9999) [r, g, b] = targets[n];
        else if (all + some > 1e-9) {
          const share = Math.min(1, all + some / 2);
          const from = count === 1 ? c.low : null, to = count === 1 ? c.high : targets[n];
          const t = count === 1 ? share : strength(share);
          r = from ? from[0] + (to[0] - from[0]) * t : r + (to[0] - r) * t;
          g = from ? from[1] + (to[1] - from[1]) * t : g + (to[1] - g) * t;
          b = from ? from[2] + (to[2] - from[2]) * t : b + (to[2] - b) * t;
        }
      }
      pixels[at] = r;
      pixels[at + 1] = g;
      pixels[at + 2] = b;
      pixels[at + 3] = 255;
    }
  }

  // How much of a colour a rectangle with a share of its pairs kept gets: never so little that it vanishes.
  const strength = (share) => 0.25 + 0.65 * share;

  // ---- Pairs: squares of BLOCK x BLOCK in partial tiles, evaluated exactly ----

  function blocksOnScreen() {
    if (!evaluator || heat() || !inPairs()) return [];
    const found = new Set();
    const rows = Math.ceil(QL / BLOCK), cols = Math.ceil(KL / BLOCK);
    const br1 = Math.min(rows, Math.floor((state.y + H / state.zy) / BLOCK) + 1);
    const bc0 = Math.floor(state.x / BLOCK), bc1 = Math.min(cols, Math.floor((state.x + W / state.zx) / BLOCK) + 1);
    for (let br = Math.floor(state.y / BLOCK); br < br1; br++)
      for (const channel of view().channels) {
        const plan = planOf(channel), row = Math.floor((br * BLOCK) / T);
        for (let n = firstRun(plan, row, Math.floor((bc0 * BLOCK) / T)); n < plan.offsets[row + 1]; n++) {
          if (plan.start[n] * T >= bc1 * BLOCK) break;
          if (plan.kind[n] !== 1) continue;
          const to = Math.min(bc1, Math.ceil((plan.end[n] * T) / BLOCK));
          for (let bc = Math.max(bc0, Math.floor((plan.start[n] * T) / BLOCK)); bc < to; bc++) found.add(br * cols + bc);
        }
      }
    return [...found].map((n) => [Math.floor(n / cols), n % cols]);
  }

  const range = (from, to, f) => Float64Array.from({ length: to - from }, (_, i) => f(from + i));
  const keyOf = (br, bc) => `${state.view},${state.layer},${state.head},${br},${bc}`;

  function evaluateBlock(br, bc) {
    const q = range(br * BLOCK, Math.min(QL, (br + 1) * BLOCK), queryAt);
    const k = range(bc * BLOCK, Math.min(KL, (bc + 1) * BLOCK), keyAt);
    const values = new Uint8Array(q.length * k.length);
    for (const [bit, root] of view().roots) {
      const kept = evaluator.full(root, q, k, at());
      for (let n = 0; n < values.length; n++) values[n] |= kept[n] ? bit : 0;
    }
    return { values, rows: q.length, cols: k.length };
  }

  function remember(key, found) {
    cache.set(key, found);
    if (cache.size > KEPT_BLOCKS) cache.delete(cache.keys().next().value);
  }

  function paintBlock(br, bc, found) {
    const c = colors();
    const f = Math.max(1, 2 ** Math.ceil(Math.log2(1 / Math.min(1, state.zx, state.zy)) - 0.01));
    const rows = Math.ceil(found.rows / f), cols = Math.ceil(found.cols / f);
    const image = new ImageData(cols, rows);
    const palette = [0, 1, 2, 3].map((value) => valueColor(c, value));
    const counts = new Int32Array(4);
    for (let r = 0, to = 0; r < rows; r++)
      for (let j = 0; j < cols; j++, to += 4) {
        const color = f === 1 ? palette[found.values[r * found.cols + j]] : joined(c, palette, counts, found, r * f, j * f, f);
        image.data[to] = color[0];
        image.data[to + 1] = color[1];
        image.data[to + 2] = color[2];
        image.data[to + 3] = 255;
      }
    scratch.width = cols;
    scratch.height = rows;
    scratch.getContext("2d").putImageData(image, 0, 0);
    // Whole pixels, so that neighbouring squares meet without a seam.
    const x0 = Math.round(toX(bc * BLOCK)), x1 = Math.round(toX(bc * BLOCK + found.cols));
    const y0 = Math.round(toY(br * BLOCK)), y1 = Math.round(toY(br * BLOCK + found.rows));
    inPlot(under, () => under.drawImage(scratch, 0, 0, cols, rows, x0, y0, x1 - x0, y1 - y0));
  }

  // The colour of f x f pairs.
  function joined(c, palette, counts, found, r0, c0, f) {
    const r1 = Math.min(found.rows, r0 + f), c1 = Math.min(found.cols, c0 + f);
    const all = (r1 - r0) * (c1 - c0);
    counts.fill(0);
    for (let r = r0; r < r1; r++) for (let j = c0; j < c1; j++) counts[found.values[r * found.cols + j]]++;
    for (let value = 0; value < 4; value++) if (counts[value] === all) return palette[value];
    if (view().channels.length === 1) return blend(c.low, c.high, counts[1] / all);
    let rgb = c.none;
    for (const value of [3, 1, 2]) if (counts[value]) rgb = blend(rgb, palette[value], strength(counts[value] / all));
    return rgb;
  }

  function inPlot(context, work) {
    context.save();
    context.imageSmoothingEnabled = false;
    context.translate(LEFT * ratio, TOP * ratio);
    context.beginPath();
    context.rect(0, 0, Math.min(W, toX(KL)), Math.min(H, toY(QL)));
    context.clip();
    work();
    context.restore();
  }

  let working = 0;
  function refine() {
    working = 0;
    const until = performance.now() + SLICE;
    while (queue.length && performance.now() < until) {
      const [br, bc] = queue.pop();
      try {
        const found = cache.get(keyOf(br, bc)) ?? evaluateBlock(br, bc);
        remember(keyOf(br, bc), found);
        paintBlock(br, bc, found);
      } catch (error) {
        if (!(error instanceof maskc.Inexact)) throw error;
        stats.inexact = error.message;
      }
    }
    if (queue.length) working = requestAnimationFrame(refine);
    progress();
  }

  function progress() {
    stats.pending = queue.length;
    const parts = [`${scaleText()}`, `${T} x ${T} tiles`];
    if (stats.inexact) parts.push(`some pairs are not shown: ${stats.inexact}`);
    else if (!evaluator) parts.push(data.reason);
    else if (queue.length) parts.push(`${queue.length} squares to come`);
    else if (!heat()) parts.push(!inPairs() ? (data.planned ? "kinds of tiles; zoom in for pairs" : "too irregular to be planned: zoom in for pairs") : "every pair shown is evaluated");
    $("status").textContent = parts.join("  ·  ");
  }

  function scaleText() {
    const z = state.zx / ratio;
    return z >= 1 ? `a token is ${+z.toPrecision(3)} pixels` : `a pixel is ${+(1 / z).toPrecision(3)} tokens`;
  }

  // ---- Scores as a heat map: one pair in each cell of a few pixels ----

  function heatMap() {
    const cell = Math.max(3 * ratio, 1);
    const stepX = Math.max(1, Math.ceil(cell / state.zx)), stepY = Math.max(1, Math.ceil(cell / state.zy));
    const j0 = Math.floor(state.x), i0 = Math.floor(state.y);
    const count = (from, step, length, shown) => Math.max(0, Math.ceil((Math.min(length, from + shown + 1) - from) / step));
    const js = Float64Array.from({ length: count(j0, stepX, KL, W / state.zx) }, (_, n) => j0 + n * stepX);
    const is = Float64Array.from({ length: count(i0, stepY, QL, H / state.zy) }, (_, n) => i0 + n * stepY);
    const q = is.map(queryAt), k = js.map(keyAt);
    const kept = evaluator.full(view().roots[0][1], q, k, at());
    const score = evaluator.full(view().score, q, k, at());
    let low = Infinity, high = -Infinity;
    score.forEach((v, n) => {
      if (kept[n] && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
    });
    const c = colors();
    const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
    stats.range = low <= high ? [low, high] : null;
    inPlot(under, () => {
      under.fillStyle = css(c.none);
      under.fillRect(0, 0, W, H);
      for (let r = 0; r < is.length; r++)
        for (let j = 0; j < js.length; j++) {
          const n = r * js.length + j;
          if (!kept[n]) continue;
          const t = Math.max(-1, Math.min(1, score[n] / most));
          under.fillStyle = css(blend(c.both, t < 0 ? c.second : c.first, Math.abs(t)));
          const x = Math.round(toX(js[j])), y = Math.round(toY(is[r]));
          under.fillRect(x, y, Math.round(toX(js[j] + stepX)) - x, Math.round(toY(is[r] + stepY)) - y);
        }
    });
    legend();
  }

  // ---- Axes, bands, grids ----

  // On the upper canvas, so that squares that are evaluated later do not cover them.
  function lines() {
    const c = colors();
    inPlot(over, () => {
      if (Math.min(state.zx, state.zy) >= 8 * ratio) gridOf(1, "rgba(128,128,128,.35)", 1);
      if (state.grid && T * Math.min(state.zx, state.zy) >= 7 * ratio) gridOf(T, c.grid, ratio);
    });
    over.strokeStyle = c.edge;
    over.lineWidth = ratio;
    over.strokeRect(LEFT * ratio - 0.5, TOP * ratio - 0.5, Math.min(W, toX(KL)) + 1, Math.min(H, toY(QL)) + 1);
  }

  function gridOf(step, style, width) {
    over.strokeStyle = style;
    over.lineWidth = width;
    over.beginPath();
    for (let j = Math.ceil(state.x / step) * step; toX(j) < W && j <= KL; j += step) { const x = Math.round(toX(j)) + 0.5; over.moveTo(x, 0); over.lineTo(x, H); }
    for (let i = Math.ceil(state.y / step) * step; toY(i) < H && i <= QL; i += step) { const y = Math.round(toY(i)) + 0.5; over.moveTo(0, y); over.lineTo(W, y); }
    over.stroke();
  }

  function tickStep(z, room) {
    for (let step = 1; ; step *= 10) for (const m of [1, 2, 5]) if (m * step * z >= room) return m * step;
  }

  function axes() {
    const style = getComputedStyle(document.documentElement);
    under.fillStyle = style.getPropertyValue("--soft");
    under.font = `${11 * ratio}px system-ui, sans-serif`;
    under.textBaseline = "middle";
    const stepK = tickStep(state.zx, 62 * ratio), stepQ = tickStep(state.zy, 34 * ratio);
    const half = (z) => (z >= 8 * ratio ? z / 2 : 0);
    under.textAlign = "center";
    for (let j = Math.ceil(state.x / stepK) * stepK; j < KL && toX(j) <= W - 8; j += stepK)
      under.fillText(String(keyAt(j)), LEFT * ratio + toX(j) + half(state.zx), (TOP - 20) * ratio);
    under.textAlign = "right";
    const first = Math.ceil((state.y + Q0) / stepQ) * stepQ - Q0;
    for (let i = view().q ? Math.ceil(state.y / stepQ) * stepQ : first; i < QL && toY(i) <= H - 6; i += stepQ)
      if (i >= 0) under.fillText(String(queryAt(i)), (LEFT - 14) * ratio, TOP * ratio + toY(i) + half(state.zy));
    under.fillText("key →", (LEFT - 14) * ratio, (TOP - 20) * ratio);
    under.save();
    under.translate(9 * ratio, TOP * ratio);
    under.rotate(-Math.PI / 2);
    under.textAlign = "right";
    under.fillText("← query", 0, 0);
    under.restore();
  }

  // Segments and modalities: thin stripes along both axes. Laid-out orders have none.
  function stripes() {
    const palette = BANDS[dark() ? "dark" : "light"];
    const stripe = (spans, across) => {
      for (const [from, to, label, n] of spans) {
        const size = across ? W : H;
        const a = Math.max(0, across ? toX(from) : toY(from)), b = Math.min(size, across ? toX(to) : toY(to));
        if (b <= a) continue;
        under.fillStyle = palette[n % palette.length];
        if (across) under.fillRect(LEFT * ratio + a, (TOP - 10) * ratio, b - a, 7 * ratio);
        else under.fillRect((LEFT - 10) * ratio, TOP * ratio + a, 7 * ratio, b - a);
        const room = under.measureText(label).width;
        if (across && room + 4 < b - a) {
          under.textAlign = "left";
          under.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
          under.fillText(label, LEFT * ratio + a, (TOP - 32) * ratio);
        }
      }
    };
    under.font = `${11 * ratio}px system-ui, sans-serif`;
    if (!view().k) stripe(data.bands.k, true);
    if (!view().q) stripe(data.bands.q, false);
  }

  // ---- One frame ----

  function draw() {
    const start = performance.now();
    if (working) cancelAnimationFrame(working);
    working = 0;
    clampView();
    under.clearRect(0, 0, under.canvas.width, under.canvas.height);
    if (heat()) heatMap();
    else tiles();
    const missing = [];
    for (const [br, bc] of blocksOnScreen()) {
      const found = cache.get(keyOf(br, bc));
      // What takes too long is painted in later frames, too.
      if (found && performance.now() - start < 60) paintBlock(br, bc, found);
      else missing.push([br, bc]);
    }
    // The middle of the screen first.
    const mi = (state.y + H / state.zy / 2) / BLOCK, mj = (state.x + W / state.zx / 2) / BLOCK;
    queue = missing.map((b) => [Math.hypot(b[0] - mi, b[1] - mj), b]).sort((a, b) => b[0] - a[0]).slice(-KEPT_BLOCKS).map((b) => b[1]);
    axes();
    stripes();
    crosshair();
    stats.frame = performance.now() - start;
    stats.drawn++;
    if (queue.length) working = requestAnimationFrame(refine);
    progress();
  }

  function resize() {
    ratio = Math.min(2, window.devicePixelRatio || 1);
    const box = $("under").parentElement.getBoundingClientRect();
    for (const context of [under, over]) {
      context.canvas.width = Math.max(1, Math.floor(box.width * ratio));
      context.canvas.height = Math.max(1, Math.floor(box.height * ratio));
      // Whole pixels of the screen, or everything would be blurred a little.
      context.canvas.style.width = `${context.canvas.width / ratio}px`;
      context.canvas.style.height = `${context.canvas.height / ratio}px`;
    }
    W = Math.max(1, Math.floor((box.width - LEFT - 12) * ratio));
    H = Math.max(1, Math.floor((box.height - TOP - 12) * ratio));
  }

  // ---- What is under the cursor ----

  function crosshair() {
    over.clearRect(0, 0, over.canvas.width, over.canvas.height);
    lines();
    if (!state.cursor) return;
    const [i, j] = state.cursor;
    inPlot(over, () => {
      over.strokeStyle = colors().cursor;
      over.lineWidth = ratio;
      const w = Math.max(state.zx, 2), h = Math.max(state.zy, 2);
      over.globalAlpha = 0.35;
      over.strokeRect(-9, toY(i), W + 18, h);
      over.strokeRect(toX(j), -9, w, H + 18);
      over.globalAlpha = 1;
      over.lineWidth = 2 * ratio;
      over.strokeRect(toX(j), toY(i), w, h);
    });
  }

  const KINDS = ["empty: no pair kept", data.planned ? "partial: some pairs kept" : "not planned", "full: all pairs kept"];

  function point(i, j) {
    if (i < 0 || j < 0 || i >= QL || j >= KL) return;
    state.cursor = [i, j];
    crosshair();
    const q = queryAt(i), k = keyAt(j), row = Math.floor(i / T), col = Math.floor(j / T);
    $("place").textContent = `query ${q}, key ${k}`;
    $("kind").textContent = view().channels.map((c) => `${c.label ? c.label + ": " : ""}tile (${row}, ${col}) is ${KINDS[kindOf(planOf(c), row, col)]}`).join("; ");
    $("tree").replaceChildren();
    if (!examiner) { $("why").textContent = data.reason; return; }
    try {
      const said = view().whys.map(([label, root]) => {
        const whole = examiner.examine(root, q, k, at());
        return [label, whole, maskc.sentence(q, k, whole)];
      });
      $("why").textContent = said.map(([label, , text]) => (label ? `${label}: ${text}` : text)).join(" ");
      for (const [label, whole] of said) $("tree").append(...clauseTree(whole, label));
      if (view().score !== undefined) $("why").textContent += ` Score at s = 0: ${+evaluator.point(view().score, q, k, at()).toPrecision(6)}.`;
    } catch (error) {
      if (!(error instanceof maskc.Inexact)) throw error;
      $("why").textContent = `This pair cannot be evaluated here: ${error.message}.`;
    }
  }

  let listed = 0;
  function clauseTree(clause, label) {
    listed = 0;
    const item = (c) => {
      const li = document.createElement("li");
      li.className = c.holds ? "holds" : "fails";
      li.append(`${c.holds ? "✓" : "✗"} ${label ? label + ": " : ""}${c.source || (c.parts.length ? c.kind : c.text)}${c.values ? "   [" + c.values + "]" : ""}`);
      label = "";
      if (c.parts.length && listed < 60) {
        const ul = document.createElement("ul");
        for (const p of c.parts) if (listed++ < 60) ul.append(item(p));
        li.append(ul);
      }
      return li;
    };
    return [item(clause)];
  }

  // ---- Controls ----

  function swatch(color, label) {
    const li = document.createElement("li");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "16"); svg.setAttribute("height", "16");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("width", "16"); rect.setAttribute("height", "16"); rect.setAttribute("fill", css(color));
    svg.append(rect);
    li.append(svg, label);
    return li;
  }

  function legend() {
    const c = colors();
    const rows = [];
    if (heat()) {
      const r = stats.range;
      rows.push(swatch(c.none, "not kept"), swatch(c.both, "score unchanged (0)"));
      if (r && r[1] > 0) rows.push(swatch(c.first, `up to ${+r[1].toPrecision(4)} more`));
      if (r && r[0] < 0) rows.push(swatch(c.second, `down to ${+r[0].toPrecision(4)}`));
    } else if (view().channels.length === 1) {
      rows.push(swatch(c.none, "not kept"), swatch(blend(c.low, c.high, 0.5), "some of the pairs kept"), swatch(c.first, "kept"));
    } else for (const ch of view().channels) rows.push(swatch(valueColor(c, ch.value), ch.label));
    $("legend").replaceChildren(...rows);
  }

  function fill(id, names, key) {
    const select = $(id);
    select.replaceChildren(...names.map((n, i) => new Option(n, String(i))));
    select.disabled = names.length < 2;
    select.addEventListener("change", () => set(key, Number(select.value)));
  }

  function set(key, value) {
    const counts = { view: views.length, head: data.heads, layer: data.layers.length };
    state[key] = ((value % counts[key]) + counts[key]) % counts[key];
    $(key).value = String(state[key]);
    stats.inexact = "";
    legend();
    draw();
    if (state.cursor) point(...state.cursor);
  }

  function themed(name) {
    state.theme = name;
    document.documentElement.dataset.theme = name;
    legend();
    draw();
  }

  // Puts query q and key k (absolute positions) in the middle, at so many pixels a token.
  function center(q, k, z) {
    const i = view().q ? view().q.indexOf(q - Q0) : q - Q0, j = view().k ? view().k.indexOf(k) : k;
    if (z) state.zx = state.zy = z * ratio;
    clampView();
    state.x = j + 0.5 - W / state.zx / 2;
    state.y = i + 0.5 - H / state.zy / 2;
    draw();
    point(i, j);
  }

  function moveCursor(di, dj) {
    const [i, j] = state.cursor ?? [toI(H / 2), toJ(W / 2)];
    const step = (z) => Math.max(1, Math.round(6 / z));
    const ni = Math.min(QL - 1, Math.max(0, i + di * step(state.zy))), nj = Math.min(KL - 1, Math.max(0, j + dj * step(state.zx)));
    if (toX(nj) < 0) state.x = nj;
    if (toX(nj + 1) > W) state.x = nj + 1 - W / state.zx;
    if (toY(ni) < 0) state.y = ni;
    if (toY(ni + 1) > H) state.y = ni + 1 - H / state.zy;
    state.cursor = [ni, nj];
    draw();
    point(ni, nj);
  }

  const KEYS = {
    ArrowUp: (e) => (e.shiftKey ? pan(0, -0.4) : moveCursor(-1, 0)),
    ArrowDown: (e) => (e.shiftKey ? pan(0, 0.4) : moveCursor(1, 0)),
    ArrowLeft: (e) => (e.shiftKey ? pan(-0.4, 0) : moveCursor(0, -1)),
    ArrowRight: (e) => (e.shiftKey ? pan(0.4, 0) : moveCursor(0, 1)),
    "+": () => zoomAtCursor(2), "=": () => zoomAtCursor(2), "-": () => zoomAtCursor(0.5), "0": () => fit(),
    h: () => set("head", state.head + 1), H: () => set("head", state.head - 1),
    l: () => set("layer", state.layer + 1), L: () => set("layer", state.layer - 1),
    v: () => set("view", state.view + 1),
    g: () => { state.grid = !state.grid; draw(); },
    t: () => themed(dark() ? "light" : "dark"),
  };

  function pan(dx, dy) {
    state.x += (dx * W) / state.zx;
    state.y += (dy * H) / state.zy;
    draw();
  }

  function zoomAtCursor(factor) {
    const c = state.cursor;
    const shown = c && toX(c[1]) >= 0 && toX(c[1]) < W && toY(c[0]) >= 0 && toY(c[0]) < H;
    if (shown) zoom(factor, toX(c[1] + 0.5), toY(c[0] + 0.5));
    else zoom(factor);
  }

  function listen() {
    const spot = (e) => [e.offsetX * ratio - LEFT * ratio, e.offsetY * ratio - TOP * ratio];
    const canvas = $("over");
    let drag = null;
    canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY * 0.0018), ...spot(e)); }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => { drag = [e.offsetX, e.offsetY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointermove", (e) => {
      if (drag) {
        state.x -= ((e.offsetX - drag[0]) * ratio) / state.zx;
        state.y -= ((e.offsetY - drag[1]) * ratio) / state.zy;
        drag = [e.offsetX, e.offsetY];
        draw();
      } else {
        const [x, y] = spot(e);
        if (x >= 0 && y >= 0) point(toI(y), toJ(x));
      }
    });
    canvas.addEventListener("dblclick", (e) => zoom(4, ...spot(e)));
    document.addEventListener("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || ["INPUT", "SELECT"].includes(document.activeElement.tagName)) return;
      if (Object.hasOwn(KEYS, e.key)) { e.preventDefault(); KEYS[e.key](e); }
    });
    $("go").addEventListener("change", () => {
      const found = $("go").value.match(/^\s*(\d+)[\s,;]+(\d+)\s*$/);
      const [q, k] = found ? found.slice(1).map(Number) : [];
      const there = q >= Q0 && q < Q0 + QL && k < KL;
      $("go").setAttribute("aria-invalid", String(!there && $("go").value.trim() !== ""));
      if (there) { center(q, k, Math.max(16, state.zx / ratio)); canvas.focus(); }
    });
    $("fit").addEventListener("click", fit);
    $("theme").addEventListener("click", () => KEYS.t());
    let shown = "";
    new ResizeObserver(() => {
      const { width, height } = $("under").parentElement.getBoundingClientRect();
      if (shown && shown !== `${width} ${height}`) { resize(); draw(); }
      shown = `${width} ${height}`;
    }).observe($("under").parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { legend(); draw(); });
  }

  fill("head", Array.from({ length: data.heads }, (_, h) => String(h)), "head");
  fill("layer", data.layers.map(String), "layer");
  fill("view", views.map((v) => v.name), "view");
  $("head").value = String(state.head);
  listen();
  resize();
  legend();
  fit();
  // For tests and for the curious: the page's state, and where a pair is on screen (CSS pixels).
  window.maskcPage = {
    state, stats, center, zoom, set, fit, point,
    spot: (q, k) => {
      const box = $("under").getBoundingClientRect();
      const i = view().q ? view().q.indexOf(q - Q0) : q - Q0, j = view().k ? view().k.indexOf(k) : k;
      return [box.left + LEFT + toX(j + 0.5) / ratio, box.top + TOP + toY(i + 0.5) / ratio];
    },
  };
})();
