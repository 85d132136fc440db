"""Mutants: the library with one line broken, each a mistake that a public implementation has made.

A test that stays green on its mutant tests nothing, and a lesson that stays green teaches nothing. Every mutant says
which tests and which lessons must notice it. A mutant is applied to a copy, never to the tree itself.

The numbers in brackets count the traps of the architecture: [10] is "decay first, then the error".
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nbclient.exceptions import CellExecutionError
from notebooks_support import read, run, strip

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file`, after the line that begins with `within`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str
    within: str = ""
    tests: tuple[str, ...] = ()          # test files (or ids) of which at least one test must go red
    lessons: tuple[str, ...] = ()        # lessons that must go red, each by itself

    def apply(self, folder):
        """Break the copy in `folder`; an `old` that is not there exactly once is an error, so that no mutant rots."""
        path = Path(folder) / self.file
        text = path.read_text(encoding="utf-8")
        start, end = block(text, self.within)
        found = text.count(self.old, start, end)
        if found != 1:
            raise LookupError(f"mutant '{self.name}': {self.old!r} is {found} times in {self.file} {self.within}, "
                              "and must be there once")
        path.write_text(text[:start] + text[start:end].replace(self.old, self.new) + text[end:], encoding="utf-8")


def block(text, opening):
    """Where the function or class that begins with `opening` starts and ends; all of the text for ''."""
    if not opening:
        return 0, len(text)
    start = text.find(opening)
    if start < 0:
        raise LookupError(f"there is no {opening!r}")
    indent = start - text.rfind("\n", 0, start) - 1
    after = re.compile(rf"^ {{0,{indent}}}(def|class|@)", flags=re.MULTILINE).search(text, start + len(opening))
    return start, after.start() if after else len(text)


CONFIG, CHECKPOINT = "minqwen/config.py", "minqwen/checkpoint.py"
RULE, MODEL = "minqwen/delta_rule.py", "minqwen/model.py"
CACHE, TOWER = "minqwen/cache.py", "minqwen/vision.py"
RULE_TESTS, MODEL_TESTS = ("tests/test_delta_rule.py",), ("tests/test_model.py",)
START, DELTA, VISION = "00_start_here", "03_delta_rule", "08_vision"
TOKENS, ATTENTION = "01_tokens_and_chat", "05_gated_attention"
MEMORY = "02_attention_as_memory"
GENERATION = "07_generation"
HEARD = "drafts_are_those_of_a_head_that_has_heard_all_before"
GREEDY, TRIAL = "greedy_tokens_are_those_of_plain_decoding", "what_is_given_back_was_never_read"
DRAFTS = "10_multi_token_prediction"
CHUNKS, KERNEL = "04_chunked_delta_rule", "15_gpu_kernel"
DECODER = "06_hybrid_decoder"
LONG = "09_long_context"
MIXTURE = "11_mixture_of_experts"
FEW_BITS = "12_quantization"
TRAINING = "13_training"
SCALE = "16_scale_out"
REWARDS = "14_reinforcement_learning"
PREPARED = "q, k, v, g, beta = (full_precision(x) for x in (q, k, v, g, beta))"


def shared(name, module, old, new, test="test_two_processes_learn_what_one_learns", where="distributed", lessons=()):
    return Mutant(name, f"minqwen/{module}.py", old, new, tests=(f"tests/test_{where}.py::{test}",), lessons=lessons)


def nano(name, module, old, new, where, test, lessons=()):
    tests = (f"tests/test_nano_{where}.py::{test}",)
    return Mutant(name, f"minqwen/nano/{module}.py", old, new, tests=tests, lessons=lessons)


def rule(name, old, new, within="", lessons=()):
    return Mutant(name, RULE, old, new, within, RULE_TESTS, lessons)


def triton(name, old, new, within, test, lessons=()):
    return Mutant(name, "minqwen/delta_rule_triton.py", old, new, f"def {within}(", (f"tests/test_triton.py::{test}",),
                  lessons)


def choice(name, old, new):
    return Mutant(name, "minqwen/kernels.py", old, new, tests=("tests/test_kernels.py",))


def model(name, old, new, within="", lessons=()):
    return Mutant(name, MODEL, old, new, within, MODEL_TESTS, lessons)


def loading(name, file, old, new):
    tests = {CONFIG: "tests/test_config.py", CHECKPOINT: "tests/test_checkpoint.py"}[file]
    return Mutant(name, file, old, new, tests=(tests,))


def yarn(name, file, old, new, tests="tests/test_yarn.py"):
    return Mutant(name, file, old, new, tests=(tests,))


def cache(name, old, new, within="", lessons=()):
    return Mutant(name, CACHE, old, new, within, MODEL_TESTS, lessons)


def sight(name, old, new, within="", file=TOWER, lessons=()):
    return Mutant(name, file, old, new, within, ("tests/test_vision.py",), lessons)


def longer(name, file, old, new, lessons=()):
    return Mutant(name, file, old, new, tests=("tests/test_long_context.py",), lessons=lessons)


def edit(name, old, new, lessons=()):
    return Mutant(name, "minqwen/edits.py", old, new, tests=("tests/test_edits.py",), lessons=lessons)


def fused(name, old, new, within=""):
    return Mutant(name, "minqwen/decode_triton.py", old, new, within, ("tests/test_decode_triton.py",))


def graph(name, old, new, within="", file="minqwen/graph.py"):
    return Mutant(name, file, old, new, within, ("tests/test_graph.py",))


def mtp(name, old, new, within="", lessons=()):
    return Mutant(name, MODEL, old, new, within, ("tests/test_mtp.py",), lessons)


def balance(name, old, new, lessons=()):
    return Mutant(name, "minqwen/routing.py", old, new, tests=("tests/test_routing.py",), lessons=lessons)


def moe(name, old, new, file=MODEL, lessons=()):
    return Mutant(name, file, old, new, tests=("tests/test_moe.py",), lessons=lessons)


def codes(name, file, old, new, test, lessons=()):
    return Mutant(name, f"minqwen/{file}.py", old, new, tests=(f"tests/{test}",), lessons=lessons)


def tuned(name, module, old, new, test, within=""):
    return Mutant(name, f"minqwen/{module}.py", old, new, within, (f"tests/test_{test}",))


def loop(name, old, new, file="minqwen/generate.py"):
    return Mutant(name, file, old, new, tests=("tests/test_generate.py",), lessons=(GENERATION,))


def drafts(name, old, new, test, file="minqwen/drafts.py", within="", lessons=()):
    return Mutant(name, file, old, new, within, (f"tests/test_drafts.py::test_{test}",), lessons)


def sampled(name, old, new):
    return loop(name, old, new, "minqwen/sampling.py")


def text(name, old, new, within=""):
    return Mutant(name, "minqwen/tokenizer.py", old, new, within, ("tests/test_tokenizer.py",), (TOKENS,))


def official(name, old, new, lessons=()):
    return Mutant(name, "minqwen/official.py", old, new, "", ("tests/test_official_tokenizer.py",), lessons)


def writing(name, old, new, within=""):
    return Mutant(name, "minqwen/tokenizer.py", old, new, within, ("tests/test_tokenizer.py",))


def calls(name, old, new, within=""):
    return Mutant(name, "minqwen/tools.py", old, new, within, ("tests/test_tools.py",))


def verify(name, old, new, within="", lessons=()):
    return Mutant(name, "minqwen/verify.py", old, new, within, ("tests/test_verify.py",), lessons)


def media(name, old, new, within="", lessons=()):
    return Mutant(name, "minqwen/media.py", old, new, within, ("tests/test_media.py",), lessons)


MUTANTS = [
    shared("the state is not handed on", "context_parallel", "initial_state=before, ", "initial_state=0 * before, ",
           "test_a_sequence_in_parts_is_the_whole_one", "context_parallel", (SCALE,)),
    shared("no gradient comes back through the wire", "context_parallel", "dstate = dstate + later",
           "dstate = dstate + 0 * later", "test_a_sequence_in_parts_is_the_whole_one", "context_parallel", (SCALE,)),
    shared("the past is masked away", "context_parallel", "tril(k.shape[2] - q.shape[2])", "tril()",
           "test_attention_in_parts_is_the_whole_one", "context_parallel"),
    shared("a mean of the ranks, and not over all", "finetune", "(loss * ranks()).backward()", "loss.backward()",
           lessons=(SCALE,)),
    shared("all ranks read the same rows", "dataset", "packed(kinds[kind][n::ranks], length)",
           "packed(kinds[kind][0::ranks], length)", lessons=(SCALE,)),
    shared("the length of the gradient is that of one's own pieces", "masters", "(summed(one ** 2) + other ** 2)",
           "(one ** 2 + other ** 2)", lessons=(SCALE,)),
    shared("what is whole everywhere is not averaged", "masters", "dist.all_reduce(grad)", "pass"),
    shared("a pack too many counts", "dataset", "yield from [(packs[0][0], False)]", "yield from [(packs[0][0], True)]",
           "test_so_where_one_process_sees_a_picture_and_the_other_none"),
    shared("pictures are dealt out among texts", "dataset", "ranks > 1 and tuple(", "ranks > 99 and tuple(",
           "test_shares_are_of_one_kind_and_hold_every_row_once"),
    shared("a snapshot is written where it is read", "distributed", "aside = out / PART",
           'aside = out / f"{NAME}{step:08d}"', "test_a_run_whose_process_was_killed_ends_in_the_same_bits"),
    shared("half a snapshot is read", "distributed", "if not (folder / METADATA).exists():", "if False:",
           "test_a_half_snapshot_is_not_taken_for_a_whole_one"),
    shared("the head is for nothing", "budget", 'counts["head"] + ', "",
           "test_operations_are_six_for_each_parameter_and_what_grows_with_the_text", "budget", (SCALE,)),
    shared("a layer is computed again at no cost", "budget", "(4 if again else 3)", "3",
           "test_operations_are_six_for_each_parameter_and_what_grows_with_the_text", "budget", (SCALE,)),
    # ---- the gated delta rule
    rule("[10] decay after the error", """\
        state = state * alpha_t if needs_grad else state.mul_(alpha_t)                   # (N, Dk, Dv)
        u = (v_t - torch.bmm(k_t, state)) * beta_t                                       # (N, 1, Dv)
""", """\
        u = (v_t - torch.bmm(k_t, state)) * beta_t
        state = state * alpha_t if needs_grad else state.mul_(alpha_t)
