// Qwen3.5, the whole architecture, top to bottom, once more: minqwen/model.py in another language.
//
// A checkpoint comes in as it lies in its folder; a text becomes tokens; a token becomes a vector, passes a stack of
// layers, and what stands at the top is turned into a guess of the next token. Each layer first mixes along the
// sequence, then works on the token by itself:
//
//     x  <-  x + mixer(RMSNorm(x))
//     x  <-  x + MLP(RMSNorm(x))
//
// In three layers of four the mixer is a Gated DeltaNet, a memory of fixed size that is written and overwritten; in
// every fourth it is gated attention, which looks back at every token there was.
//
// Tokens are read one by one, so all that is computed with are vectors (Float32Array) and matrices that wait for them,
// row by row. What the past has left is the cache; reading a question and writing an answer are one function, then.
//
// Names are those of model.py, and those of weights the official ones. Left out are pictures and clips, drafting by the
// multi-token head, the mixture of experts and YaRN.
//
//     S                the memory of a head of a Gated DeltaNet, Dk x Dv
//     alpha, beta      how much of it a token keeps, and how strongly it writes
//     Dk, Dv, D        the width of the memory's keys and of its values, and that of attention's heads

// ------------------------------------------------------------------------------------------------------ the checkpoint

// A safetensors file: the length of its header in 8 bytes, the header in JSON, then the numbers of all tensors. Gives
// the weights below `prefix`: name -> numbers. A bfloat16, as official weights are, is the upper half of a float32.
export function readSafetensors(bytes, prefix) {
  const size = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size))), weights = {};
  for (const [name, { dtype, data_offsets: offsets }] of Object.entries(header)) {
    const stored = bytes.slice(...offsets.map((at) => 8 + size + at)).buffer;
    if (!["BF16", "F32"].includes(dtype)) throw new TypeError(`${name} is ${dtype}; these are read: BF16 and F32.`);
    weights[name.replace(prefix, "").replace(/\.weight$/, "")] = new Float32Array(
      dtype === "F32" ? stored : new Uint32Array(new Uint16Array(stored)).map((upper) => upper << 16).buffer);
  }
  return weights;
}

// A checkpoint's files as the page holds them, the weights packed by gzip, in base64 -> { tokenizer, model, stopIds }.
export async function load({ config, tokenizer, generation_config: { eos_token_id: stopIds }, weights }) {
  const packed = new Blob([Uint8Array.from(atob(weights), (c) => c.charCodeAt(0))]).stream();
  const bytes = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  const model = new Qwen(config, readSafetensors(new Uint8Array(bytes), "model.language_model."));
  return { tokenizer: new Tokenizer(tokenizer), model, stopIds };
}

// Those of one module: { in_proj_qkv, A_log, ... } below "layers.0.linear_attn.".
const within = (weights, module) => Object.fromEntries(Object.entries(weights)
  .filter(([name]) => name.startsWith(module)).map(([name, numbers]) => [name.slice(module.length), numbers]));

// -------------------------------------------------------------------------------------------------------- text, tokens

// How a text is cut before anything is merged; the first that fits is taken. (JavaScript's \s is not quite Unicode's
// white space, which is meant here.)
const CUT = new RegExp([
  /'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])/u,                       // 's 't 'm 'd 're 've 'll
  /[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+/u,                                  // a word, and one character before it: " cup"
  /\p{N}/u,                                                            // every digit by itself
  / ?[^\p{White_Space}\p{L}\p{M}\p{N}]+[\r\n]*/u,                      // punctuation
  /\p{White_Space}*[\r\n]+/u,                                          // the ends of lines
  /\p{White_Space}+(?!\P{White_Space})/u,                              // spaces, but for one before a word
  /\p{White_Space}+/u,
].map(({ source }) => source).join("|"), "gu");

// Tokens are made of bytes, and tokenizer.json has a letter for each: those that can be seen stand for themselves.
const canBeSeen = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
const HIDDEN = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => !canBeSeen(byte));
const LETTERS = Array.from({ length: 256 }, (_, byte) =>
  String.fromCharCode(canBeSeen(byte) ? byte : 256 + HIDDEN.indexOf(byte)));

