// What the vision explorer shows: weights and pictures, and how they are painted.
//
// Pages, from the kernel or in the page of `to_html`, are one for each slice - a picture, or the few frames of a clip
// that one token spans - with its pixels; and one for each token, its weights in all layers and heads, float32 (see
// `page` in minqwen/widgets/vision.py). tests/pixels.py paints the same, by whole numbers and by sums in double
// precision in the same order, and compares every pixel.

import { bytesOf, floatsOf, shadeOf } from "./numbers.js";

// ------------------------------------------------------------------------------------------------------------- weights

export const openFrames = bytesOf;

export function openWeights(page, story) {                 // for each layer Float32Array, heads by T
  const all = floatsOf(page);
  let start = 0;
  return story.layers.map(({ heads }) => all.subarray(start, (start += heads * story.tokens.length)));
}

// (T,): one head's weights, or with head = -1 the mean of all. Without signs only their size.
export function chosen(weights, heads, head, signs) {
  const T = weights.length / heads, sized = (x) => (signs ? x : Math.abs(x));
  if (head >= 0) return Float64Array.from(weights.subarray(head * T, (head + 1) * T), sized);
  const mean = new Float64Array(T);
  for (let h = 0; h < heads; h++) for (let t = 0; t < T; t++) mean[t] += sized(weights[h * T + t]);
  return mean.map((x) => x / heads);
}

export const largest = (numbers, places) => places.reduce((most, i) => Math.max(most, Math.abs(numbers[i])), 0);
export const strongest = (numbers, places) =>
  places.reduce((best, i) => (Math.abs(numbers[i]) > Math.abs(numbers[best]) ? i : best), places[0]);

// ------------------------------------------------------------------------------------------------------------ pictures

const luma = (r, g, b) => (77 * r + 150 * g + 29 * b) >> 8;
const INKS = [[227, 230, 234], [36, 41, 47]];

function lines(length, { patch, merge, zoom }) {           // 2 between tokens, 1 between patches, 0 elsewhere
  const fine = patch * zoom, token = fine * merge;
  return Array.from({ length }, (_, x) =>
    x % token === 0 || (token >= 24 && (x + 1) % token === 0) ? 2 : fine >= 8 && x % fine === 0 ? 1 : 0);
}

// The weights' colours over a pale grey picture, the mean of the frames: (h, w, 3) bytes.
function veiled(frames, veil, slice, weights, limit, rgb) {
  const { height, width, frames: F, patch, merge, columns } = slice, side = patch * merge, pixels = height * width;
  const out = new Uint8Array(3 * pixels), mean = [0, 0, 0];
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) {
      let sum = Math.floor(F / 2);
      for (let f = 0; f < F; f++) sum += frames[3 * (f * pixels + i) + c];
      mean[c] = Math.floor(sum / F);
    }
    const row = Math.floor(i / width / side), column = Math.floor((i % width) / side);
    const grey = luma(...mean), shade = 4 * shadeOf(weights[row * columns + column], limit);
    for (let c = 0; c < 3; c++) out[3 * i + c] = (veil * rgb[shade + c] + (256 - veil) * grey) >> 8;
  }
  return out;
}

// One panel, enlarged, with the lines between patches and tokens: darker where it is bright, else brighter.
function paintPanel(data, [width, left], source, slice, soft) {
  const { zoom, height: h, width: w } = slice, [down, across] = [lines(h * zoom, slice), lines(w * zoom, slice)];
  for (let y = 0; y < h * zoom; y++)
    for (let x = 0; x < w * zoom; x++) {
      const from = 3 * (Math.floor(y / zoom) * w + Math.floor(x / zoom)), to = 4 * (y * width + left + x);
      const pale = soft[Math.max(down[y], across[x])];
      const bright = luma(source[from], source[from + 1], source[from + 2]) >= 128;
      for (let c = 0; c < 3; c++)
        data[to + c] = bright ? (source[from + c] * pale) >> 8 : 255 - (((255 - source[from + c]) * pale) >> 8);
      data[to + 3] = 255;
    }
}

function paintMark(data, [width, left], mark, { patch, merge, zoom, columns }, dark) {                // about one token
  const unit = patch * merge * zoom, ring = unit >= 24 ? 2 : 1, [ink, paper] = dark ? INKS : [INKS[1], INKS[0]];
  const inwards = (x) => Math.min(x, unit - 1 - x), top = Math.floor(mark / columns) * unit;
  const first = left + (mark % columns) * unit;
  for (let y = 0; y < unit; y++)
    for (let x = 0; x < unit; x++) {
      const edge = Math.min(inwards(y), inwards(x));
      if (edge <= ring) data.set(edge < ring ? ink : paper, 4 * ((top + y) * width + first + x));
    }
}

// A slice frame by frame with its grids, and beside it, over a pale grey one, the weights.
//   map      { weights, limit, mark }: a weight for each token; the one with the full colour; the token marked, or null
//   colours  { palette, dark }
export function paintSlice(canvas, { size, veil }, slice, frames, { weights, limit, mark }, { palette, dark }) {
  const [height, width, step] = size, image = new ImageData(width, height), { height: h, width: w, frames: F } = slice;
  const over = veiled(frames, veil, slice, weights, limit, new Uint8Array(palette.buffer));
  for (let i = 0; i <= F; i++) {
    const source = i < F ? frames.subarray(3 * i * h * w, 3 * (i + 1) * h * w) : over;
    paintPanel(image.data, [width, i * step], source, slice, i < F ? [256, 200, 96] : [256, 256, 208]);
    if (mark !== null) paintMark(image.data, [width, i * step], mark, slice, dark);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Every layer and head at once, in a grid of tiles; maps: for each layer the mean of its heads, then its heads.
export function paintOverview(tiles, { rows, columns, unit }, maps, limits, palette) {
  const { canvas } = tiles, image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  maps.forEach((heads, layer) => heads.forEach((numbers, row) => {
    const top = tiles.topOf(row), left = tiles.leftOf(layer);
    for (let y = 0; y < rows * unit; y++)
      for (let x = 0; x < columns * unit; x++) {
        const number = numbers[Math.floor(y / unit) * columns + Math.floor(x / unit)];
        pixels[(top + y) * canvas.width + left + x] = palette[shadeOf(number, limits[layer])];
      }
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}