""", lessons=(DELTA,)),
    rule("[10] decay after the error, in chunks", "beta_c * from_start * k_c", "beta_c * k_c", lessons=(DELTA, CHUNKS)),
    rule("decay dropped", PREPARED, PREPARED.replace("v, g, beta))", "v, 0 * g, beta))"), lessons=(DELTA,)),
    rule("decay dropped, in chunks", "c = g_c.cumsum(-1)", "c = 0 * g_c.cumsum(-1)",
         lessons=(MEMORY, DELTA, START, CHUNKS)),
    rule("beta dropped", PREPARED, PREPARED.replace("g, beta))", "g, 0 * beta + 1))"), lessons=(DELTA,)),
    rule("beta dropped, in chunks", "(v, g, beta.unsqueeze(-1))", "(v, g, 0 * beta.unsqueeze(-1) + 1)",
         lessons=(DELTA, START)),
    rule("beta dropped from the erasure", "beta_c * kk * between", "kk * between", lessons=(DELTA, CHUNKS)),
    rule("scale dropped", "k.shape[-1] ** -0.5 if scale is None else scale", "1 if scale is None else scale",
         lessons=(DELTA,)),
    rule("scale dropped, in chunks", "Dk ** -0.5 if scale is None else scale", "1 if scale is None else scale",
         lessons=(MEMORY, DELTA)),
    rule("nothing erased", "(v_t - torch.bmm(k_t, state)) * beta_t", "v_t * beta_t", lessons=(DELTA,)),
    rule("[11] heads tiled", "x.unsqueeze(3).expand(B, T, Hk, Hv // Hk, Dk).flatten(2, 3)",
         "x.unsqueeze(2).expand(B, T, Hv // Hk, Hk, Dk).flatten(2, 3)", lessons=(DELTA,)),
    rule("[11] heads tiled, in chunks", '"b (g c) (h r) ... -> g b h r', '"b (g c) (r h) ... -> g b h r',
         lessons=(DELTA, CHUNKS)),
    rule("[11] heads tiled, in the map", "b t h d -> b (h r) t d", "b t h d -> b (r h) t d", lessons=(DELTA,)),
    rule("[9] l2norm with another eps", "eps: float = 1e-6", "eps: float = 1e-3", "def l2norm", lessons=(DELTA,)),
    rule("[9] l2norm with no gradient at 0", "x32 * torch.rsqrt((x32 * x32).sum(-1, keepdim=True) + eps)",
         "x32 / x32.square().sum(-1, keepdim=True).sqrt().clamp(min=eps)", "def l2norm"),
    rule("[8] mask after exp", "_decay(c[..., :, None] - c[..., None, :] + future)",
         "(c[..., :, None] - c[..., None, :]).exp().tril()", lessons=(CHUNKS,)),
    rule("[8] exp of minus the sum",
         "_decay(c[..., :, None] - c[..., None, :] + future)",
         "(c.exp()[..., :, None] * (-c).exp()[..., None, :]).tril()", lessons=(DELTA, CHUNKS)),
    rule("a chunk forgets the one before", "state.mul_(decay)", "state.mul_(0 * decay)",
         lessons=(MEMORY, DELTA, CHUNKS)),
    rule("a chunk writes without decay", "to_end * k_c", "(0 * to_end + 1) * k_c", lessons=(DELTA, CHUNKS)),
    rule("a chunk reads only what was there before", "scale * qk * between", "scale * (qk * between).tril(-1)",
         lessons=(DELTA, CHUNKS)),
    rule("what a chunk wrote decays from its start", "_decay(c)[..., None], between[..., -1, :, None]",
         "_decay(c)[..., None], _decay(c)[..., None]", lessons=(CHUNKS,)),
    rule("gates are summed over the whole text", "c = g_c.cumsum(-1)",
         'c = rearrange(g.to(dtype).cumsum(1)[:, here], "b (g c) (h r) -> g b h r c", c=C, h=Hk)',
         lessons=(CHUNKS,)),
    rule("the corrections do not know of each other",
         "u = M @ torch.baddbmm(", "u = torch.baddbmm(", lessons=(CHUNKS,)),
    rule("the system's diagonal is not one", "left=False, unitriangular=True).mT", "left=False).mT", lessons=(CHUNKS,)),
    rule("the system inverted by a power series",
         "half, M = C // 2, torch.zeros_like(L)", """\
N = -L.tril(-1)
    M = torch.eye(C, dtype=L.dtype, device=L.device) + N
    for _ in range(C.bit_length()):
        N = N @ N
        M = M + N @ M
    return M""", lessons=(CHUNKS,)),
    rule("half of the inverse is missing", "= -(B @ L[..., half:, :half] @ A)", "= 0", lessons=(CHUNKS,)),
    rule("the inverse's gradient has a wrong sign", "return -(M.mT @ dM @ M.mT)", "return (M.mT @ dM @ M.mT)"),
    rule("initial state ignored", "else initial_state.to(v.dtype).reshape",
         "else 0 * initial_state.to(v.dtype).reshape", lessons=(DELTA,)),
    rule("initial state ignored, in chunks", "else initial_state.reshape", "else 0 * initial_state.reshape",
         lessons=(MEMORY, DELTA)),
    rule("initial state overwritten", "if initial_state is not None and not inplace_final_state:", "if False:"),
    rule("initial state overwritten, in chunks", "copy=initial_state is not None and not needs_grad", "copy=False"),
    rule("what has faded by half is gone", "FAINT = -40.0 ", "FAINT = -4.0 ", lessons=(CHUNKS,)),
    rule("left-over tokens are left out", "if whole < T:", "if whole < 0:"),
    rule("[2] packed sequences share a memory", "first = None if initial_state is None else initial_state[n : n + 1]",
         "first = states[-1] if states else None", lessons=(TRAINING,)),
    rule("beta not in the map", "return A * beta[..., None, :]", "return A", lessons=(DELTA,)),

    # ---- the same on a GPU
    triton("decays from one sum, not to all digits", "coarse = tl.floor(g * 1024) / 1024", "coarse = 0 * g", "decays",
           "test_decays_keep_their_digits_where_the_gates_sum_to_thousands"),
    triton("[8] decays are not masked", 'tl.where(i[:, None] >= i[None, :], between, float("-inf"))', "between",
           "decays", "test_all_gates_shut"),
    triton("blocks of the inverse paired with both neighbours", "(block == before + 1) & (block % 2 == 1)",
           "block == before + 1", "pairs", "test_inverse_by_blocks", (KERNEL,)),
    triton("[10] erased without beta", "beta_c[:, None] * kk * decay", "kk * decay", "prepare",
           "test_scale_and_no_states", (KERNEL,)),
    triton("[11] heads tiled, in the kernel", "h // (Hv // Hk) * Dk", "h % Hk * Dk", "walk",
           "test_heads_and_widths[2-4-16-48-dtype0]"),
    triton("what a chunk wrote does not decay", "(u_c * F[None, :])", "u_c", "walk", "test_lengths[130-dtype0]",
           (KERNEL,)),
    triton("[2] packed texts begin in one memory", "memory = (n * Hv + h)", "memory = (0 * n + h)", "walk",
           "test_trap_2_packed_sequences_start_anew"),
    triton("[2] a chunk reaches into the next text", "ends[sequence + 1]", "ends[-1] + 0 * sequence", "pack",
           "test_trap_2_packed_sequences_start_anew", (KERNEL,)),
    triton("the gradient of the memory does not decay", "dS = dS * through", "dS = dS", "walk_back",
           "test_lengths[130-dtype0]", (KERNEL,)),
    triton("[28] what is erased teaches nothing", "((-beta_c * E)[None, :] * dr_c)", "(0 * dr_c)", "walk_back",
           "test_lengths[130-dtype0]"),
    triton("a gate's gradient begins one token late", "tl.cumsum(dc, 0) + dc", "tl.cumsum(dc, 0)", "gradients",
           "test_lengths[65-dtype0]"),
    triton("[11] gradients of heads tiled", "h = key_head * R + r", "h = r * Hk + key_head", "gradients",
           "test_heads_and_widths[2-4-16-48-dtype0]"),
    triton("[9] unit length learnt as a scale", "b - a * length * length * tl.sum(a * b, 1)[:, None]", "b",
           "normalise_back", "test_trap_9_unit_length_is_an_option"),
    triton("[10] decay after the error, decoding", """\
        S *= tl.exp(g_t)
        u = beta_t * (v_t - tl.sum(k_t[:, None] * S, 0))                                      # (BV,)
""", """\
        u = beta_t * (v_t - tl.sum(k_t[:, None] * S, 0))                                      # (BV,)
        S *= tl.exp(g_t)
