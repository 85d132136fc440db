// Stands in for Python's kernel: what the explorers of state and attention are told, and what they ask for, made here
// of what nano.js has computed. minqwen/widgets/state.py and attention.py do the same; tests/test_live.py compares.
//
//     read    { tokens, cache, layers }: the text and kind of each token; what the model left, layer by layer

import { shadeFromZero, shadeOf } from "../minqwen/widgets/numbers.js";
import { deltaRule, softmax } from "./nano.js";

// What an explorer takes for its widget's model: values by name, and pages, which are made when they are wanted.
export class Kernel {
  constructor(state, page) {
    Object.assign(this, { state: { pages: {}, problem: "", ...state }, page, listeners: {} });
  }

  get(name) { return this.state[name]; }

  set(name, value) {
    const changed = this.state[name] !== value;
    this.state[name] = value;
    if (changed) this.tell(`change:${name}`);
  }

  // Later, as a kernel would: between two pages the browser has a turn.
  send({ want }) { setTimeout(() => this.tell("msg:custom", { page: want }, [this.page(want)])); }
  tell(event, ...what) { for (const listener of this.listeners[event] ?? []) listener(...what); }
  on(event, listener) { (this.listeners[event] ??= []).push(listener); }
  off() {}                                                 // an explorer leaves together with its kernel
  save_changes() {}
}

const packed = (...numbers) => new Uint8Array(Float32Array.from(numbers.flatMap((x) => [...x])).buffer);
const most = (numbers) => numbers.reduce((best, x) => Math.max(best, Math.abs(x)), 0);

// What gets the full colour: one number in a hundred may be over it, or a few would leave the rest pale.
function limitOf(numbers) {
  const sizes = Float32Array.from(numbers, Math.abs).sort().reverse();
  return sizes[Math.floor(sizes.length / 100)];
}

// -------------------------------------------------------------------------------------------------- the state explorer

export function stateStory(story, { tokens }) {
  const { key_dim: Dk, value_dim: Dv } = story;
  return { ...story, texts: [{ tokens, begins_empty: true }], page_bytes: 4 * (3 + tokens.length * (Dk + Dv + 2)) };
}

export function statePage(name, { cache }) {               // "layer head": keys, values, gates, limits of the colours
  const [layer, head] = name.split(" ").map(Number), steps = cache[layer].steps.map((step) => step[head]);
  const S = new Float32Array(steps[0].k.length * steps[0].v.length);
  const memory = steps.reduce((limit, step) => {
    deltaRule(S, step);
    return Math.max(limit, limitOf(S));
  }, 0);
  const [k, v, alpha, beta] = ["k", "v", "alpha", "beta"].map((part) => steps.map((step) => step[part]));
  const limits = [memory, ...[k, v].map((vectors) => most(vectors.map(most)))].map((limit) => limit || 1);
  return packed(...k, ...v, alpha, beta, limits);
}

// ---------------------------------------------------------------------------------------------- the attention explorer

// Who looks at whom: the rows of a head's map, each up to the diagonal.
export function mapOf({ cache, layers }, layer, head) {
  if (layers[layer].kind === "linear_attention") {
    // How much of each value is in what is read: the memory itself tells, if token t writes nothing but "this was t".
    const steps = cache[layer].steps, T = steps.length, S = new Float32Array(steps[0][head].k.length * T);
    return steps.map((step, t) => {
      const v = new Float32Array(T);
      v[t] = 1;
      return deltaRule(S, { ...step[head], v }).slice(0, t + 1);
    });
  }
  const { q, k } = cache[layer], shared = Math.floor((head * k[0].length) / q[0].length);
  return q.map(({ [head]: query }, t) => softmax(Float32Array.from(k.slice(0, t + 1), ({ [shared]: key }) =>
    query.reduce((sum, x, i) => sum + x * key[i], 0) / Math.sqrt(query.length))));
}

const sizesOf = (row) => {                                 // of its weights, and all of them together
  const sizes = Float64Array.from(row, Math.abs);
  return [sizes, Math.max(sizes.reduce((sum, x) => sum + x), 1e-12)];
};

function habits(rows) {                                    // shares on the token itself, the one before, the first
  const told = rows.slice(2).map(sizesOf).map(([sizes, whole]) =>
    [sizes.at(-1), sizes.at(-2), sizes[0]].map((size) => size / whole));
  return [0, 1, 2].map((which) => told.reduce((sum, shares) => sum + shares[which], 0) / Math.max(1, told.length));
}

// Where a map shows most: how far above an even share of what a token looks at, which token looks, and at which.
export function telling(rows) {
  let best = { strength: rows.length < 3 ? 0 : -Infinity, token: rows.length - 1, seen: 0 };
  for (const [token, row] of rows.entries()) {
    const [sizes, whole] = sizesOf(row);
    for (let seen = 1; seen < token; seen++) {
      const strength = sizes[seen] / whole - 1 / (token + 1);
      if (strength > best.strength) best = { strength, token, seen };
    }
  }
  return best;
}

// (cells x cells) shades of a map's thumbnail, in which a pixel stands for the strongest weight of its block.
function thumbnail(rows, { block, cells }, both, limit) {
  const shades = new Uint8Array(cells * cells).fill(both ? 128 : 0), strongest = new Float32Array(cells * cells);
  rows.forEach((row, i) => row.forEach((x, j) => {
    const at = Math.floor(i / block) * cells + Math.floor(j / block);
    if (Math.abs(x) <= Math.abs(strongest[at])) return;
    strongest[at] = x;
    shades[at] = (both ? shadeOf : shadeFromZero)(x, limit);
  }));
  return shades;
}

// room: { side, cell, tile } in pixels: an opened map, the largest of its cells, a thumbnail
export function attentionStory(story, room, { tokens }) {
  const T = tokens.length, fit = (block) => ({ block, cells: Math.ceil(T / block) });
  const [map, tile] = [room.side, room.tile].map((side) => fit(Math.ceil(T / side)));
  map.unit = Math.max(1, Math.min(room.cell, Math.floor(room.side / map.cells)));
  tile.unit = Math.max(1, Math.floor(room.tile / tile.cells));
  return { ...story, tokens, map, tile, map_bytes: 4 + 2 * T * (T + 1) };
}

export function attentionPage(name, story, read) {         // "map layer head", or "layer l": thumbnails of its heads
  const [kind, layer, head] = name.split(" ");
  const limited = (rows) => limitOf(rows.flatMap((row) => [...row])) || most(rows.map(most)) || 1;
  if (kind === "map") {
    const rows = mapOf(read, layer, head);
    return packed([limited(rows)], ...rows);
  }
  const { heads, signed: both } = story.layers.find(({ index }) => index === Number(layer));
  const maps = Array.from({ length: heads }, (_, h) => mapOf(read, layer, h)), limits = maps.map(limited);
  const told = packed(...maps.map((rows, h) => [limits[h], ...habits(rows)]));
  const tiles = maps.map((rows, h) => thumbnail(rows, story.tile, both, limits[h]));
  return Uint8Array.from([told, ...tiles].flatMap((bytes) => [...bytes]));
}