// A text without the spaces around it, as Python's `strip` leaves it: for that 1c to 1f, which separate, are such, too.
// eslint-disable-next-line no-control-regex
export const stripped = (text) => text.replace(/^[\p{White_Space}\x1c-\x1f]+|[\p{White_Space}\x1c-\x1f]+$/gu, "");

export class Tokenizer {
  constructor({ model: { vocab, merges }, added_tokens: added }) {
    this.vocab = vocab;
    this.ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    this.special = Object.fromEntries(added.map(({ content, id }) => [content, id]));
    this.bytes = [];                                       // of each token
    for (const [token, id] of Object.entries(vocab)) this.bytes[id] = [...token].map((c) => LETTERS.indexOf(c));
    for (const { content, id } of added) this.bytes[id] = [...new TextEncoder().encode(content)];
  }

  // The name of a special token in the text is text like any other.
  encode(text) { return (text.normalize("NFC").match(CUT) ?? []).flatMap((piece) => this.merge(piece)); }

  merge(piece) {                                           // byte pair encoding: what was learnt first comes first
    let parts = [...new TextEncoder().encode(piece)].map((byte) => LETTERS[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((right, i) => this.ranks.get(`${parts[i]} ${right}`) ?? Infinity);
      const first = ranks.reduce((a, b) => Math.min(a, b), Infinity), merged = [];
      if (first === Infinity) return parts.map((part) => this.vocab[part]);
      for (let i = 0; i < parts.length; i++) merged.push(ranks[i] === first ? parts[i] + parts[++i] : parts[i]);
      parts = merged;
    }
  }

  decode(ids) {
    const bytes = Uint8Array.from(ids.flatMap((id) => this.bytes[id] ?? []));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }

  // A question, as the checkpoint's chat template writes it. To answer at once is to have thought nothing.
  prompt(text, thinking = false) {
    const { "<|im_start|>": start, "<|im_end|>": end, "<think>": think, "</think>": thought } = this.special;
    return [start, ...this.encode(`user\n${stripped(text)}`), end, ...this.encode("\n"),
      start, ...this.encode("assistant\n"), think,
      ...(thinking ? this.encode("\n") : [...this.encode("\n\n"), thought, ...this.encode("\n\n")])];
  }
}

// ------------------------------------------------------------------------------------------------------------- vectors

// W x. Nearly all time is spent here. Four sums at once, for each addition of one has to wait for the last.
function linear(W, x) {
  const n = x.length, y = new Float32Array(W.length / n);
  for (let i = 0, at = 0; i < y.length; i++) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let j = 0; j < n; j += 4, at += 4) {
      a += W[at] * x[j];
      b += W[at + 1] * x[j + 1];
      c += W[at + 2] * x[j + 2];
      d += W[at + 3] * x[j + 3];
    }
    y[i] = a + b + (c + d);
  }
  return y;
}

const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};
const add = (a, b) => a.map((x, i) => x + b[i]);
const heads = (x, width) => Array.from({ length: x.length / width }, (_, h) => x.subarray(h * width, (h + 1) * width));
const joined = (vectors) => Float32Array.from(vectors.flatMap((x) => [...x]));

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const silu = (x) => x * sigmoid(x);
const softplus = (x) => (x > 20 ? x : Math.log1p(Math.exp(x)));

export function softmax(x) {
  const most = x.reduce((a, b) => Math.max(a, b)), e = x.map((score) => Math.exp(score - most));
  const sum = e.reduce((a, b) => a + b);
  return e.map((part) => part / sum);
}

