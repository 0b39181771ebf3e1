// Exact evaluation of mask expressions over blocks of positions, without code generation.
//
// A value is {s, d}: s says what it varies with (0 nothing, 1 the query, 2 the key, 3 both), d is a
// Float64Array of that shape (one number if s is 0). Booleans are 0 and 1. Integers are exact up
// to 2**53; where an intermediate result leaves that range, Inexact is thrown rather than a wrong answer given.
"use strict";
const maskc = (() => {
  class Inexact extends Error {}
  const LIMIT = 9007199254740992;
  const exact = (x) => {
    if (!(x <= LIMIT && x >= -LIMIT)) throw new Inexact("an integer beyond 2**53");
    return x;
  };
  const floormod = (a, b) => {
    if (b === 0) return 0;
    const r = a % b;
    return r !== 0 && r < 0 !== b < 0 ? r + b : r + 0;
  };
  const floordiv = (a, b) => (b === 0 ? 0 : exact(a - floormod(a, b)) / b + 0);
  const power = (a, b) => (a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : Math.pow(a, b));
  const mix = (x) => {
    x = (x ^ (x >>> 16)) >>> 0;
    x = Math.imul(x, 0x7feb352d) >>> 0;
    x = (x ^ (x >>> 15)) >>> 0;
    x = Math.imul(x, 0x5bd1e995) >>> 0;
    return (x ^ (x >>> 16)) >>> 0;
  };
  const hashStep = (state, a) => mix((state ^ (a % 4294967296)) >>> 0);

  // One row an operator; what is not here is refused when the page loads. INTEGER holds what
  // differs on integers: there is no negative zero, and no result that is rounded.
  const UNARY = {
    not: (a) => 1 - a,
    neg: (a) => -a,
    abs: Math.abs,
    float: (a) => a,
    floor: (a) => exact(Math.floor(a)) + 0,
    exp: Math.exp,
    exp2: (a) => Math.pow(2, a),
    log: Math.log,
    log2: Math.log2,
    sqrt: Math.sqrt,
    sin: Math.sin,
    cos: Math.cos,
    tanh: Math.tanh,
    sigmoid: (a) => 0.5 * (Math.tanh(0.5 * a) + 1),
  };
  const BINARY = {
    or: (a, b) => a | b,
    and: (a, b) => a & b,
    lt: (a, b) => (a < b ? 1 : 0),
    le: (a, b) => (a <= b ? 1 : 0),
    eq: (a, b) => (a === b ? 1 : 0),
    ne: (a, b) => (a !== b ? 1 : 0),
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    floordiv,
    mod: floormod,
    div: (a, b) => a / b,
    pow: power,
    min: Math.min,
    max: Math.max,
  };
  const INTEGER = {
    neg: (a) => 0 - a,
    add: (a, b) => exact(a + b),
    sub: (a, b) => exact(a - b),
    mul: (a, b) => exact(a * b) + 0,
  };

  const shapeSize = (s, nq, nk) => (s & 1 ? nq : 1) * (s & 2 ? nk : 1);

  function map1(f, A, nq, nk) {
    if (A.s === 0) return { s: 0, d: f(A.d) };
    const n = shapeSize(A.s, nq, nk);
    const d = new Float64Array(n);
    for (let i = 0; i < n; i++) d[i] = f(A.d[i]);
    return { s: A.s, d };
  }

  // Reads element (i, j) of a value as d[i * row + j * col]; a lone number is wrapped.
  const strides = (A, nk) => ({
    d: A.s === 0 ? [A.d] : A.d,
    row: A.s & 1 ? (A.s & 2 ? nk : 1) : 0,
    col: A.s & 2 ? 1 : 0,
  });

  function map2(f, A, B, nq, nk) {
    const s = A.s | B.s;
    if (s === 0) return { s, d: f(A.d, B.d) };
    const n = shapeSize(s, nq, nk);
    const d = new Float64Array(n);
    const a = strides(A, nk);
    const b = strides(B, nk);
    const rows = s & 1 ? nq : 1;
    const cols = s & 2 ? nk : 1;
    let at = 0;
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < cols; j++) d[at++] = f(a.d[i * a.row + j * a.col], b.d[i * b.row + j * b.col]);
    return { s, d };
  }

  function mapMany(f, values, nq, nk) {
    const s = values.reduce((all, v) => all | v.s, 0);
    const views = values.map((v) => strides(v, nk));
    const rows = s & 1 ? nq : 1;
    const cols = s & 2 ? nk : 1;
    const d = new Float64Array(rows * cols);
    const args = new Array(values.length);
    let at = 0;
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < cols; j++) {
        for (let v = 0; v < views.length; v++) args[v] = views[v].d[i * views[v].row + j * views[v].col];
        d[at++] = f(args);
      }
    return s === 0 ? { s, d: d[0] } : { s, d };
  }

  const hashOf = (args) => args.reduce(hashStep, 0x9e3779b9) >>> 1;
  const pick = (args) => (args[0] ? args[1] : args[2]);

  // Which of the bound indices each node speaks of, as a set of names.
  function freeIndices(nodes) {
    const free = [];
    for (const n of nodes) {
      const all = new Set();
      const take = (ids) => ids.forEach((c) => free[c].forEach((x) => all.add(x)));
      if (n[0] === "s" && /^i\d+$/.test(n[1])) all.add(n[1]);
      else if (n[0] === "e") {
        free[n[3]].forEach((x) => x !== n[1] && all.add(x));
        take([n[2]]);
      } else if (n[0] === "l" || n[0] === "a") take(n[2]);
      free.push(all);
    }
    return free;
  }

  function check(nodes, tables) {
    for (const n of nodes) {
      const known = n[0] === "a" ? Object.hasOwn(UNARY, n[1]) || Object.hasOwn(BINARY, n[1]) || n[1] === "hash" || n[1] === "select"
        : n[0] === "l" ? Object.hasOwn(tables, n[1]) : "cpse".includes(n[0]);
      if (!known) throw new Error(`no meaning for ${n[0]} ${n[1]}`);
    }
  }

  // nodes: as maskc.picture.encode writes them; tables: {name: {data, shape, shifts, batched}}.
  class Evaluator {
    constructor(nodes, tables) {
      check(nodes, tables);
      this.nodes = nodes;
      this.tables = tables;
      this.free = freeIndices(nodes);
    }

    // The value of node `root` at queries q x keys k (Float64Arrays of positions) under `at` = {h, b, layer, s, o}.
    value(root, q, k, at) {
      const scope = { q, k, at, nq: q.length, nk: k.length, index: {} };
      return this.find(root, scope, new Map());
    }

    // The same as a full nq x nk array.
    full(root, q, k, at) {
      const v = strides(this.value(root, q, k, at), k.length);
      const out = new Float64Array(q.length * k.length);
      for (let i = 0, n = 0; i < q.length; i++)
        for (let j = 0; j < k.length; j++) out[n++] = v.d[i * v.row + j * v.col];
      return out;
    }

    point(root, q, k, at) {
      return this.full(root, Float64Array.of(q), Float64Array.of(k), at)[0];
    }

    // Iterative: expressions may be deeper than the stack.
    find(root, scope, memo) {
      const stack = [root];
      while (stack.length) {
        const id = stack[stack.length - 1];
        if (memo.has(id)) {
          stack.pop();
          continue;
        }
        const n = this.nodes[id];
        const needs = n[0] === "l" || n[0] === "a" ? n[2] : n[0] === "e" ? [n[2]] : [];
        let ready = true;
        for (const c of needs)
          if (!memo.has(c)) {
            stack.push(c);
            ready = false;
          }
        if (ready) {
          memo.set(id, this.one(id, n, scope, memo));
          stack.pop();
        }
      }
      return memo.get(root);
    }

    one(id, n, scope, memo) {
      if (n[0] === "c" || n[0] === "p") return { s: 0, d: typeof n[1] === "string" ? special(n[1]) : n[1] };
      if (n[0] === "s") return this.symbol(n[1], scope);
      if (n[0] === "l") return this.lookup(n, n[2].map((i) => memo.get(i)), scope);
      if (n[0] === "e") return this.exists(n, scope, memo);
      return this.apply(n, n[2].map((i) => memo.get(i)), scope);
    }

    symbol(name, scope) {
      if (name === "q") return { s: 1, d: scope.q };
      if (name === "k") return { s: 2, d: scope.k };
      if (name in scope.index) return { s: 0, d: scope.index[name] };
      const value = scope.at[name];
      if (value === undefined) throw new Error(`no value for ${name}`);
      return { s: 0, d: value };
    }

    apply(n, args, scope) {
      const { nq, nk } = scope;
      const op = n[1];
      if (op === "select") return mapMany(pick, args, nq, nk);
      if (op === "hash") return mapMany(hashOf, args, nq, nk);
      const f = (n[3] === "i" && INTEGER[op]) || UNARY[op] || BINARY[op];
      if (args.length === 1) return map1(f, args[0], nq, nk);
      return args.reduce((a, b) => map2(f, a, b, nq, nk));
    }

    lookup(n, indices, scope) {
      const t = this.tables[n[1]];
      if (t.shape.includes(0)) return { s: 0, d: 0 };
      const all = t.batched ? [{ s: 0, d: scope.at.b }, ...indices] : indices;
      const shifts = t.batched ? [0, ...t.shifts] : t.shifts;
      const { shape, data } = t;
      return mapMany((args) => {
        let at = 0;
        for (let i = 0; i < shape.length; i++) {
          const x = args[i] - shifts[i];
          at = at * shape[i] + (x < 0 ? 0 : x >= shape[i] ? shape[i] - 1 : x);
        }
        return data[at];
      }, all, scope.nq, scope.nk);
    }

    exists(n, scope, memo) {
      const count = memo.get(n[2]);
      const most = count.s === 0 ? count.d : count.d.reduce((a, b) => Math.max(a, b), 0);
      let found = map1(() => 0, count, scope.nq, scope.nk);
      const outside = new Map();
      for (let i = 0; i < most; i++) {
        const inner = { ...scope, index: { ...scope.index, [n[1]]: i } };
        // What does not speak of this index is computed once.
        const known = new Map();
        for (const [id, v] of memo) if (!this.free[id].has(n[1])) known.set(id, v);
        for (const [id, v] of outside) known.set(id, v);
        const body = this.find(n[3], inner, known);
        if (i === 0) for (const [id, v] of known) if (!this.free[id].has(n[1])) outside.set(id, v);
        const here = map1((c) => (i < c ? 1 : 0), count, scope.nq, scope.nk);
        found = map2(BINARY.or, found, map2(BINARY.and, here, body, scope.nq, scope.nk), scope.nq, scope.nk);
      }
      return found;
    }
  }

  const special = (text) => (text === "nan" ? NaN : text === "-inf" ? -Infinity : Infinity);

  // ---- Reading what maskc.picture.encode wrote ----

  async function inflate(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function array(block, ref) {
    const { at, n, kind } = ref;
    const out = new Float64Array(n);
    if (kind === "bits") {
      for (let i = 0; i < n; i++) out[i] = (block[at + (i >> 3)] >> (i & 7)) & 1;
    } else if (kind === "d4") {
      let sum = 0;
      for (let i = 0; i < n; i++) {
        sum += block[at + i] | (block[at + n + i] << 8) | (block[at + 2 * n + i] << 16) | (block[at + 3 * n + i] << 24);
        out[i] = sum;
      }
    } else {
      const view = new DataView(new ArrayBuffer(8));
      for (let i = 0; i < n; i++) {
        for (let p = 0; p < 8; p++) view.setUint8(p, block[at + p * n + i]);
        out[i] = view.getFloat64(0, true);
      }
    }
    return out;
  }

  function runs(block, ref) {
    const count = array(block, ref.count);
    const step = array(block, ref.step);
    const span = array(block, ref.span);
    const offsets = new Int32Array(count.length + 1);
    for (let r = 0; r < count.length; r++) offsets[r + 1] = offsets[r] + count[r];
    const start = new Int32Array(step.length);
    const end = new Int32Array(step.length);
    const kind = new Uint8Array(step.length);
    for (let r = 0; r < count.length; r++)
      for (let i = offsets[r]; i < offsets[r + 1]; i++) {
        const above = r > 0 ? offsets[r - 1] + (i - offsets[r]) : -1;
        start[i] = step[i] + (above >= 0 && above < offsets[r] ? start[above] : 0);
        end[i] = start[i] + (span[i] >> 1);
        kind[i] = 1 + (span[i] & 1);
      }
    return { offsets, start, end, kind };
  }

  function tables(block, refs) {
    const out = Object.create(null); // An input may be called __proto__.
    for (const [name, t] of Object.entries(refs))
      out[name] = { data: array(block, t.array), shape: t.array.shape, shifts: t.shifts, batched: t.batched };
    return out;
  }

  // ---- Which clause decides, as `maskc why` says it ----

  const COMPARISONS = { lt: "<", le: "<=", eq: "==", ne: "!=" };

  class Examiner {
    // texts and sources: {node number: text}.
    constructor(evaluator, texts, sources) {
      Object.assign(this, { evaluator, texts, sources });
    }

    examine(root, q, k, at) {
      this.left = 300;
      return this.clause(root, (id) => this.evaluator.point(id, q, k, at), 0);
    }

    clause(id, value, depth) {
      this.left--;
      const n = this.evaluator.nodes[id];
      const op = n[0] === "a" ? n[1] : "";
      const holds = value(id) !== 0;
      const base = { text: this.texts[id] ?? "...", source: this.sources[id] ?? "", holds, values: "", parts: [] };
      if (["and", "or", "not", "select"].includes(op) && this.left > 0 && depth < 50) {
        const parts = op === "select" ? [value(n[2][0]) ? n[2][1] : n[2][2]] : n[2];
        const clauses = parts.map((p) => this.clause(p, value, depth + 1));
        return { ...base, kind: op === "select" ? "match" : op, parts: clauses };
      }
      return { ...base, kind: "clause", values: this.operands(n, value) };
    }

    operands(n, value) {
      if (n[0] !== "a" || !(n[1] in COMPARISONS)) return "";
      const nodes = this.evaluator.nodes;
      if (n[2].every((i) => nodes[i][0] === "c")) return "";
      const show = (i) => {
        const type = nodes[i][nodes[i].length - 1];
        const v = value(i);
        return type === "b" ? (v ? "true" : "false") : type === "f" ? String(Number(v.toPrecision(6))) : String(v);
      };
      return `${show(n[2][0])} ${COMPARISONS[n[1]]} ${show(n[2][1])}`;
    }
  }

  function deciding(clause) {
    while (clause.parts.length) {
      let parts = clause.parts;
      if (clause.kind === "and" || clause.kind === "or") {
        const wanted = clause.kind === "or";
        if (clause.holds !== wanted) return clause;
        parts = parts.filter((p) => p.holds === wanted);
      }
      clause = parts[0];
    }
    return clause;
  }

  const within = (clause, inner) => clause === inner || clause.parts.some((p) => within(p, inner));

  function around(clause, inner) {
    if (clause === inner) return inner;
    const below = clause.parts.filter((p) => within(p, inner)).map((p) => around(p, inner));
    const found = below.length ? below[0] : inner;
    return found.source ? found : clause.source ? clause : found;
  }

  function named(clause, decides) {
    const written = clause.source || clause.text;
    let shown = `\`${written}\``;
    const where = written !== decides.text && !decides.parts.length;
    if (where) shown += `, where \`${decides.text}\``;
    if (decides.values) shown += where ? ` is ${decides.values}` : `, that is ${decides.values}`;
    return `${shown} (${decides.holds})`;
  }

  const MOST_NAMED = 40; // clauses that a sentence lists
  function sentence(q, k, whole) {
    const decides = deciding(whole);
    const start = `Query ${q} ${whole.holds ? "sees" : "does not see"} key ${k}`;
    if (!decides.parts.length)
      return `${start}, for ${named(whole === decides ? whole : around(whole, decides), decides)}.`;
    const parts = decides.parts.slice(0, MOST_NAMED).map((p) => named(p, deciding(p)));
    if (decides.parts.length > MOST_NAMED) parts.push(`and ${decides.parts.length - MOST_NAMED} more`);
    return `${start}. ${decides.holds ? "All of these hold" : "None of these holds"}: ${parts.join("; ")}.`;
  }

  return { Inexact, Evaluator, Examiner, sentence, inflate, array, runs, tables };
})();
if (typeof module !== "undefined") module.exports = maskc;
