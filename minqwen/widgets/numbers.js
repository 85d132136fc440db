// Numbers, words and keys that the explorers share. Nothing here touches a page, so that Node can test it.

// ------------------------------------------------------------------------------------------------------------- numbers

export const bytesOf = (page) =>                           // base64 in a page, a DataView in a notebook
  typeof page === "string" ? Uint8Array.from(atob(page), (c) => c.charCodeAt(0))
    : new Uint8Array(page.buffer ?? page, page.byteOffset ?? 0, page.byteLength);

export const floatsOf = (page) => new Float32Array(bytesOf(page).slice().buffer);

export function openPalette(page) {                        // one number for each colour, as a pixel has it in memory
  const rgb = bytesOf(page), pixels = new Uint8Array(4 * 256).fill(255);
  for (let i = 0; i < 256; i++) pixels.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  return new Uint32Array(pixels.buffer);
}

export const cssOf = (palette, shade) => `rgb(${[0, 8, 16].map((bits) => (palette[shade] >> bits) & 255).join(" ")})`;

// Which of a palette's colours a number has: 128 is zero, 255 the limit, 1 its opposite.
export const shadeOf = (x, limit) => Math.min(255, Math.max(1, Math.floor((x / limit) * 127 + 128.5)));

// The same where nothing is negative: 0 is zero, 255 the limit.
export const shadeFromZero = (x, limit) => Math.min(255, Math.max(0, Math.floor((x / limit) * 255 + 0.5)));

export const clamp = (x, [first, last]) => Math.min(last, Math.max(first, x));

// --------------------------------------------------------------------------------------------------------------- words

export const signed = (x, digits = 4) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
export const percent = (x) => `${(100 * x).toFixed(x >= 1 || x < 0.99 ? 0 : x < 0.999 ? 1 : 2)} %`;
export const chance = (p) => {
  if (p >= 0.9995 || p === 0) return `${Math.round(100 * p)} %`;
  return p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %";
};
export const grouped = (x) => x.toLocaleString("en");      // 1,048,576
export const kilobytes = (bytes) => `${grouped(Math.ceil(bytes / 1000))} kB`;

// A token's text, its white space made visible.
export const readable = (text) => text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";

export function endOf(text, most = 60) {                   // the last words of a text that is longer
  const line = text.replace(/\s+/g, " ");
  return line.length > most ? line.slice(-most).replace(/^\S*(?=\s)|^/, "…") : line;
}

// A sentence, made of strings and elements, as a string.
export const plain = (parts) => parts.map((part) => part.textContent ?? part).join("");

// ---------------------------------------------------------------------------------------------------------------- keys

// Where a key leads: [what to move, by how much]; undefined for a key that is none of ours. In every explorer left and
// right are the token, up and down the head, Page Up and Page Down the layer.
//   along   what the sideways keys move, if it is not the token
//   own     further keys of an explorer
export function moveOf(key, along = "token", own = {}) {
  const moves = {
    ArrowLeft: [along, -1], ArrowRight: [along, 1], Home: [along, -Infinity], End: [along, Infinity],
    ArrowUp: ["head", 1], ArrowDown: ["head", -1], PageUp: ["layer", 1], PageDown: ["layer", -1], ...own,
  };
  const name = key.length === 1 ? key.toLowerCase() : key; // with or without Shift
  return Object.hasOwn(moves, name) ? moves[name] : undefined;
}

// By how many steps a slider's own keys move it, on a way of `whole` steps; undefined for every other key.
export function slideBy(key, whole) {
  const far = Math.max(1, Math.round(whole / 10));
  const ways = new Map([["ArrowLeft", -1], ["ArrowDown", -1], ["PageDown", -far], ["Home", -Infinity],
    ["ArrowRight", 1], ["ArrowUp", 1], ["PageUp", far], ["End", Infinity]]);
  return ways.get(key);
}