const scaled = (x, factor) => x.map((part) => part * factor);
const l2norm = (x) => scaled(x, 1 / Math.sqrt(dot(x, x) + 1e-6));
const overRms = (x, eps) => scaled(x, 1 / Math.sqrt(dot(x, x) / x.length + eps));
const rmsNorm = (x, weight, eps) => overRms(x, eps).map((part, i) => part * (1 + weight[i]));
// The norm behind the delta rule, and its output gate z. Its weight is plain, not an offset from one.
const gatedRmsNorm = (x, weight, z, eps) => overRms(x, eps).map((part, i) => part * weight[i] * silu(z[i]));

// ----------------------------------------------------------------------------------------------------- gated attention

// Turn the first `dims` dimensions of a head by its token's position: dimension i is paired with i + dims / 2.
function rotate(x, position, dims, theta) {
  const y = x.slice(), half = dims / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * theta ** (-i / half), [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    y[i] = x[i] * cos - x[i + half] * sin;
    y[i + half] = x[i + half] * cos + x[i] * sin;
  }
  return y;
}

class GatedAttention {
  constructor(config, weights) {
    const { partial_rotary_factor: part, rope_theta: theta } = config.rope_parameters;
    Object.assign(this, { w: weights, D: config.head_dim, eps: config.rms_norm_eps });
    Object.assign(this, { dims: config.head_dim * part, theta });
    this.group = config.num_attention_heads / config.num_key_value_heads;      // query heads that share a key head
  }

  newCache() { return { q: [], k: [], v: [] }; }           // of each token its heads; queries only to be looked at

  forward(x, cache) {
    const { w, D, eps, dims, theta, group } = this, position = cache.k.length;
    const turned = (head, norm) => rotate(rmsNorm(head, norm, eps), position, dims, theta);
    const both = heads(linear(w.q_proj, x), 2 * D);                            // of each head: the query, then its gate
    const q = both.map((head) => turned(head.subarray(0, D), w.q_norm));
    cache.q.push(q);
    cache.k.push(heads(linear(w.k_proj, x), D).map((head) => turned(head, w.k_norm)));
    cache.v.push(heads(linear(w.v_proj, x), D));
    return linear(w.o_proj, joined(q.map((query, h) => {
      const weights = softmax(cache.k.map((k) => dot(query, k[Math.floor(h / group)]) / Math.sqrt(D)));
      const o = new Float32Array(D), gate = both[h].subarray(D);
      cache.v.forEach((v, t) => v[Math.floor(h / group)].forEach((part, i) => (o[i] += weights[t] * part)));
      return o.map((part, i) => part * sigmoid(gate[i]));                       // each dimension is let through, or not
    })));
  }
}

// ------------------------------------------------------------------------------------------------------ Gated DeltaNet

// The gated delta rule: what one token does to a memory S (Dk, Dv), in place, and what it reads there.
export function deltaRule(S, { q, k, v, alpha, beta }) {
  const [Dk, Dv] = [k.length, v.length], answer = new Float32Array(Dv), o = new Float32Array(Dv);
  for (let i = 0, at = 0; i < Dk; i++)
    for (let j = 0; j < Dv; j++, at++) {
      S[at] *= alpha;                                      // forget a little,
      answer[j] += k[i] * S[at];                           // ask with the key,
    }
  for (let i = 0, at = 0; i < Dk; i++)
    for (let j = 0; j < Dv; j++, at++) {
      S[at] += k[i] * beta * (v[j] - answer[j]);           // correct the answer towards the value,
      o[j] += (S[at] * q[i]) / Math.sqrt(Dk);              // and read with the query
    }
  return o;
}

class GatedDeltaNet {
  constructor(config, weights) {
    const [Hk, Hv] = [config.linear_num_key_heads, config.linear_num_value_heads];
    Object.assign(this, { w: weights, Hk, Hv, Dk: config.linear_key_head_dim, Dv: config.linear_value_head_dim });
    Object.assign(this, { kernelSize: config.linear_conv_kernel_dim, eps: config.rms_norm_eps });
  }

