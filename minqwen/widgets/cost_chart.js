// What the explorer of a context's cost counts and paints. What the counts are and where they come from is said in
// minqwen/widgets/cost.py; tests/pixels.py paints the same, and compares every pixel.

// ------------------------------------------------------------------------------------------------------------ counting

// Bytes and operations of a batch at a context: chart -> line -> number. See `cost` in cost.py.
export function costOf(counts, { context, batch, dtype, work, bits }, bytes) {
  const more = counts.layers / (counts.attention_layers || 1);
  const keysAndValues = batch * context * counts.key_values * bytes[dtype];
  const [count, pairs] = work === "token" ? [1, context] : [context, (context * (context + 1)) / 2];
  const attention = batch * pairs * counts.pair, states = counts.states + counts.convolutions * bytes[dtype];
  return {
    memory: { weights: counts.weights[`${dtype} ${bits}`], "keys and values": keysAndValues, states: batch * states,
              "all attention": keysAndValues * more },
    work: { attention, "delta rule": batch * count * counts.rule,
            matrices: batch * (count * counts.matrices + counts.head), "all attention": attention * more },
  };
}

export const totalOf = (costs) =>
  Object.entries(costs).reduce((sum, [name, x]) => (name === "all attention" ? sum : sum + x), 0);

function inUnits(x, units) {                               // three digits, in powers of a thousand
  let i = 0;
  for (; Number(x.toPrecision(3)) >= 1000 && i < units.length - 1; i++) x /= 1000;
  return `${Number(x.toPrecision(3))} ${units[i]}`.trim();
}
export const inBytes = (x) => inUnits(x, ["bytes", "kB", "MB", "GB", "TB", "PB"]);
export const inOperations = (x) => inUnits(x, ["", "k", "M", "G", "T", "P", "E"]);

// --------------------------------------------------------------------------------------------------------- the picture

const DOT = 9;                                             // pixels: how far a dot reaches

function inksOf(colours) {                                 // one number for each colour, as a pixel has it in memory
  return Object.fromEntries(Object.entries(colours).map(([name, colour]) => {
    const rgb = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return [name, new Uint32Array(new Uint8Array([...rgb, 255]).buffer)[0]];
  }));
}

// A chart on two logarithmic axes.
//   lines   from the back to the front: { valueAt(column), colour, thick, dashed, dot }; zeros are not drawn
//   at      the column that is marked; step: columns from one context to the next
export function paintChart(canvas, lines, { at, step }, [low, high], colours) {
  const { width, height } = canvas, image = new ImageData(width, height), inks = inksOf(colours);
  const pixels = new Uint32Array(image.data.buffer);
  const shareOf = (x) => (Math.log10(x) - low) / (high - low);
  const heightOf = (x) => (x === 0 ? null : Math.floor((1 - shareOf(x)) * (height - 1) + 0.5 + 1e-6));
  const upright = (x, top, bottom, ink) => {
    for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) pixels[y * width + x] = ink;
  };
  for (let decade = low; decade <= high; decade++) {
    const row = heightOf(10 ** decade);
    pixels.fill(inks.grid, Math.max(0, row - 1) * width, (row + 1) * width);
  }
  for (let x = 0; x < width; x += step)
    for (const beside of [0, 1]) if (x + beside < width) upright(x + beside, 0, height, inks.grid);
  for (let x = Math.max(0, at - 1); x < Math.min(width, at + 2); x++) upright(x, 0, height, inks.here);
  for (const { valueAt, colour, thick, dashed, dot } of lines) {
    const rows = Array.from({ length: width }, (_, x) => heightOf(valueAt(x)));
    rows.forEach((row, x) => {
      const following = rows[Math.min(x + 1, width - 1)];
      if (row === null || following === null || (dashed && Math.floor(x / 12) % 2)) return;
      upright(x, Math.min(row, following) - thick, Math.max(row, following) + thick + 1, inks[colour]);
    });
    if (!dot || rows[at] === null) continue;
    for (let x = Math.max(0, at - DOT); x < Math.min(width, at + DOT + 1); x++) {
      const reach = Math.floor(Math.sqrt(90 - (x - at) ** 2));
      upright(x, rows[at] - reach, rows[at] + reach + 1, inks[colour]);
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