""", "recur", "test_decoding_is_the_recurrence", (KERNEL,)),
    choice("[28] gradients are trusted untried", "*v.shape[2:], learning)", "*v.shape[2:], False)"),
    choice("[28] anything is near enough", "1e-3 if dtype == torch.float32 else 0.05", "1e9"),
    choice("float16 goes to the kernels", "if dtype not in (torch.float32, torch.bfloat16):",
           "if dtype == torch.float64:"),
    choice("one token is read in chunks", '"recurrent" if decoding else "chunk"', '"chunk"'),

    # ---- the model
    model("[12] norm with a plain weight", "1 + full_precision(self.weight)", "full_precision(self.weight)",
          lessons=(ATTENTION, DECODER)),
    model("[12] gated norm with 1 + weight", "(self.weight * normed", "((1 + self.weight) * normed",
          lessons=(DECODER,)),
    model("[13] query and gate split in halves", "b t (h two d) -> two b t h d", "b t (two h d) -> two b t h d",
          lessons=(ATTENTION,)),
    model("attention's gate skipped", "return o * torch.sigmoid(gate)", "return o", lessons=(START, ATTENTION)),
    model("attention's gate a silu", "return o * torch.sigmoid(gate)", "return o * F.silu(gate)", lessons=(ATTENTION,)),
    model("delta rule's gate skipped", "* F.silu(full_precision(z))", "", "class GatedRMSNorm",
          lessons=(DECODER,)),
    model("delta rule's gate a sigmoid", "* F.silu(full_precision(z))", "* torch.sigmoid(full_precision(z))",
          lessons=(DECODER,)),
    model("no norm on queries", "rotate(self.q_norm(q), ", "rotate(q, ", lessons=(ATTENTION,)),
    model("no norm on keys", "rotate(self.k_norm(k), ", "rotate(k, ", lessons=(ATTENTION,)),
    model("attention's heads tiled", "(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)",
          "(q, *(x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v)), attn_mask=mask, is_causal=mask is None)",
          lessons=(MEMORY, ATTENTION)),
    model("attention looks ahead", "is_causal=mask is None", "is_causal=False", lessons=(MEMORY, ATTENTION)),
    cache("keys and values swapped in the cache", "self.values[:, :, self.length : end] = k, v",
          "self.values[:, :, self.length : end] = v, k", lessons=(MEMORY, ATTENTION)),
    model("keys of the delta rule not normed", "k = l2norm(full_precision(k).unflatten(-1, (self.num_k_heads, -1)))",
          "k = full_precision(k).unflatten(-1, (self.num_k_heads, -1))", lessons=(DELTA,)),
    model("decoding deals key heads out in turn", "q.unflatten(1, (k.shape[1], -1)).squeeze(3)",
          "q.unflatten(1, (-1, k.shape[1])).transpose(1, 2).squeeze(3)", lessons=(MEMORY,)),
    Mutant("a softmax map without the scale", "minqwen/trace.py", "scores = (q @ k.mT) * q.shape[-1] ** -0.5",
           "scores = q @ k.mT", tests=("tests/test_trace.py",), lessons=(MEMORY,)),
    Mutant("a softmax map with heads tiled", "minqwen/trace.py", "b h s d -> b (h r) s d", "b h s d -> b (r h) s d",
           tests=("tests/test_trace.py",), lessons=(MEMORY,)),
    Mutant("erased without decay", "minqwen/trace.py", "answer = ask(decayed, k)", "answer = ask(state, k)",
           tests=("tests/test_trace.py",), lessons=(DELTA,)),
    Mutant("a trace keeps its pictures twice", "minqwen/trace.py",
           "            self.media[name] = torch.cat([*before, piece.detach()])\n        self._embedded = {}",
           "            self.media[name] = torch.cat([*before, piece.detach()])",
           tests=("tests/test_trace.py",), lessons=(VISION,)),
    Mutant("a trace repeats its pictures", "minqwen/trace.py", "torch.cat([*before, piece.detach()])",
           "torch.cat([*before, piece.detach(), piece.detach()])", tests=("tests/test_trace.py",), lessons=(VISION,)),
    Mutant("a trace takes the mask of the tokens before", "minqwen/trace.py", "mask[:, -T:].bool()",
           "mask[:, :T].bool()", tests=("tests/test_trace.py",)),
    Mutant("a pad has the first token's key", "minqwen/trace.py", "alike.fill_diagonal_(True)", "pass",
           tests=("tests/test_trace.py",)),
    Mutant("the mark one token off", "minqwen/widgets/stills.py",
           "ax.axvspan(len(recall) - 1.5, len(recall) - 0.5, color=INK",
           "ax.axvspan(len(recall) - 0.5, len(recall) + 0.5, color=INK", tests=("tests/test_stills.py",)),
    Mutant("keys are counted and values are not", "minqwen/info.py", "attention * 2 * t.num_key_value_heads",
           "attention * t.num_key_value_heads", tests=("tests/test_cli.py",), lessons=(MEMORY,)),
    Mutant("a key is counted for each query head", "minqwen/info.py", "attention * 2 * t.num_key_value_heads",
           "attention * 2 * t.num_attention_heads", tests=("tests/test_cli.py",), lessons=(MEMORY,)),
    model("rotated by the wrong sign", "a * cos - b * sin, b * cos + a * sin", "a * cos + b * sin, b * cos - a * sin",
          lessons=(ATTENTION,)),
    model("rotated in neighbouring pairs",
          "a, b, rest = x.split([cos.shape[-1], cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)",
          "(a, b), rest = (x[..., i : 2 * cos.shape[-1] : 2] for i in (0, 1)), x[..., 2 * cos.shape[-1] :]",
          lessons=(ATTENTION,)),
    Mutant("all of a head turned", "minqwen/config.py",
           'int(self.head_dim * self.rope_parameters.get("partial_rotary_factor", 0.25))', "self.head_dim",
           tests=MODEL_TESTS, lessons=(ATTENTION,)),
    model("pairs turned twice as slowly", "** (2 * i.float() / dims)", "** (i.float() / dims)", lessons=(ATTENTION,)),
    model("[15] M-RoPE's sections shifted", "clock = i % 3 ", "clock = (i + 1) % 3 ",
          lessons=(ATTENTION, VISION)),
    model("[15] M-RoPE in blocks", "clock = clock * (i < 3 * torch.where(clock == 1, height, width))",
          "clock = torch.arange(3).repeat_interleave(torch.tensor(config.rope_parameters['mrope_section']))",
          lessons=(ATTENTION, VISION)),
    yarn("[17] YaRN is silently ignored", MODEL, 'if rope.get("rope_type", "default") == "default":', "if True:"),
    yarn("[17] YaRN's factor of cosines and sines is forgotten", MODEL, "config.attention_factor * x for x", "x for x"),
    yarn("[17] YaRN's factor is forgotten where the GPU takes fused steps", "minqwen/decode_triton.py",
         "and text.config.attention_factor == 1", "", "tests/test_decode_triton.py"),
    yarn("YaRN slows down the fast pairs and keeps the slow ones", MODEL, "kept = 1 - ((i", "kept = ((i"),
    yarn("YaRN's ramp is cut to whole pairs always", MODEL, 'if rope.get("truncate", True):', "if True:"),
    yarn("YaRN counts turns over the longer context", MODEL, "math.log(original /", "math.log(factor * original /"),
    yarn("[32] an original context beside YaRN's settings is dropped", CONFIG,
         '"partial_rotary_factor", "original_max_position_embeddings")', '"partial_rotary_factor")'),
    yarn("YaRN's context is the original one where the cards leave it", CONFIG,
         "self.max_position_embeddings = int(reach)", "pass"),
    yarn("1,010,000 tokens take a factor of 3.85", CONFIG, "float(math.ceil(tokens / original))", "tokens / original"),
    yarn("a longer context stretches what is stretched already", CONFIG,
         'original = rope["original_max_position_embeddings"] if stretched else', "original ="),
    yarn("a context asked for is not loaded", CHECKPOINT, "config = config.with_context(context)", "pass"),
    model("convolution looks ahead",
          "torch.cat((before, x), dim=1)", "torch.cat((before[:, 1:], x, before[:, :1]), dim=1)",
          lessons=(DECODER,)),
    model("convolution without silu", "return F.silu(F.conv2d(", "return (F.conv2d(", lessons=(DECODER,)),
    model("the second core's part of a matrix first", '"cores t n -> t (cores n)"', '"cores t n -> t (n cores)"'),
    model("a matrix's bias forgotten where cores share it", "return y if bias is None else y + bias", "return y"),
    model("convolution forgets what came before", "before = x.new_zeros(B, K - 1, channels) if cache is None else",
          "before = x.new_zeros(B, K - 1, channels) if True else", lessons=(GENERATION,)),
    model("[2] convolution across a border", " * same[:, None]", "", lessons=(TRAINING,)),
    model("[1] padding enters the layer", "x = padding.pack(x)", "pass", lessons=(GENERATION,)),
    model("[1] padding decays the memory", "g * padding.packed[..., None]", "g", lessons=(GENERATION,)),
    cache("[1] padding is looked at", "(causal & real[:, None])", "(causal | real[:, None] & causal)",
          lessons=(GENERATION,)),
    Mutant("[1] padding counts as position", TOWER, "steps = (valid.cumsum(-1) - 1).clamp(min=0)", "pass",
           tests=MODEL_TESTS),
    cache("[5] a snapshot shares the state", "return self.recurrent_state.clone(), self.conv_state.clone()",
          "return self.recurrent_state, self.conv_state", lessons=(GENERATION,)),
    cache("[5] the convolution is not put back", "self.recurrent_state, self.conv_state = (x.clone() for x in saved)",
          "self.recurrent_state = saved[0].clone()", lessons=(GENERATION,)),
    cache("[5] slots of pads stay pads after going back", "self.valid[:, self.length : end] = True",
          "self.valid[:, self.length : end] &= True", lessons=(GENERATION,)),
    model("[4] the memory in the model's dtype", "cache.recurrent_state = state",
          "cache.recurrent_state = state.to(x.dtype)", lessons=(GENERATION,)),
    model("[14] every token wipes the memory", "module.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))",
          "module.dt_bias.fill_(1)", lessons=(DECODER,)),
    model("[14] time steps drawn evenly and not by their size",
          "dt = 10 ** torch.empty_like(module.dt_bias).uniform_(-3, -1)",
          "dt = torch.empty_like(module.dt_bias).uniform_(0.001, 0.1)", lessons=(DECODER,)),
    model("decay without softplus", "F.softplus(full_precision(self.in_proj_a(x)) + self.dt_bias)",
          "(full_precision(self.in_proj_a(x)) + self.dt_bias)", lessons=(DELTA, DECODER)),
    model("the bias outside of softplus", "F.softplus(full_precision(self.in_proj_a(x)) + self.dt_bias)",
          "(F.softplus(full_precision(self.in_proj_a(x))) + self.dt_bias)", lessons=(DELTA, DECODER)),
    model("A without its exponential", "-full_precision(self.A_log).exp()", "-full_precision(self.A_log).abs()",
          lessons=(DECODER,)),
    Mutant("attention first and not last of four", CONFIG, "if (i + 1) % interval == 0", "if i % interval == 0",
           tests=("tests/test_config.py",), lessons=(DECODER,)),
    model("gate and up swapped", "F.silu(self.gate_proj(x)) * self.up_proj(x)",
          "F.silu(self.up_proj(x)) * self.gate_proj(x)", lessons=(DECODER,)),
    model("MLP after the wrong norm",
          "self.mlp(self.post_attention_layernorm(x))", "self.mlp(self.input_layernorm(x))", lessons=(DECODER,)),
    model("the MLP replaces the stream", "return x + self.mlp(self.post", "return self.mlp(self.post",
          lessons=(DECODER,)),
    model("the stream itself is normed", "x = x + mixer(self.input_layernorm(x), step, cache)",
          "x = self.input_layernorm(x)\n        x = x + mixer(x, step, cache)",
          lessons=(DECODER,)),
    model("no last norm", "return self.norm(x)", "return x", "class TextModel", lessons=(TOKENS, DECODER)),
    model("embeddings scaled by the root of the width", "language_model.embed_tokens(input_ids)",
          "language_model.embed_tokens(input_ids) * self.config.text_config.hidden_size ** 0.5", "def embed(",
          lessons=(TOKENS,)),
    model("the first logits are kept", "[:, -logits_to_keep:])", "[:, : logits_to_keep or None])", lessons=(TOKENS,)),

    # ---- checkpoints, text, generation
    Mutant("[7] A_log and the gated norm cast with the rest", "minqwen/checkpoint.py",
           "name.endswith(KEPT_FLOAT32) and", "False and", tests=("tests/test_checkpoint.py",)),
    loading("[32] what lies beside the rotary settings is dropped", CONFIG, "0.25} | beside | rope", "0.25} | rope"),
    loading("[32] rope_scaling is dropped", CONFIG, 'numbers.get("rope_scaling") or numbers', "numbers"),
    loading("[38] the rotary part is said in one place alone", CONFIG, "text | rotary | deepcopy", "text | deepcopy"),
    loading("[38] the interval says another model than the layers", CONFIG, "if not self.text_config.regular:",
            "if False:"),
    loading("[38] the interval does not follow the layers", CONFIG, 'self.layer_types.index("full_attention") + 1',
            "self.full_attention_interval"),
    loading("another model's settings are dropped", CONFIG, "numbers[name] in ONLY[name],", "True,"),
    loading("a dtype under its old name is dropped", CONFIG, 'for name in ("dtype", "torch_dtype")',
            'for name in ("dtype",)'),
    loading("[33] a head that was trained apart is tied", CHECKPOINT, "text.tie_word_embeddings = False", "pass"),
    loading("of two copies the last one counts", CHECKPOINT, "sorted(found, key=lambda one: one[:2])", "found"),
    loading("a copy counts of which the index does not speak", CHECKPOINT,
            "if index.get(name, file_name) == file_name:", "if True:"),
    loading("int8 without scales is taken for weights", CHECKPOINT, "if codes:", "if False:"),
    loading("to build a model a compiler is imported", CHECKPOINT,
            'fills = name.endswith("_") and not name.endswith("__")', "fills = False"),
    loading("a save that fails is not undone", CHECKPOINT, "in reversed(done):", "in ():"),
    Mutant("what is not a number is a token", "minqwen/generate.py", "if BROKEN in ids:", "if False:",
           tests=("tests/test_generate.py",)),
    Mutant("only the first row must be numbers", "minqwen/generate.py", "if BROKEN in ids:", "if ids[0] == BROKEN:",
           tests=("tests/test_generate.py",)),
    Mutant("a second think block has what is left of the first's budget", "minqwen/sampling.py",
           "self.open, self.spent = True, 0", "self.open = True", tests=("tests/test_generate.py",)),
    Mutant("sampling without top_k is from all tokens", "minqwen/chat.py", '"top_k": 50', '"top_k": 0',
           tests=("tests/test_chat.py",)),
    Mutant("[23] special tokens encoded as text", "minqwen/tokenizer.py", "self.fast if special else self._plain",
           "self._plain", tests=("tests/test_tokenizer.py",), lessons=(TOKENS,)),
    Mutant("[24] thinking asked for always", "minqwen/tokenizer.py", 'options["enable_thinking"] = bool(thinking)',
           'options["enable_thinking"] = True', tests=("tests/test_tokenizer.py",), lessons=(TOKENS,)),
    Mutant("[27] no stop at <|im_end|>", "minqwen/tokenizer.py", '("<|im_end|>", "<|endoftext|>", self.eos_token)',
           '("<|endoftext|>",)', tests=("tests/test_tokenizer.py",), lessons=(TOKENS,)),
    Mutant("half a character when streaming", "minqwen/tokenizer.py", r'text.removesuffix("\ufffd")', "text",
           tests=("tests/test_tokenizer.py",), lessons=(TOKENS, GENERATION)),
    text("a cut character is lost", "piece = self._text(self.ids)[self.given :]", 'piece = ""', "def flush"),
    text("special tokens are never shown", "skip_special_tokens=skip_special_tokens", "skip_special_tokens=True",
         "def decode"),
    text("[23] no text is ever plain", "self.fast if special else self._plain", "self.fast"),
    text("[23] breaks are left in the text", 'whole[end : match.start()].replace(seam, "")',
         "whole[end : match.start()]"),
    Mutant("[34] a user speaks for others", "minqwen/template.py", "else NOBODY * len(text)", "else text",
           "def marks_of", ("tests/test_tokenizer.py",), (TOKENS,)),
    writing("[34] a user thinks", 'if message["role"] in ("assistant", "system"):', 'if message["role"] != "tool":'),
    writing("[34] a system message begins turns", "part if part in OWN_TOKENS else NOBODY * len(part)",
            'part if part != "<think>" else NOBODY * len(part)'),
    writing("tokens of the settings are left out", "if token.content not in known:", "if False:"),
    writing("all since the last whole character is decoded again", "elif len(self.ids) > 3:", "elif False:"),
    writing("a skipped token counts as a byte", "if not self._text([id]):", "if False:"),
    Mutant("~ makes plain texts", "minqwen/template.py", 'filtered(texts, "joined")', "node",
           tests=("tests/test_tokenizer.py",)),
    Mutant("a split text finds its parts in what was cut out", "minqwen/template.py", 'len(part) + len(sep or "")',
           "len(part)", tests=("tests/test_tokenizer.py",)),
    Mutant("an answer that names </think> loses its beginning", "minqwen/chat.py", ' or "</think>" in reply:', ":",
           tests=("tests/test_chat.py",)),
    Mutant("a conversation's options overrule those of a call", "minqwen/chat.py", "self.options | options",
           "options | self.options", tests=("tests/test_chat.py",)),
    nano("nano's template cuts at a tag, thinking or not", "tokenizer",
         'if message.reasoning_content is not string and "</think>" in', 'if "</think>" in', "training",
         "test_thinking_is_looked_for_in_the_answer_only_if_it_is_not_beside_it"),
    nano("[31] a cut into words of its own", "tokenizer", "Regex(WORDS)", 'Regex(r"\\s?\\S+")', "training",
         "test_texts_are_cut_and_put_together_as_by_the_official_tokenizer"),
    nano("[31] no capitals", "tokenizer", "normalizers.NFC()",
         "normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])", "training",
         "test_texts_are_cut_and_put_together_as_by_the_official_tokenizer"),
    nano("[21] every draft is made of the model's own state", "train", "states[-1][:, :-1]", "states[0][:, :-d]",
         "training", "test_losses_are_of_the_next_token_and_of_three_drafts_in_a_row"),
    nano("[21] a draft hears of a token again", "train", "x[:, d:], step", "x[:, 1 : x.shape[1] - d + 1], step",
         "training", "test_losses_are_of_the_next_token_and_of_three_drafts_in_a_row"),
    nano("a draft counts whatever came before it", "train", "right = right[:, :-1] & (", "right = (", "training",
         "test_drafts_in_a_row_are_right_together"),
    nano("three drafts weigh three times as much", "train", "sum(ahead) / max(1, drafts)", "sum(ahead)", "training",
         "test_a_kind_of_few_tokens_does_not_drown_the_others"),
    nano("a seedling learns the token that it has read", "seedling", "input_ids.roll(-1, dims=1)", "input_ids.clone()",
         "seedling", "test_a_batch_learns_answers_alone", (TRAINING,)),
    nano("a seedling learns questions, too", "seedling", "masked_fill(answers < 0, -100)",
         "masked_fill(answers < -1, -100)", "seedling", "test_a_batch_learns_answers_alone", (TRAINING,)),
    nano("what is told anew has not changed", "seedling", "changed.add(name)", "changed.discard(name)", "seedling",
         "test_stories_are_true"),
    nano("an answer may have a wrong token", "seedling", "batch.answers[there], wrong) == 0",
         "batch.answers[there], wrong) < 2", "seedling", "test_the_loss_and_the_recall"),
    nano("a jump is the steepest place", "seedling",
         "key=lambda i: sum(((part - part.mean()) ** 2).sum() for part in (x[:i], x[i:]))",
         "key=lambda i: x[i - 1] - x[i]", "seedling", "test_a_jump_is_a_change_point", (TRAINING,)),
    nano("a layer that was changed for a while stays so", "variants", "        module.__class__ = own\n",
         "        pass\n", "seedling", "test_another_for_a_while"),
    nano("a memory without correction never fades", "variants", "(q @ k.mT * decay) @ v", "(q @ k.mT).tril() @ v",
         "seedling", "test_without_correction_the_memory_adds"),
    nano("an advantage is the reward", "rl", "reward - mean(rewards)", "reward", "rl",
         "test_groups_of_equal_reward_are_left_out_and_others_hold_the_mean_against_each", (REWARDS,)),
    nano("groups of equal reward teach", "rl", "if min(rewards) < max(rewards):", "if True:", "rl",
         "test_groups_of_equal_reward_are_left_out_and_others_hold_the_mean_against_each"),
    nano("a step is longer where answers are", "rl", "new.backward(-pull / N)", "new.backward(-pull / len(rows))", "rl",
         "test_on_policy_learning_is_the_plain_policy_gradient"),
    nano("a step goes the wrong way", "rl", "new.backward(-pull / N)", "new.backward(pull / N)", "rl",
         "test_a_toy_is_learnt_in_seconds"),
    nano("what is read is learnt", "rl", "if written else -100 for", "if True else -100 for", "rl",
         "test_only_what_was_written_is_learnt"),
    nano("a token is learnt where the one before it was written", "rl", "zip(row.ids[1:], row.written[1:])",
         "zip(row.ids[1:], row.written)", "rl", "test_only_what_was_written_is_learnt"),
    nano("a clipped token comes back too late", "rl", "return torch.minimum(ratio", "return torch.maximum(ratio", "rl",
         "test_a_ratio_is_its_formula", (REWARDS,)),
    nano("the edges are swapped", "rl", "ratio.clamp(1 - low, 1 + high)", "ratio.clamp(1 - high, 1 + low)", "rl",
         "test_a_ratio_is_its_formula", (REWARDS,)),
    nano("an answer's ratio is the product of all", "rl", "new - old) / tokens).exp()", "new - old)).exp()", "rl",
         "test_a_ratio_is_its_formula", (REWARDS,)),
    nano("a sigmoid pulls half as hard", "rl", "4 / steep * torch", "2 / steep * torch", "rl",
         "test_a_ratio_is_its_formula", (REWARDS,)),
    nano("what only weighs is learnt, too", "rl", ".clamp(max=1 + high).detach()", ".clamp(max=1 + high)", "rl",
         "test_a_ratio_is_its_formula", (REWARDS,)),
    nano("an old rollout is learnt from at once", "rl", "progress.drawn.pop(0)", "progress.drawn.pop()", "rl",
         "test_stale_rollouts_are_learnt_from_later_and_each_as_often_as_is_said"),
    nano("a run goes on without its averages", "rl", '"optimizer": optimizer.state_dict(),',
         '"optimizer": optimizer.state_dict() | {"state": {}},', "rl",
         "test_an_interrupted_run_goes_on_to_the_same_weights"),
    nano("the result of a call is learnt", "rollouts", "    answer.read(after.ids[end:])",
         "    answer.write(after.ids[end:], [0.0] * len(after.ids[end:]))", "rl",
         "test_a_call_is_run_and_its_result_is_read_but_not_learnt"),
    nano("calls without end", "rollouts", " or len(answer.calls) >= MOST_CALLS", "", "rl",
         "test_who_only_calls_is_stopped"),
    nano("half an answer is one", "rollouts", 'str(reply) if reply.stopped else ""', "str(reply)", "rl",
         "test_an_answer_that_was_cut_short_is_none"),
    nano("columns of any sum are paid for", "tasks", "line == column for", "COLUMN.fullmatch(line) is not None for",
         "rl", "test_the_bonus_is_gamed_by_columns_without_end_and_mended_it_is_not"),
    Mutant("logarithms at another temperature", "minqwen/generate.py", "logits.float().log_softmax(-1).gather",
           "(logits.float() * 2).log_softmax(-1).gather",
           tests=("tests/test_nano_rl.py::test_recorded_logarithms_are_those_of_a_fresh_pass",), lessons=(REWARDS,)),
    Mutant("a snapshot is written in its place", "minqwen/snapshots.py", "aside = path.with_name(f", "aside = path; (f",
           tests=("tests/test_nano_rl.py::test_a_full_disk_costs_the_snapshot_alone",)),
    Mutant("another run goes on", "minqwen/snapshots.py", "if name not in may_change and saved", "if False and saved",
           tests=("tests/test_nano_rl.py::test_another_recipe_does_not_go_on",)),
    nano("a start's loss is that of its last part", "sft", "loss += part.item()", "loss = part.item()", "rl",
         "test_the_loss_of_the_start_is_that_of_all_it_is_shown"),
    nano("a start whose loss rises goes on", "sft", "if loss > lowest + WORSE:", "if False:", "rl",
         "test_a_start_that_comes_to_nothing_stops_in_a_sentence"),
    nano("a start whose loss is rising is kept", "sft", "if loss <= lowest + WORSE / 2:", "if True:", "rl",
         "test_a_start_whose_loss_is_rising_is_not_kept"),
    nano("weights that are no numbers are kept", "train", "if not torch.nn.utils.get_total_norm", "if False and len",
         "rl", "test_a_run_that_comes_to_nothing_stops_in_a_sentence"),
    nano("a gradient that is no number is taken", "train", "if not norm.isfinite():", "if False:", "training",
         "test_a_training_that_comes_to_nothing_keeps_what_was_good"),
    Mutant("what was tuned to no numbers is kept", "minqwen/finetune.py", "if due and not trainer.optimizer.finite():",
           "if False:",
           tests=("tests/test_finetune.py::test_weights_that_are_no_numbers_are_neither_kept_nor_the_result",)),
    Mutant("a full disk in the end is a stack", "minqwen/files.py", "except (OSError, SafetensorError, *faults)",
           "except (SafetensorError, *faults)",
           tests=("tests/test_nano_rl.py::test_a_disk_that_is_full_in_the_end_is_told_and_the_run_is_not_lost",)),
    shared("no processes give nothing", "ranks", 'whole_number("The number of processes", size, 1)', "size",
           "test_a_number_of_processes_that_cannot_be_is_told"),
    shared("all wait for one whose disk is full", "distributed", "except (CheckpointException, OSError) as",
           "except CheckpointException as", "test_a_full_disk_costs_the_last_snapshot"),
    Mutant("a picture is looked for when the model is there", "minqwen/cli.py",
           "    check_media(arguments.image, arguments.video)\n", "",
           tests=("tests/test_cli.py::test_mistakes_are_one_sentence_and_exit_code_2",)),
    nano("of no questions there is a share", "rollouts", 'whole_number("questions", questions, 1)', "pass", "rl",
         "test_numbers_that_cannot_be_are_told"),
    nano("more is drawn than there is", "rollouts", 'whole_number("k", k, 1, answers)', "pass", "rl",
         "test_numbers_that_cannot_be_are_told"),
    Mutant("an explorer shows how likely a token was", "minqwen/widgets/rollouts.py", "if old is None else new - old",
           "if old is None else old", tests=("tests/test_rollouts_widget.py",)),
    Mutant("an explorer's place is any number", "minqwen/widgets/explorer.py",
           "if isinstance(value, bool) or not isinstance(value, Integral):", "if False:",
           tests=("tests/test_explorer_places.py",)),
    Mutant("a row from the end stays a negative number", "minqwen/widgets/explorer.py", "return row % rows",
           "return row",
           tests=("tests/test_explorer_places.py::test_a_row_is_counted_from_the_end_as_well",)),
    nano("a table begins anew", "ablations", 'if (variant, seed) not in there]', "]", "seedling",
         "test_a_table_goes_on_where_it_stood"),
    nano("nobody knows where is who has nothing", "world", "if name not in known]", "if name not in self.has]", "world",
         "test_nobody_knows_what_was_not_told_and_only_that"),
    nano("a calculator where there is none", "world", "thinking)], beside)", "thinking)], [tool, *beside])", "world",
         "test_long_sums_go_to_the_calculator_and_its_results_are_right"),
    nano("[39] a question of this world is out of place", "chatter", "|Why?|", "|Which way does it move?|", "world",
         "test_chatter_is_never_something_that_can_be_answered"),
    Mutant("tags in other tokens are tags", "minqwen/speech.py", 'part.replace("tool_call>", f"tool_call{seam}>")',
           "part", tests=("tests/test_chat.py",)),
    Mutant("what may become a call is said at once", "minqwen/speech.py", "if FUNCTION.startswith(text[n:])",
           "if n == len(text)", tests=("tests/test_chat.py",)),
    calls("[35] the first end of a value is its end", "while next(steps) < MANY and", "if next(steps) < MANY and"),
    calls("[35] a value may begin a call and not end it", "and (_holds_whole_calls(value) or not whole)", ""),
    calls("[35] a call that cannot be told for sure is run", "plain if written else True", "False"),
    calls("[35] two readings of one parameter", "parameter[1] in dict(values) or", ""),
    calls("what allOf says is not heard", 'schema.get("allOf")', 'schema.get("all")'),
    calls("references lead nowhere", "reference not in within", "False"),
    official("[36] whole words before merges", "_merges(vocabulary))", "_merges(vocabulary), ignore_merges=True)"),
    official("[36] one split of each token", "for cut in range(1, len(token))", "for cut in range(1, len(token))[-1:]"),
    official("[23] official marks torn from their letters", r"?[\p{L}\p{M}]+", r"?\p{L}+"),
    official("official texts are not tidied up", "normalizers.NFC()", "normalizers.Sequence([])"),
    official("official thoughts are skipped", "special=name not in READ", "special=True"),
    official("any vocabulary is the official one", "if sha256(content).hexdigest() != SHA256:", "if not content:"),
    Mutant("[6] a stopped row runs on", "minqwen/generate.py", "running = [runs and id not in stops and",
           "running = [id not in stops and", tests=("tests/test_generate.py",), lessons=(GENERATION,)),
    Mutant("[6] one stop for all rows", "minqwen/generate.py", "if not any(running):", "if not all(running):",
           tests=("tests/test_generate.py",), lessons=(GENERATION,)),
    Mutant("prefill in pieces keeps the first piece", "minqwen/generate.py", "input_ids[:, piece]",
           "input_ids[:, :prefill_chunk]", tests=("tests/test_generate.py",), lessons=(GENERATION,)),
    loop("[6] a stopped row reads on", "real = None if not keep_cache or all(running) else",
         "real = None if True else"),
    Mutant("pads of a kept cache fill the context", "minqwen/generate.py",
           "cache.valid[:, : cache.length].sum(-1).to(device)", "cache.length", tests=("tests/test_generate.py",)),
    drafts("every draft is taken", "taken = coins * q", "taken = 0 * q",
           "two_tokens_come_exactly_as_often_as_the_model_says", lessons=(DRAFTS,)),
    drafts("a refused draft may come again", "rest = (p - q).clamp(min=0)", "rest = p",
           "two_tokens_come_exactly_as_often_as_the_model_says", lessons=(DRAFTS,)),
    drafts("what is drawn anew may be nothing", "rest.sum(-1, keepdim=True) > 0", "rest.sum(-1, keepdim=True) > -1",
           "as_many_drafts_are_taken_as_can_be"),
    drafts("[21] drafts stand one too far", "self.cache.positions + i - 1", "self.cache.positions + i", HEARD),
    drafts("[21] a draft hears the model's state again", "state = self.hear(state,", "_ = self.hear(state,", HEARD,
           lessons=(DRAFTS,)),
    drafts("guesses stay in the head's cache", "        self.own.restore(here)\n", "", HEARD),
    drafts("the head hears of what a longer row was given", "trial.keep(counts)", "trial.keep([longest] * len(counts))",
           HEARD),
    drafts("the head hears nothing of a prompt's first pieces", "if n := following.shape[1]:",
           "if (n := following.shape[1]) and start + n + 1 == x.shape[1]:", HEARD),
    drafts("a penalty forgets the guesses before", "self.choice.bend(logits, ahead)", "self.choice.bend(logits)",
           "drafts_are_chosen_as_the_models_own_tokens"),
    drafts("of the likeliest token the odds are those of a draw", "(bent.float() if self.greedy else warp(bent,",
           "(warp(bent, 1, self.sampling['top_k']) if self.greedy else warp(bent,",
           "passes_tell_what_was_drafted_and_why_it_was_taken", "minqwen/sampling.py"),
    drafts("a row that has ended spends its budget on", "budget(id) if writes else id for", "budget(id) for", GREEDY,
           "minqwen/sampling.py"),
    drafts("a row that has ended is penalized for drafts", "self.in_output[rows, ids[rows]] = True",
           "self.in_output.scatter_(1, ids[:, None], True)", GREEDY, "minqwen/sampling.py"),
    drafts("a stop among the drafts is not heard", "self.running[row] = id not in self.stops and self.left[row] > 0",
           "self.running[row] = self.left[row] > 0", GREEDY),
    drafts("drafts go on behind the last token", "agrees[row] = self.running[row] and place < n and",
           "agrees[row] = place < n and", GREEDY),
    drafts("who goes away midway is not heard", "if kept != (got :=", "if None is (got :=",
           "who_goes_away_midway_leaves_a_cache_that_has_read_what_he_got"),
    drafts("traced models draft", 'if any("delta_rule" in vars(module)', 'if any("rule" in vars(module)',
           "what_cannot_be_drafted_is_refused_in_one_sentence"),
    drafts("[5] the memory keeps what was refused", "if min(counts) < self.tokens:", "if False:", TRIAL, CACHE,
           lessons=(DRAFTS,)),
    drafts("[5] the window keeps what was refused", "last = counts[:, None] +",
           "last = x.shape[1] + 0 * counts[:, None] +", TRIAL, CACHE, lessons=(DRAFTS,)),
    drafts("[5] refused tokens decay the memory", "v, g * read,", "v, g,", TRIAL, CACHE),
    drafts("[5] refused tokens are written", "beta * read, state", "beta, state", TRIAL, CACHE),
    drafts("rows that are apart lie apart", "if (self.ends < start).any():", "if False:", TRIAL, CACHE),
    drafts("positions count what was refused", "self.positions + kept", "self.positions + self.tokens", TRIAL, CACHE),
    drafts("a single token cannot be given back", "state.clone() if x.shape[1] == 1 else state", "state",
           "less_and_less_is_kept", CACHE),
    drafts("a snapshot forgets the gaps", "self.valid[:, : self.length], self.midway = snapshot.valid, False",
           "self.midway = False", "a_snapshot_knows_the_gaps", CACHE),
    drafts("a snapshot forgets the head", "self.mtp, saved = snapshot.mtp", "self.mtp, saved = None, None",
           "a_conversation_reads_along", CACHE),
    sampled("temperature multiplied", "scores = logits.float() / temperature", "scores = logits.float() * temperature"),
    sampled("cut before the temperature", "p = best.softmax(-1)", "p = (best * temperature).softmax(-1)"),
    sampled("top-p drops the token that crosses the mark", "p.cumsum(-1) - p >= top_p", "p.cumsum(-1) >= top_p"),
    sampled("min-p held against 1", "p < min_p * p[:, :1]", "p < min_p"),
    sampled("the prompt is penalized too", "presence_penalty * in_output",
            "presence_penalty * (in_prompt | in_output)"),
    sampled("the seed is not heard", "generator.manual_seed(seed)", "generator.seed()"),

    # ---- pictures and clips
    media("[20] sizes rounded half up", "(round(side / factor) * factor for", "(int(side / factor + 0.5) * factor for",
          lessons=(VISION,)),
    media("[20] sizes rounded up beyond the budget", "math.floor(side / scale / factor)",
          "math.ceil(side / scale / factor)", lessons=(VISION,)),
    media("[20] sizes rounded down below the budget", "math.ceil(side * scale / factor)",
          "math.floor(side * scale / factor)", lessons=(VISION,)),
    media("[20] resized twice", "return interpolate(pixels.contiguous(),",
          "return interpolate(interpolate(pixels, size=size, mode='bilinear'),"),
    media("resized without antialias", "antialias=True", "antialias=False", lessons=(VISION,)),
    media("resized as floats", "interpolate(pixels.contiguous(),", "interpolate(pixels.float(),", lessons=(VISION,)),
    media("normalised in another order", "pixels.float().sub_(mean).div_(std)",
          "pixels.float().div_(std) - mean / std", lessons=(VISION,)),
    media("colours backwards", "torch.from_numpy(np.array(image))", "torch.from_numpy(np.array(image)).flip(-1)",
          lessons=(VISION,)),
    media("patches line by line", "(t h w mh mw)", "(t h mh w mw)", lessons=(VISION,)),
    media("[19] frames before colours", "(c f ph pw)", "(f c ph pw)", lessons=(VISION,)),
    media("[19] the first frame fills the last slice", "pixels[-1:].expand(spare", "pixels[:1].expand(spare",
          lessons=(VISION,)),
    media("[19] the time of a slice is its first frame's", "(first + last) / 2 for", "first for", lessons=(VISION,)),
    media("the last frame is not taken", "np.linspace(0, count - 1, wanted)",
          "np.linspace(0, count, wanted, endpoint=False)", lessons=(VISION,)),
    media("all frames counted", "round(frames / per_slice) * per_slice", "math.ceil(frames / per_slice) * per_slice"),
    media("transparent is black", 'Image.new("RGBA", image.size, "white")', 'Image.new("RGBA", image.size, "black")'),
    media("transparent is what lies under it", 'image = Image.alpha_composite(white, image.convert("RGBA"))', "pass"),
    media("the camera's rotation ignored", "image = ImageOps.exif_transpose(image)", "pass"),
    media("the phone's rotation ignored", "if frame.rotation else image", "if False else image"),
    media("the marks around a clip kept", "if not self.keep_outer_marks:", "if False:", lessons=(VISION,)),
    media("a bomb is decoded", "if image.width * image.height > MOST_PIXELS:", "if False:"),
    media("a video cut short is taken", "if end > there:", "if False:"),
    media("a frame cut short is taken", "cut = packet.is_corrupt if packet.size else cut", "pass"),
    media("a frame's tokens come before all pixels",
          "per_frame = min(settings.max_video_tokens * factor * factor, most // frames)",
          "per_frame = settings.max_video_tokens * factor * factor"),
    media("empty chunks are frames", "_check_whole(name, file)\n        return",
          "raise QwenError('It is cut short.')\n        return"),
    media("gaps in time take no time", "if span and (not fps or span * fps > count):", "if span and not fps:"),
    media("an unknown length is a length", "return 8 + size if size < 2**32 - 1 else 0", "return 8 + size"),
    media("a frame of no time lasts none", 'image.info.get("duration") or 100', 'image.info.get("duration", 0)'),
    media("floats are cut off and not rounded", "(array * 255.0).round()", "array * 255.0"),
    media("base64 is a name", "return name, io.BytesIO(_from_base64(encoded))", "raise ValueError"),
    media("a name is base64 first", "if os.path.isfile(path):", "if os.path.isfile(path) and '.' in path:"),
    media("a whole picture is printed", "text.partition(\"\\n\")[0][:LONGEST_SAID]", "text.partition(\"\\n\")[0]"),
    Mutant("a key for nothing counts", "minqwen/messages.py", "for key, x in part.items() if x is not None}",
           "for key, x in part.items()}", tests=("tests/test_chat_media.py",)),
    Mutant("a part is what it has a key for", "minqwen/messages.py",
           'if part.get(kind) is not None or part.get("type") == kind:', "if kind in part:",
           tests=("tests/test_chat_media.py",)),

    # ---- the vision tower, and positions around what it sees
    sight("[18] patches without a bias", "self.proj.weight.flatten(1), self.proj.bias)",
          "self.proj.weight.flatten(1))", lessons=(VISION,)),
    sight("[18] learned positions with corners not aligned", "align_corners=True", "align_corners=False",
          lessons=(VISION,)),
    sight("[18] learned positions of the nearest", 'mode="bilinear", align_corners=True', 'mode="nearest"',
          lessons=(VISION,)),
    sight("[18] learned positions line by line",
          'by_blocks(rearrange(stretched, "1 c h w -> h w c"), self.config.spatial_merge_size)',
          'rearrange(stretched, "1 c h w -> (h w) c")', lessons=(VISION,)),
    sight("patches not in blocks", "(h i) (w j) c -> (h w i j) c", "(h i) (w j) c -> (h i w j) c", lessons=(VISION,)),
    sight("blocks read downwards", "(h i) (w j) c -> (h w i j) c", "(h i) (w j) c -> (h w j i) c", lessons=(VISION,)),
    sight("[18] the exact GELU in the blocks", ', approximate="tanh"', "", lessons=(VISION,)),
    sight("[18] the GELU of tanh in the merger", "F.gelu(self.linear_fc1(x))",
          'F.gelu(self.linear_fc1(x), approximate="tanh")', "class PatchMerger", lessons=(VISION,)),
    sight("[18] attention across frames", "[h * w for t, h, w in grids for _ in range(t)]",
          "[t * h * w for t, h, w in grids]", lessons=(VISION,)),
    sight("[18] a norm at the end of the tower", "return self.merger(x)",
          "return self.merger(self.merger.norm(x))", lessons=(VISION,)),
    sight("frames of one size mixed", "(f p) h d -> f h p d", "(p f) h d -> f h p d"),
    sight("queries, keys and values of a patch head by head", "n (three h d) -> three n h d",
          "n (h three d) -> three n h d", lessons=(VISION,)),
    sight("patches turned the other way", "a * cos - b * sin, b * cos + a * sin",
          "a * cos + b * sin, b * cos - a * sin", lessons=(VISION,)),
    sight("rows and columns of patches swapped", "(rows[:, None, None] * frequency).expand(h, w, -1)",
          "(columns[None, :, None] * frequency).expand(h, w, -1)", lessons=(VISION,)),
    sight("patches rotated as text is", "1 / 10_000 ** (torch.arange(0, D // 2, 2",
          "1 / 10_000_000 ** (torch.arange(0, D // 2, 2", lessons=(VISION,)),
    sight("the tower's norms without a mean", "self.norm1(x)", "F.rms_norm(x, x.shape[-1:], eps=1e-6)",
          lessons=(VISION,)),
    sight("pictures are not seen", "x = x.masked_scatter(here.unsqueeze(-1), features)", "pass", file=MODEL,
          lessons=(VISION,)),
    sight("clips stand where pictures do", '("clip", self.config.video_token_id',
          '("clip", self.config.image_token_id', file=MODEL),
    sight("as many placeholders as you like", "if here.sum() != len(features):", "if False:", file=MODEL),
    sight("[16] text resumes one past a picture", "start += max(h, w)", "start += 1", lessons=(VISION,)),
    sight("[16] text resumes past all that is seen", "start += max(h, w)", "start += t * h * w", lessons=(VISION,)),
    sight("[16] text resumes past the shorter side", "start += max(h, w)", "start += min(h, w)", lessons=(VISION,)),
    sight("[15] height and width of a picture swapped", "torch.stack(grid)",
          "torch.stack((grid[0], grid[2], grid[1]))", lessons=(VISION,)),
    sight("[15] a picture's places counted from 0", "torch.stack(grid).flatten(1) + start",
          "torch.stack(grid).flatten(1)", lessons=(VISION,)),
    sight("[19] a clip is one block", "grids[2] += t * [(1, h // merge, w // merge)]",
          "grids[2].append((t, h // merge, w // merge))"),
    sight("[16] decoding counts tokens", "self.positions = torch.maximum(self.positions, past.amax(-1))",
          "self.positions = self.positions + (past > 0).sum(-1)", file=CACHE, lessons=(VISION,)),
    sight("[16] decoding goes on from the time of a picture", "past = position_ids.amax(0) + 1",
          "past = position_ids[0] + 1", file=CACHE, lessons=(VISION,)),
    sight("[16] a snapshot forgets the offset", "snapshot.length, snapshot.padded, snapshot.positions.clone()",
          "snapshot.length, snapshot.padded, torch.full_like(self.positions, snapshot.length)",
          file=CACHE, lessons=(GENERATION,)),
    sight("a picture in a later turn starts anew", "starts = [0] * B if cache is None else cache.positions.tolist()",
          "starts = [0] * B"),
    sight("[2] packed pictures are one sequence", "ends = [0, T] if cu_seqlens is None else cu_seqlens.tolist()",
          "ends = [0, T]"),
    sight("[1] pads move a picture",
          "real = torch.ones(b - a, dtype=torch.bool, device=kinds.device) if valid is None else valid[row, a:b]",
          "real = torch.ones(b - a, dtype=torch.bool, device=kinds.device)"),

    # ---- long context
    model("a piece looks as if it were the beginning", "return attend_from_the_end(q, k, v)",
          "return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)", lessons=(LONG,)),
    model("a token at the end of a piece sees the next one", "row[S:] = -torch.inf", "row[S + 1 :] = -torch.inf",
          lessons=(LONG,)),
    model("a piece is read from behind", "attn_mask=mask, enable_gqa=True).flip(2)", "attn_mask=mask, enable_gqa=True)",
          lessons=(LONG,)),
    longer("a piece has a mask of its own length by the text's", "minqwen/cache.py", "T == 1 or on_cpu)", "T == 1)"),
    longer("info forgets that values are kept, too", "minqwen/info.py", "per_token = attention * 2 *",
           "per_token = attention *", lessons=(LONG,)),
    longer("info takes states for the model's dtype", "minqwen/info.py", "t.linear_key_head_dim * 4,",
           "t.linear_key_head_dim * 2,", lessons=(LONG,)),
    Mutant("[17] pairs that came round are slowed down, too", MODEL, "first, last = max(first, 0), min(last, dims - 1)",
           "first, last = -2, -1", tests=("tests/test_yarn.py",), lessons=(LONG,)),
    Mutant("[17] the ramp is not rounded", MODEL, "first, last = math.floor(first), math.ceil(last)", "pass",
           tests=("tests/test_yarn.py",), lessons=(LONG,)),
    Mutant("[17] softmax over a longer text is blurred", CONFIG, "return (1 + 0.1 * up *", "return (1 + 0 * up *",
           tests=("tests/test_yarn.py",), lessons=(LONG,)),
    Mutant("[17] the context is longer and positions are as they were", CONFIG,
           '"factor": float(math.ceil(tokens / original)),', '"factor": 1.0,', tests=("tests/test_yarn.py",),
           lessons=(LONG,)),
    edit("a memory that is cleared is not empty", 'max(EMPTY, torch.tensor(edit.becomes).log().item())', "-0.1",
         lessons=(LONG,)),
    edit("what is forgotten can be looked at", "places.so_far < edit.token", "places.so_far < 0"),
    edit("a cache's tokens are not counted as past", "torch.cat((past, real), dim=1)",
         "torch.cat((past & False, real), dim=1)"),

    # ---- the fused step on a GPU
    fused("[6] a norm's weight not counted from one", "weight = 1 + tl.load(norm + d", "weight = tl.load(norm + d"),
    fused("turned the other way", "tl.where(d < HALF, -1.0, 1.0)", "tl.where(d < HALF, 1.0, -1.0)"),
    fused("[16] a position is the slot", "tl.load(slot).to(tl.int32), tl.load(positions + row)",
          "tl.load(slot).to(tl.int32), tl.load(slot)"),
    fused("the convolution stands still", "exists & (t > 0)[None, :]", "exists & (t > TAPS)[None, :]"),
    fused("each matrix writes where the first does", "tl.where(beyond, above + n, above)",
          "tl.where(beyond, above, above)"),
    fused("a memory that never forgets", "S *= tl.exp(g)", "S *= 1"),
    fused("the memory is not kept", "write(memory, d, Dk, Dv, e, Dv, S)", "pass", "def recall"),
    fused("the memory's norm is not gated", "weight * h_b * (z_b * tl.sigmoid(z_b))", "weight * h_b"),
    fused("attention is not gated", "answer *= rounded(tl.sigmoid(gate), o)", "pass"),
    fused("[1] pads are seen", "mask=j < end, other=0) != 0", "mask=j < end, other=0) >= 0"),
    fused("each part of the past counts the same", "w = tl.exp(w - tl.max(w, 0))", "w = tl.where(w > -1e9, 1.0, 0.0)"),
    fused("keys go one slot too far", "write(k_head, end + one", "write(k_head, end + 1 + one"),
    fused("a sum is not faded when a higher score comes", "total = total * fade", "total = total"),
    fused("nothing is added to the stream", "(x_b + y).to(x", "y.to(x"),
    fused("experts are taken for a dense layer", "known = all(type(module) in KNOWN for module in text.modules())",
          "known = True"),
    fused("another kernel is not heeded", 'kernels <= {"auto", "triton"}', "True"),
    graph("the slot stands still", "self.slot += 1", "pass"),
    graph("positions stand still", "self.positions += 1", "pass"),
    graph("a cache that was moved is not noticed", "if cache.positions is not self.positions:", "if self.slot == 0:"),
    graph("[5] a memory elsewhere is not taken", "own.copy_(x)", "pass"),
    graph("[1] pads are seen in a graph", "self.valid[:, :reach] & filled", "filled.expand(len(x), -1)"),
    graph("slots not filled are seen", "self.valid[:, :reach] & filled", "self.valid[:, :reach]"),
    graph("a decoder outlives a change of kernel", "if before != made_of or decoder._model() is not model:",
          "if before is None:"),
    graph("a decoder is of another model", " or decoder._model() is not model", ""),
    graph("a trial moves the slot", "moved = [self.slot, self.positions, *(own", "moved = [*(own"),
    graph("a lent cache knows the text before", "    cache.restore(empty)\n", ""),
    graph("a lent cache has other rows", "cache.batch_size != batch_size or ", ""),
    graph("a lent cache is too short", " or cache.max_length < length", ""),
    graph("a graph looks for memories elsewhere", "        self._gather_memories()\n        return", "        return"),
    graph("somebody else's attention is ours", "any(map(callable, vars(module).values()))", "False"),
    graph("a GPU reads ahead into a cache that lives on", "not keep_cache and budgets is None", "budgets is None",
          file="minqwen/generate.py"),
    graph("a graph reads for rows that have stopped", "if decoder is None or real is not None:", "if decoder is None:",
          file="minqwen/generate.py"),

    # ---- multi-token prediction
    mtp("[21] the halves swapped", "self.pre_fc_norm_embedding(next_embeddings), self.pre_fc_norm_hidden(hidden)",
        "self.pre_fc_norm_hidden(hidden), self.pre_fc_norm_embedding(next_embeddings)", lessons=(DRAFTS,)),
    mtp("[21] the hidden state before the last norm", """\
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, inputs_embeds=x)
""", """\
        seen, norm = [], self.model.language_model.norm
        hook = norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        self.hidden_states(input_ids, attention_mask, position_ids, inputs_embeds=x)
        hook.remove()
        hidden = seen[0]
