// The memory of one head, as the state explorer follows and paints it.
//
// A page, from the kernel or in the page of `to_html`, is one head's: float32, for each text k, v, alpha, beta and the
// initial state, then the limits of the colours (see `page` in minqwen/widgets/state.py). The delta rule is run here,
// in double precision; tests/pixels.py does the same in the same order, and compares every pixel.

import { floatsOf, shadeOf } from "./numbers.js";

// ---------------------------------------------------------------------------------------------------------- the memory

// Of a step; the memory is the first minus the second plus the third.
export const PARTS = ["decayed", "erased", "written"];

export function openPage(page, story) {                    // { memories: one for each text, limits }
  const all = floatsOf(page), { key_dim: Dk, value_dim: Dv } = story;
  let start = 0;
  const take = (count) => all.subarray(start, (start += count));
  const memories = story.texts.map(({ tokens: { length: T }, begins_empty: empty }) => {
    const numbers = { T, Dk, Dv, k: take(T * Dk), v: take(T * Dv), alpha: take(T), beta: take(T) };
    return new Memory(numbers, take(empty ? 0 : Dk * Dv), story.kept);
  });
  const [memory, key, value] = take(3);
  return { memories, limits: { memory, key, value } };
}

class Memory {
  // One head's memory, followed through a text. The state before every `stride`-th token is kept: before each, unless
  // that were more than `kept` bytes.
  constructor(numbers, initial, kept) {
    Object.assign(this, numbers);
    this.stride = Math.max(1, Math.ceil((this.T * this.Dk * this.Dv * 8) / kept));
    this.kept = [initial.length ? Float64Array.from(initial) : new Float64Array(this.Dk * this.Dv)];
  }

  key(t) { return this.k.subarray(t * this.Dk, (t + 1) * this.Dk); }
  value(t) { return this.v.subarray(t * this.Dv, (t + 1) * this.Dv); }

  ask(state, k) {                                          // S^T k
    const answer = new Float64Array(this.Dv);
    for (let i = 0; i < this.Dk; i++)
      for (let j = 0; j < this.Dv; j++) answer[j] += k[i] * state[i * this.Dv + j];
    return answer;
  }

  step(state, t) {
    const { Dk, Dv } = this, [key, value, alpha, beta] = [this.key(t), this.value(t), this.alpha[t], this.beta[t]];
    const decayed = state.map((x) => alpha * x);
    const answer = this.ask(decayed, key);
    const error = answer.map((x, j) => value[j] - x);
    const [erased, written, memory] = [0, 0, 0].map(() => new Float64Array(Dk * Dv));
    for (let i = 0; i < Dk; i++)
      for (let j = 0; j < Dv; j++) {
        const at = i * Dv + j;
        erased[at] = key[i] * (beta * answer[j]);
        written[at] = key[i] * (beta * value[j]);
        memory[at] = decayed[at] - erased[at] + written[at];
      }
    return { memory, decayed, erased, written, key, answer, error, value };
  }

  before(t) {                                              // the memory as token t finds it, not yet faded
    const near = Math.min(Math.floor(t / this.stride), this.kept.length - 1);
    let state = this.kept[near];
    for (let i = near * this.stride; i < t; i++) {
      state = this.step(state, i).memory;
      if ((i + 1) % this.stride === 0) this.kept.push(state);
    }
    return state;
  }

  recall(state, t) {                                       // for every key so far: does it bring back its value?
    return Array.from({ length: t + 1 }, (_, j) => cosine(this.ask(state, this.key(j)), this.value(j)));
  }

  matches(answer, t) {                                     // how close an answer is to every value so far
    return Array.from({ length: t + 1 }, (_, j) => cosine(answer, this.value(j)));
  }
}

export const together = (parts, on) =>                            // the sum of those that are on
  parts.decayed.map((x, i) => {
    let total = on.decayed ? x : 0;
    if (on.erased) total -= parts.erased[i];
    if (on.written) total += parts.written[i];
    return total;
  });

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
export const length = (a) => Math.sqrt(dot(a, a));
export const cosine = (a, b) => dot(a, b) / Math.max(length(a) * length(b), 1e-12);
export const highest = (numbers) => numbers.reduce((best, x, i) => (x > numbers[best] ? i : best), 0);

// --------------------------------------------------------------------------------------------------------- the picture

const unitOf = (Dk) => Math.max(1, Math.floor((Dk + 8) / 16));

// Where what a picture is put together from stands in it. One text: four matrices in a row, memory = decayed - erased +
// written; left of the last two the key, as a column; below them, sharing their columns, the memory's answer to the key
// now, its error before, its answer before, the value. Two texts: three matrices, first - second = difference.
export function layout(Dk, Dv, texts) {
  const unit = unitOf(Dk), names = texts === 1 ? ["memory", ...PARTS] : ["first", "second", "difference"];
  const x = names.map((_, i) => i * (Dv + 6 * unit));
  const places = names.map((name, i) => ({ name, scale: "memory", x: x[i], y: 0, w: Dv, h: Dk }));
  const width = x.at(-1) + Dv;
  if (texts === 2) return { unit, x, places, width, height: Dk };
  for (const i of [2, 3]) places.push({ name: "key", scale: "key", x: x[i] - 2 * unit, y: 0, w: unit, h: Dk });
  ["now", "error", "answer", "value"].forEach((name, i) =>
    places.push({ name, scale: "value", x: x[i], y: Dk + unit, w: Dv, h: 2 * unit }));
  return { unit, x, places, width, height: Dk + 3 * unit };
}

export function answersLayout(Dk, Dv, names) {              // one strip below the other, as wide as a matrix
  const unit = unitOf(Dk);
  const places = names.map((name, i) => ({ name, scale: "value", x: 0, y: 3 * unit * i, w: Dv, h: 2 * unit }));
  return { unit, places, width: Dv, height: 3 * unit * names.length - unit };
}

// The cells that a point of a place stands for: where the first one is, how many there are, down and across.
export function cellsOf({ scale }, x, y, block, Dk, Dv) {
  const down = scale === "value" ? [0, 1] : [y * block, Math.min(block, Dk - y * block)];
  const across = scale === "key" ? [0, 1] : [x * block, Math.min(block, Dv - x * block)];
  return { row: down[0], rows: down[1], column: across[0], columns: across[1], wide: scale === "key" ? 1 : Dv };
}

function strongest(numbers, { row, rows, column, columns, wide }) {
  let best = numbers[row * wide + column];
  for (let i = row; i < row + rows; i++)
    for (let j = column; j < column + columns; j++) {
      const x = numbers[i * wide + j];
      if (Math.abs(x) > Math.abs(best)) best = x;
    }
  return best;
}

// Paint these parts, name -> numbers. A point stands for `block` x `block` cells, as the strongest of them.
//   sizes   { block, Dk, Dv }
export function paint(canvas, plan, parts, limits, palette, { block, Dk, Dv }) {
  const { width, height } = plan;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (const place of plan.places) {
    const numbers = parts[place.name], limit = limits[place.scale];
    for (let y = 0; y < place.h; y++)
      for (let x = 0; x < place.w; x++) {
        const shade = shadeOf(strongest(numbers, cellsOf(place, x, y, block, Dk, Dv)), limit);
        pixels[(place.y + y) * width + place.x + x] = palette[shade];
      }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