  newCache() {                                             // steps: what each token gave each head, to be looked at
    const states = Array.from({ length: this.Hv }, () => new Float32Array(this.Dk * this.Dv));
    return { window: [], states, steps: [] };
  }

  // A short causal convolution, each channel by itself, over the last few tokens; before the first there are zeros.
  convolve(x, cache) {
    const { kernelSize: K, w } = this;
    cache.window = [x, ...cache.window].slice(0, K);       // the newest first
    const sumOf = (c) => cache.window.reduce((sum, y, back) => sum + w.conv1d[c * K + K - 1 - back] * y[c], 0);
    return x.map((_, c) => silu(sumOf(c)));
  }

  forward(x, cache) {
    const { w, Hk, Hv, Dk, Dv, eps } = this;
    const mixed = this.convolve(linear(w.in_proj_qkv, x), cache);
    const q = heads(mixed.subarray(0, Hk * Dk), Dk).map(l2norm);
    const k = heads(mixed.subarray(Hk * Dk, 2 * Hk * Dk), Dk).map(l2norm);
    const v = heads(mixed.subarray(2 * Hk * Dk), Dv), z = heads(linear(w.in_proj_z, x), Dv);
    const beta = linear(w.in_proj_b, x).map(sigmoid);
    const alpha = linear(w.in_proj_a, x).map((a, h) => Math.exp(-Math.exp(w.A_log[h]) * softplus(a + w.dt_bias[h])));
    const step = cache.states.map((_, h) => {
      const shared = Math.floor((h * Hk) / Hv);            // value heads share key heads in blocks
      return { q: q[shared], k: k[shared], v: v[h], alpha: alpha[h], beta: beta[h] };
    });
    cache.steps.push(step);
    const o = cache.states.map((S, h) => gatedRmsNorm(deltaRule(S, step[h]), w.norm, z[h], eps));
    return linear(w.out_proj, joined(o));
  }
}

// ----------------------------------------------------------------------------------------------------------- the model

// SwiGLU.
const mlp = (w, x) => {
  const up = linear(w.up_proj, x);
  return linear(w.down_proj, linear(w.gate_proj, x).map((gate, i) => silu(gate) * up[i]));
};

class DecoderLayer {
  constructor(config, kind, weights) {
    const [Mixer, name] = { linear_attention: [GatedDeltaNet, "linear_attn."],
                            full_attention: [GatedAttention, "self_attn."] }[kind];
    this.mixer = new Mixer(config, within(weights, name));
    Object.assign(this, { kind, w: weights, mlp: within(weights, "mlp."), eps: config.rms_norm_eps });
  }

  forward(x, cache) {
    x = add(x, this.mixer.forward(rmsNorm(x, this.w.input_layernorm, this.eps), cache));
    return add(x, mlp(this.mlp, rmsNorm(x, this.w.post_attention_layernorm, this.eps)));
  }
}

export class Qwen {
  constructor({ text_config: config }, weights) {
    Object.assign(this, { config, w: weights });
    this.layers = config.layer_types.map((kind, i) => new DecoderLayer(config, kind, within(weights, `layers.${i}.`)));
  }

  newCache() { return this.layers.map((layer) => layer.mixer.newCache()); }

  // Reads one token; the cache, one for each layer, holds those before it, and moves on. Gives the next one's logits.
  forward(id, cache) {
    const { w, config: { hidden_size: width, rms_norm_eps: eps } } = this;
    let x = w.embed_tokens.slice(id * width, (id + 1) * width);
    this.layers.forEach((layer, i) => (x = layer.forward(x, cache[i])));
    return linear(w.embed_tokens, rmsNorm(x, w.norm, eps));                     // the embedding is the head as well
  }
}

// The answer, token by token, each the most likely one. `logits` are those of the question's last token, and `forward`
// reads one more.
export function* generate(forward, logits, stopIds, most) {
  for (let n = 0; n < most; n++) {
    const id = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    if (stopIds.includes(id)) return;
    yield id;
    logits = forward(id);
  }
}