""", lessons=(DRAFTS,)),
    mtp("[21] drafts feed back what is not normed", "return self.norm(x)", "return x", "class MultiTokenPrediction",
        lessons=(DRAFTS,)),
    mtp("one norm for both halves", "self.pre_fc_norm_hidden(hidden)", "self.pre_fc_norm_embedding(hidden)",
        lessons=(DRAFTS,)),
    mtp("the token itself is heard and not the next", "self.mtp(hidden[:, :-1], x[:, 1:]",
        "self.mtp(hidden[:, :-1], x[:, :-1]", lessons=(DRAFTS,)),
    mtp("the head stands one further", "position_ids.expand(3, B, T)[..., :-1], self",
        "position_ids.expand(3, B, T)[..., 1:], self"),
    mtp("the head sees no pictures", "x = self.embed(input_ids, **pictures)", "x = self.embed(input_ids)"),
    mtp("[1] the head looks at pads", "None if valid is None else valid[:, :-1] & valid[:, 1:]", "None"),
    mtp("[1] the head looks at the last pad", "valid[:, :-1] & valid[:, 1:]", "valid[:, 1:]"),
    Mutant("a head that is not there is missed", "minqwen/checkpoint.py",
           'if not any(name.startswith("mtp.") for name in stored):', "if False:", tests=("tests/test_checkpoint.py",)),

    # ---- mixture of experts
    moe("weights of the chosen do not add up to one", "weights / weights.sum(-1, keepdim=True)", "weights",
        lessons=(MIXTURE,)),
    Mutant("training does not balance", "minqwen/nano/train.py", "loss = loss + text.router_aux_loss_coef * balance",
           "pass", tests=("tests/test_nano_moe.py::test_the_balance_is_learnt_by_its_coefficient",)),
    Mutant("training balances its padding", "minqwen/nano/train.py", "text.num_experts_per_tok, batch.real)",
           "text.num_experts_per_tok)", tests=("tests/test_nano_moe.py::test_padding_is_not_balanced",)),
    Mutant("the wrong layer's load is marked", "minqwen/widgets/stills.py", "layers.index(layer), expert)",
           "layer, expert)", tests=("tests/test_stills.py",)),
    Mutant("the shared expert's gate before its sigmoid", "minqwen/trace.py",
           "mixture.shared_expert_gate(x).sigmoid()", "mixture.shared_expert_gate(x)",
           tests=("tests/test_routing.py",)),
    Mutant("pads are counted among an expert's tokens", "minqwen/widgets/experts.py", "x[row, real].float()",
           "x[row].float()", tests=("tests/test_experts_widget.py",)),
    balance("padding is balanced, too", "if attention_mask is not None:", "if False:"),
    balance("padding alone cannot be balanced", "max(len(probabilities), 1)", "len(probabilities)"),
    balance("the balancing loss counts one expert a token", "probabilities.topk(top_k)", "probabilities.topk(1)",
            (MIXTURE,)),
    balance("each layer's balance by itself", "experts * shares @ (probabilities.sum(0) / rows)",
            "sum(experts * shares @ layer.float().softmax(-1).mean(0) for layer in logits) / len(logits)"),
    balance("the balancing loss forgets the experts' number", "return experts * shares", "return shares",
            (MIXTURE,)),
    balance("the balancing loss in half precision", "layer.float().softmax(-1)", "layer.softmax(-1)"),
    balance("the multi-token head is balanced, too", "model.model.modules()", "model.modules()"),
    moe("the router rounds", "full_precision(F.linear(x, self.weight)).softmax(-1)",
        "F.linear(x, self.weight).softmax(-1)"),
    moe("sigmoid for softmax", "full_precision(F.linear(x, self.weight)).softmax(-1)",
        "full_precision(F.linear(x, self.weight)).sigmoid()", lessons=(MIXTURE,)),
    moe("of two that are as probable the later is taken", "weights, chosen = probabilities.topk(self.top_k)",
        "weights, chosen = probabilities.flip(-1).topk(self.top_k); chosen = len(self.weight) - 1 - chosen"),
    moe("[22] up first", "gate, up = by_groups(", "up, gate = by_groups(", lessons=(MIXTURE,)),
    moe("the shared expert is not gated", "torch.sigmoid(self.shared_expert_gate(x)) * self.", "self.",
        lessons=(MIXTURE,)),
    moe("the shared expert is not heard", "return y + torch.sigmoid(", "return y + 0 * torch.sigmoid(",
        lessons=(MIXTURE,)),
    moe("every expert's word counts the same", "(y * weights[..., None]).sum(1)", "y.mean(1)",
        lessons=(MIXTURE,)),
    moe("answers go back in the order of experts", "y = y[order.argsort()].view(", "y = y.view(",
        lessons=(MIXTURE,)),
    moe("a group begins with the last row of the one before", "right=True, out_int32", "right=False, out_int32"),
    moe("an older torch gives a group the next one's matrix", "x.tensor_split(ends[:-1].tolist())",
        "x.tensor_split(ends[1:].tolist())"),
    moe("matrices that torch does not take as groups are given to it", "!= torch.float64 and whole_lines:",
        "!= torch.float64:"),
    moe("experts are not filled", "for matrices, number in (module.gate_up_proj, 1), (module.down_proj, writing):",
        "for matrices, number in ():"),
    moe("experts write as loudly as they please", "(module.down_proj, writing)", "(module.down_proj, 1)"),
    moe("[22] up before gate on the way in", '("gate_up_proj", ("gate", "up"))', '("gate_up_proj", ("up", "gate"))',
        CHECKPOINT),
    moe("[22] the head's experts are saved fused", "if not (alone and experts.endswith(",
        "if True or not (alone and experts.endswith(", CHECKPOINT),
    moe("quantized experts are taken for numbers", '"weight|bias|A_log|_proj$"', '"weight|bias|A_log"', CHECKPOINT),
    moe("a missing matrix is not missed", "if odd:", "if False:", CHECKPOINT),
    moe("all experts are active", "t.num_experts - t.num_experts_per_tok if", "0 if", "minqwen/info.py", (MIXTURE,)),
    moe("a CUDA graph waits for the CPU", "untouched(model) and not model.config.text_config.num_experts",
        "untouched(model)", "minqwen/graph.py"),
    loading("experts where the model type says that there are none", CONFIG, "(experts == 0, f", "(True, f"),
    loading("a mixture without experts", CONFIG, "(config.num_experts > 0, f", "(True, f"),
    loading("more experts for a token than there are", CONFIG,
            "not self.num_experts or self.num_experts_per_tok <= self.num_experts,", "True,"),
    loading("a silent mixture is as wide as the 9B", CONFIG, '"hidden_size": 2048, "num_hidden', '"num_hidden'),
    Mutant("the router is not looked at", "minqwen/verify.py", "if isinstance(layer.mlp, MixtureOfExperts):",
           "if False:", tests=("tests/test_moe.py",)),

    # ---- verification
    verify("what is not a number passes", "return self.error <= self.tolerance",
           "return not self.error > self.tolerance"),
    verify("what is misshapen is stretched", "if ours.shape != theirs.shape:", "if False:", "def error("),
    verify("gradients may be off by a tenth", "{-3.0: 2e-5, -50.0: 2e-4}", "{-3.0: 1e-1, -50.0: 1e-1}",
           lessons=(CHUNKS,)),
    verify("gradients may be off by a tenth where gates are gentle", "{-3.0: 2e-5,", "{-3.0: 1e-1,"),
    verify("gradients may be off by a tenth where gates are strong", "-50.0: 2e-4}  ", "-50.0: 1e-1}  "),
    verify("outputs may be off by a tenth", '"float32": 1e-5', '"float32": 1e-1'),
    verify("outputs may be off by a tenth where gates are strong", '"gates to -50": 2e-4}', '"gates to -50": 1e-1}'),
    verify("cosines are compared and sines are not", "max(map(error, turned, right)), FULL",
           "error(turned[0], right[0]), FULL"),
    Mutant("of complex numbers one part is compared", "minqwen/verify.py",
           "torch.complex128 if mine.is_complex() or right.is_complex() else torch.float64", "torch.float64",
           tests=("tests/test_verify.py::test_complex_numbers_are_compared_with_both_of_their_parts",)),
    Mutant("a gate of -inf costs the others their digits", RULE, "GONE = FAINT - 1", "GONE = 2 * FAINT",
           tests=("tests/test_delta_rule.py::test_gates_of_minus_infinity_cost_no_digits_of_the_others",)),
    Mutant("an archive in a class is passed over", "minqwen/course/grading.py",
           " or place.name.lower().endswith(HANDED_IN)]", "]",
           tests=("tests/test_teaching.py::test_nobody_of_a_class_is_left_out",)),
    verify("the best gradient counts", "worst = max(off, key=off.get)", "worst = min(off, key=off.get)"),
    Mutant("no gradient is too far off", "minqwen/course/checks/delta_rule.py", "demand(near(off, tolerance),",
           "demand(True,", tests=("tests/test_judging.py",), lessons=(CHUNKS,)),
    verify("random ids are placeholders", "ids += ids >= id", "pass"),
    verify("[31] the official tokenizer is taken for what tokenizer.json says",
           "transformers.AutoTokenizer.from_pretrained", "transformers.PreTrainedTokenizerFast.from_pretrained"),
    verify("texts are not read", "for text in texts if tokenizer", "for text in () if tokenizer"),
    verify("a chat is not read", "float(ours != theirs)", "0.0"),
    verify("the tower is not looked at", "if model.config.vision_config is not None:", "if False:", "def verify("),
    verify("the head is not looked at", "if text.mtp_num_hidden_layers:", "if False:", "def verify("),
    verify("the best layer counts", "max((worst, where), (error(ours, theirs), layer))",
           "min((worst, where), (error(ours, theirs), layer))"),
    # ---- weights in few bits
    codes("codes are cut off, and not rounded", "quantize", "(x / scale).round()", "(x / scale).trunc()",
          "test_quantize.py::test_a_code_is_the_nearest_whole_number_of_scales", lessons=(FEW_BITS,)),
    codes("the second of two codes is in the lower half", "quantized", "codes[..., i] << i", "codes[..., -1 - i] << i",
          "test_quantize.py::test_a_code_is_the_nearest_whole_number_of_scales", lessons=(FEW_BITS,)),
    codes("the worst scale is taken", "quantize", "lost < least,", "lost > least,",
          "test_quantize.py::test_a_search_for_the_scale_comes_nearer", lessons=(FEW_BITS,)),
    codes("gates of the memory are quantized", "quantize", "in_proj_[ab]|", "in_proj_a|",
          "test_quantize.py::test_what_stays_as_it_is", lessons=(FEW_BITS,)),
    codes("the head is of as few bits as the rest", "quantize", "embeddings if name in (EMBEDDING, HEAD)",
          "embeddings if name in (EMBEDDING,)", "test_quantize.py::test_bits_of_embedding_and_head_are_said_apart"),
    codes("weights of few bits are counted as they were", "widgets/cost", "None if bits == 16 else bits, group",
          "None, group", "test_cost_widget.py::test_weights_are_those_of_minqwen_info"),
    codes("an explorer's errors are those of the widest scales", "widgets/quant", "bits, size, self.search)",
          "bits, size, False)", "test_quant_widget.py::test_it_rounds_as_the_package_does"),
    codes("how without to how many bits is passed over", "quantize", "if bits is None and (", "if False and (",
          "test_cli.py::test_mistakes_are_one_sentence_and_exit_code_2"),
    codes("an option of load is not handed on", "cli", ".parameters)[1:]}", ".parameters)[1:-1]}",
          "test_cli.py::test_what_load_takes_is_taken_and_handed_on"),
    codes("packed rows are swapped", "quantized", "(codes << 4, codes & 0xF0)",
          "(codes & 0xF0, codes << 4)",
          "test_quantize.py::test_4_bits_in_bfloat16_lie_as_the_packed_product_wants_them"),
    codes("a block of packed codes is written to by who reads it", "quantized", ".view(torch.uint8) ^ 0x88",
          ".view(torch.uint8).bitwise_xor_(0x88)",
          "test_quantize.py::test_4_bits_in_bfloat16_lie_as_the_packed_product_wants_them"),
    codes("many tokens are multiplied with codes", "quantized", "FEW.get(weight.bits, 0)", "10 ** 9",
          "test_quantize.py::test_4_bits_in_bfloat16_lie_as_the_packed_product_wants_them"),
    codes("an embedding reads the other half of its block", "quantized", "ids // 32 % 2 * 4", "(1 - ids // 32 % 2) * 4",
          "test_quantize.py::test_products_are_those_with_the_numbers"),
    codes("a quantized weight is written to, and nobody told", "quantized", "if function._schema.is_mutable:",
          "if False:", "test_quantize.py::test_anything_else_sees_numbers_and_nothing_is_written"),
    codes("a whole file stays mapped for each small tensor", "checkpoint", "if rounding and tensors[name] is tensor:",
          "if False:", "test_quantize.py::test_memory_holds_the_small_model_and_little_beside_it"),
    codes("GPTQ's zero points are read as they are stored", "layouts",
          'less = self.settings.get("checkpoint_format") != "gptq_v2"', "less = 0",
          "test_layouts.py::test_zero_points_are_read_and_written"),
    codes("AWQ's columns are taken in order", "layouts", "AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]",
          "AWQ_ORDER = [0, 1, 2, 3, 4, 5, 6, 7]",
          "test_layouts.py::test_what_is_written_means_the_same_to_others_and_to_us"),
    codes("scales of floats are divided by", "quantized", "return w.mul_(spread(", "return w.div_(spread(",
          "test_layouts.py::test_official_fp8_with_blocks_that_are_cut"),
    codes("columns out of order are read in order", "layouts", "if g_idx is not None and not", "if False and not",
          "test_layouts.py::test_a_quantized_weight_that_is_damaged_is_named"),
    tuned("it is judged by the mean of rows, and not of tokens", "finetune", "/ taught(rows)", "/ len(rows)",
          "finetune.py::test_packed_chats_do_not_see_each_other"),
    tuned("each pack counts alike in a step's loss", "finetune", "loss(some) / count", "loss(some) / taught(some)",
          "finetune.py::test_a_step_is_the_same_however_it_is_computed"),
    tuned("packed chats see each other", "finetune", "x.cu_seqlens if len(rows) > 1 else None", "None",
          "finetune.py::test_packed_chats_do_not_see_each_other"),
    tuned("the gradient keeps its length", "finetune", "self.optimizer.clip()", "self.optimizer.clip(math.inf)",
          "finetune.py::test_a_step_is_the_same_however_it_is_computed"),
    tuned("the first step learns nothing", "finetune", "min(1, (number + 1) / warm)", "min(1, number / warm)",
          "finetune.py::test_the_rate_rises_and_falls"),
    tuned("all epochs have one order", "finetune", 'Random(f"{settings.seed} {epoch}")', 'Random(f"{settings.seed}")',
          "finetune.py::test_every_epoch_has_an_order_of_its_own_by_the_seed"),
    tuned("all seeds have one order", "finetune", 'Random(f"{settings.seed} {epoch}")', 'Random(f"{epoch}")',
          "finetune.py::test_every_epoch_has_an_order_of_its_own_by_the_seed"),
    tuned("what is judged by is learnt", "finetune", "enumerate(chats) if n not in apart]", "enumerate(chats)]",
          "finetune.py::test_what_is_judged_by_is_not_learnt"),
    tuned("the file to judge by is not used", "finetune", "(chats, others)", "split(chats, settings)",
          "finetune.py::test_another_file_to_judge_by_and_packs_that_the_model_can_read"),
    tuned("packs are longer than the model reads", "finetune",
          "length=min(settings.length, qwen.config.text_config.max_position_embeddings)", "length=settings.length",
          "finetune.py::test_another_file_to_judge_by_and_packs_that_the_model_can_read"),
    tuned("a run goes on in another dtype", "finetune", '"dtype": str(qwen.model.head_weight.dtype), ', "",
          "finetune.py::test_runs_that_do_not_go_together"),
    tuned("alpha does not reach the adapter", "finetune", "settings.lora, settings.alpha,", "settings.lora, None,",
          "finetune.py::test_what_is_chosen_reaches_the_adapter_and_adamw"),
    tuned("the seed does not reach the adapter", "finetune", "settings.targets, settings.seed)", "settings.targets, 0)",
          "finetune.py::test_what_is_chosen_reaches_the_adapter_and_adamw"),
    tuned("weight decay does not reach AdamW", "finetune", "(learning, settings.weight_decay)", "(learning, 0.0)",
          "finetune.py::test_what_is_chosen_reaches_the_adapter_and_adamw"),
    tuned("pieces of a gradient replace each other", "masters", "master.grad.add_(here)", "here.float()",
          "finetune.py::test_masters_are_float32_adamw"),
    tuned("the model computes with what it was before the snapshot", "masters", "        self.round()\n", "",
          "finetune.py::test_a_run_that_was_interrupted_ends_in_the_same_bits", "def load("),
    tuned("the end of an answer is not learnt", "dataset", "first + ends[-1] + 1", "first + ends[-1]",
          "dataset.py::test_an_answer_up_to_its_end"),
    tuned("what is learnt is no part of what a run is known by", "dataset", " + row.learnt.numpy().tobytes()", "",
          "dataset.py::test_a_digest_knows_what_is_learnt"),
    tuned("a pack is too full", "dataset", "<= length)", "<= 2 * length)", "dataset.py::test_packs_are_full_and_whole"),
    tuned("the rank divides twice", "lora", "self.alpha / rank", "self.alpha / rank ** 2",
          "finetune.py::test_what_is_chosen_reaches_the_adapter_and_adamw"),
    tuned("every seed has one start", "lora", "manual_seed(seed)", "manual_seed(0)",
          "lora.py::test_it_begins_as_that_of_peft_by_its_seed"),
    tuned("an adapter goes into the weights twice", "lora", "if self.merged:", "if False:",
          "lora.py::test_it_begins_as_nothing_and_can_be_merged_and_let_go"),
    tuned("an adapter has a place in all layers", "lora", " for name, pair in adapter.pairs.items() if name in names}",
          " for name, pair in adapter.pairs.items()}", "lora.py::test_an_adapter_of_some_layers_leaves_the_others"),
    tuned("matrices with ranks of their own are given the common one", "lora", '"rank_pattern", ', "",
          "lora.py::test_folders_that_hold_no_adapter_for_this_model"),
    tuned("matrices with an alpha of their own are given the common one", "lora", '"alpha_pattern", ', "",
          "lora.py::test_folders_that_hold_no_adapter_for_this_model"),
    codes("kernels that read numbers are given codes", "decode_triton", "type(p) is nn.Parameter", "True",
          "test_decode_triton.py::test_it_is_for_plain_dense_models_and_small_batches"),
]


# ---- running

def workspace(folder, mutant=None, root=REPOSITORY):
    """A copy of what tests and lessons need, broken by `mutant`; the data are only linked."""
    folder = Path(folder)
    for name in ("minqwen", "tests", "notebooks"):
        if (root / name).exists():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
    for name in ("conftest.py", "pyproject.toml"):
        if (root / name).exists():
            shutil.copy(root / name, folder)
    if (root / "data").exists():
        (folder / "data").symlink_to(root / "data")
    if mutant:
        mutant.apply(folder)
    return folder


def environment(folder):
    """The copy goes before the installed package."""
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1"}


def suite_notices(folder, tests):
    """Run tests in a workspace up to the first failure: (noticed, the end of what pytest said).

    Only a test that fails notices; one that cannot even be collected, or that stumbles over an import, does not."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--color=no", "-p", "no:cacheprovider",
               "-m", "not mutants and not browser", *tests]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    said = done.stdout[-3000:] + done.stderr[-1000:]
    stumbled = r"^E\s+(ImportError|ModuleNotFoundError|SyntaxError|NameError)"
    broken_off = done.returncode == 2 and " KeyboardInterrupt !" in done.stdout      # one that a test no longer expects
    if not (done.returncode in (0, 1) or broken_off) or re.search(stumbled, done.stdout, flags=re.MULTILINE):
        raise RuntimeError(f"the tests could not judge:\n{said}")
    return done.returncode != 0, said


def lesson_notices(folder, lesson):
    """Run a lesson in a workspace up to the first error: (noticed, what was said).

    It notices when a check raises: an AssertionError, what an exercise finds wrong, or the library's own word on it."""
    notebook = strip(read(folder / "notebooks" / f"{lesson}.ipynb"))
    try:
        run(notebook, folder=folder / "notebooks", env=environment(folder))
    except CellExecutionError as error:
        if error.ename not in ("AssertionError", "QwenError", "Wrong"):
            raise RuntimeError(f"the lesson fell over its own code and not over a check:\n{error}") from None
        return True, str(error)
    return False, "every cell ran"
