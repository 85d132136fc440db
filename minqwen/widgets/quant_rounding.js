// How the explorer of quantization rounds and paints; rounding is that of minqwen/quantize.py, in float32 at each step.

import { shadeOf } from "./numbers.js";

const f = Math.fround;

function toNearest(x) {                                    // halfway to the even one, as torch does
  const low = Math.floor(x), rest = x - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

function codesOf(numbers, scale, bits) {
  const last = 2 ** (bits - 1) - 1;
  return Float32Array.from(numbers, (x) => Math.min(last, Math.max(-last - 1, toNearest(f(x / scale)))));
}

// A group in so many bits: { scale, becomes }. parts: of the widest scale, of which the best is taken.
export function roundedGroup(numbers, bits, parts) {
  let largest = 0, best = null;
  for (const x of numbers) largest = Math.max(largest, Math.abs(x));
  const widest = Math.max(f(largest / (2 ** (bits - 1) - 0.5)), f(1e-30));
  for (const part of bits < 8 ? parts : [1]) {
    const scale = f(f(part) * widest), becomes = codesOf(numbers, scale, bits).map((code) => code * scale);
    const lost = numbers.reduce((sum, x, i) => sum + f(x - becomes[i]) ** 2, 0);
    if (best === null || lost < best.lost) best = { scale, becomes, lost };
  }
  return best;
}

export const sizeOf = (numbers) => Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0));
export const inSignificant = (x) => `${Number(x.toPrecision(4))}`;

// Rows of numbers, a cell for each; a page that has fewer rows leaves the rest empty.
export function paintNumbers(canvas, numbers, K, [across, down], limit, palette) {
  const { width, height } = canvas, image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  numbers.forEach((x, i) => {
    const left = (i % K) * across, top = Math.floor(i / K) * down, colour = palette[shadeOf(x, limit)];
    for (let y = top; y < top + down; y++) pixels.fill(colour, y * width + left, y * width + left + across);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const inkOf = (colour) =>
  new Uint32Array(new Uint8Array([...[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)), 255]).buffer)[0];

// One group: a rung for each code where there is room for them, a stroke for each number, and from it to its code.
export function paintGroup(canvas, numbers, becomes, scale, bits, margin, colours) {
  const { width, height } = canvas, image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const inks = Object.fromEntries(Object.entries(colours).map(([name, colour]) => [name, inkOf(colour)]));
  const top = 2 ** (bits - 1) * scale;
  const largest = numbers.reduce((most, x) => Math.max(most, Math.abs(x)), top);
  const heightOf = (x) => Math.floor((1 - x / largest) / 2 * (height - 1 - 2 * margin) + margin + 0.5);
  const fill = (left, right, above, below, ink) => {
    for (let y = above; y < below; y++) pixels.fill(ink, y * width + left, y * width + right);
  };
  if (bits < 5)
    for (let code = -(2 ** (bits - 1)); code < 2 ** (bits - 1); code++)
      fill(0, width, heightOf(code * scale), heightOf(code * scale) + 1, inks.rung);
  const many = numbers.length, leftOf = (i) => Math.floor((i * width) / many);
  numbers.forEach((x, i) => {
    const left = leftOf(i), right = Math.max(left + 1, leftOf(i + 1) - 1), middle = Math.floor((left + right) / 2);
    const [at, goes] = [heightOf(x), heightOf(becomes[i])];
    fill(middle, middle + 1, Math.min(at, goes), Math.max(at, goes) + 1, inks.off);
    fill(left, right, goes, goes + 2, inks.off);
    fill(left, right, at - 1, at + 2, inks.number);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}
