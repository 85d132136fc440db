"""The checks of lesson 15, A GPU kernel."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...delta_rule import recurrent_gated_delta_rule
from ...errors import QwenError
from ..judging import call, compare, demand, hints
from ..pieces import interpret_kernels

AROUND = 8192                                           # numbers before and after each tensor that nobody may touch
STEPS_ALLOWED = 1.6                                     # times as many, for a chunk twice as long
SINGLE = 1e-5                                           # error of an inverse in float32, whose entries are below 1


# --------------------------------------------------------------------------------------------------- exercise 1


def _compiled(mine):
    """The learner's function as a kernel, and the device it runs on."""
    interpret_kernels()
    try:
        import triton
    except ImportError:
        raise QwenError("a kernel needs Triton, which exists for Linux only: read on without this exercise.") from None
    return triton.jit(mine), "cpu" if triton.knobs.runtime.interpret else "cuda"


def _fenced(x, device):
    """x in the middle of memory that holds 7 everywhere: (x there, all of it)."""
    room = torch.full((x.numel() + 2 * AROUND,), 7.0, device=device)
    inside = room[AROUND : AROUND + x.numel()].view(x.shape)
    inside.copy_(x)
    return inside, room


def _one_token(H, Dk, Dv):
    random = torch.Generator().manual_seed(Dk)
    q, k = torch.nn.functional.normalize(torch.randn(2, H, Dk, generator=random), dim=-1)
    v, state = torch.randn(H, Dv, generator=random), torch.randn(H, Dk, Dv, generator=random)
    return q, k, v, -torch.rand(H, generator=random), 0.2 + 0.6 * torch.rand(H, generator=random), state


def _decoded(q, k, v, g, beta, state):
    """The rule itself, unscaled: (o, the memory afterwards)."""
    one = (x[None, None] for x in (q, k, v, g, beta))
    o, last = recurrent_gated_delta_rule(*one, 1.0, state[None], output_final_state=True)
    return o[0, 0], last[0]


def _launched(mine, x, BK, BV):
    """(o, the memory) as the learner's kernel leaves them; what it was not given is left alone."""
    kernel, device = _compiled(mine)
    *vectors, state = x
    H, Dk, Dv = state.shape
    (o, around_o), (memory, around_memory) = (_fenced(t, device) for t in (torch.full_like(x[2], torch.nan), state))
    given = [_fenced(t, device)[0] for t in vectors]
    try:
        kernel[(H, -(-Dv // BV))](*given, memory, o, Dk=Dk, Dv=Dv, BK=BK, BV=BV)
    except Exception as error:
        raise (error.__cause__ or error) from None      # Triton says that it has failed, and beneath it, why and where
    for name, room in (("o", around_o), ("the memory", around_memory)):
        demand((torch.cat((room[:AROUND], room[-AROUND:])) == 7).all(),
               f"it writes beside {name}, where other things lie: a mask is missing.")
    for name, before, after in zip(("q", "k", "v", "g", "beta"), vectors, given, strict=True):
        demand(torch.equal(before, after.cpu()), f"it writes into {name}, which is only to be read.")
    return o.cpu(), memory.cpu()


@hints(
    "A program is told where it stands by tl.program_id(0), the head, and tl.program_id(1), the block. Make two rows "
    "of numbers first: d for the rows of the memory, and e for the columns that are this program's.",
    "A pointer and a row of numbers is a row of pointers. The memory's rows are Dv apart, and a head's memory is "
    "Dk Dv numbers long. Load all (with masks d < Dk, e < Dv), then do the four lines of the rule in registers, store.",
    "The tile's pointers are state + h * Dk * Dv + d[:, None] * Dv + e[None, :]. What the memory answers to k is a sum "
    "over its rows: tl.sum(k_t[:, None] * S, 0). It fades first. Masks are asked for in tl.store, too.",
)
def my_decode_kernel(mine):
    """each number of the memory is read once and written once"""
    for H, Dk, Dv, BK, BV in ((1, 16, 16, 16, 16), (3, 16, 32, 16, 8), (2, 24, 40, 32, 16)):
        q, k, v, g, beta, state = x = _one_token(H, Dk, Dv)
        o, memory = _launched(mine, x, BK, BV)
        demand(not o.isnan().all(), "nothing that is a number is stored to o.")
        demand(not o.isnan().any(), "only a part of o is stored: program (h, block) does the columns from "
                                    "block * BV on of head h, so both of its numbers count.")
        demand(not torch.equal(memory, state), "the memory is as it was: store S where it was loaded from.")

        def after(memory, answer, k=k, v=v, beta=beta):
            return memory + torch.einsum("hk, hv -> hkv", k, beta[:, None] * (v - answer))

        right, last = _decoded(*x)
        faded, by_log = (state * gate[:, None, None] for gate in (g.exp(), g))
        compare(memory, last, {
            "the memory does not fade: multiply it by exp(g) first": _decoded(q, k, v, 0 * g, beta, state)[1],
            "g is the logarithm of what stays: take its exponential":
                after(by_log, torch.einsum("hk, hkv -> hv", k, by_log)),
            "it fades too late: first it fades, then it is asked":
                after(faded, torch.einsum("hk, hkv -> hv", k, state)),
            "beta is missing": _decoded(q, k, v, g, beta / beta, state)[1],
            "the old answer stays: what the memory answers to k is taken from v": after(faded, 0 * v),
        }, "the memory is not the recurrence's: compare the pointers of the tile, and the rule, line by line.",
            "the memory")
        compare(o, right, {
            "you read before you have written": torch.einsum("hk, hkv -> hv", q, faded),
            "you read with the key: ask with the query": torch.einsum("hk, hkv -> hv", k, last),
            "every head reads with the query of head 0": torch.einsum("k, hkv -> hv", q[0], last),
        }, "the memory is right, but o is not S^T q.", "o")


# --------------------------------------------------------------------------------------------------- exercise 2


@hints(
    "Two counts and one division. Operations first: of each product, how many multiplications does one token of one "
    "value head need? Four of the seven are C times D, three are D times D.",
    "An operation is a multiplication or an addition, so each product counts twice. Bytes: q and k have Hk heads, "
    "v and o have Hv; two bytes a number. A memory is D times D numbers of four bytes, once in and once out.",
    "operations = 2 * tokens * Hv * (4 C D + 3 D D); bytes = 2 * tokens * (two of Hk and two of Hv) * D, and for the "
    "memories 2 * 4 * Hv * D * D, which do not grow with the tokens.",
)
def my_intensity(mine):
    """operations for each byte, of a step and of a text"""
    # Three value heads to a key head at first: were there two, wrong heads could not be told from a forgotten 2.
    for sizes in ((1, 16, 48, 128, 1), (32_768, 16, 32, 128, 64), (7, 2, 6, 24, 16), (1, 4, 4, 64, 64)):
        tokens, Hk, Hv, D, C = sizes

        def ratio(count=2, memories=Hv, half=2, full=4, heads=2 * (Hk + Hv), sides=4, products=Hv,
                  tokens=tokens, D=D, C=C):
            operations = count * tokens * products * (sides * C * D + 3 * D * D)
            carried = tokens * half * heads * D + memories * 2 * full * D * D
            return torch.tensor(operations / carried, dtype=torch.float64)

        found = call(mine, *sizes)
        demand(isinstance(found, (int, float)), f"a number is wanted, and not a {type(found).__name__}.")
        compare(torch.tensor(found, dtype=torch.float64), ratio(), {
            "a multiplication and an addition are two operations": ratio(count=1),
            "the memory is of float32, four bytes a number, and goes both in and out": ratio(full=2),
            "the memory's bytes are missing": ratio(memories=0),
            "q, k, v and o are of two bytes a number": ratio(half=4),
            "q and k have Hk heads, and not Hv": ratio(heads=4 * Hv),
            "v and o have Hv heads, and not Hk": ratio(heads=4 * Hk),
            "every value head has products of its own: there are Hv of them, and not Hk": ratio(products=Hk),
            "every value head has a memory of its own: there are Hv of them, and not Hk": ratio(memories=Hk),
            "products and memories belong to value heads: there are Hv of them, and not Hk":
                ratio(products=Hk, memories=Hk),
            "o has to be written, too": ratio(heads=2 * Hk + Hv),
            "the memory is read and written once for the whole text, and not for each token":
                ratio(memories=tokens * Hv),
            "P and M have their products, too: four of C times D": ratio(sides=2),
            "these are bytes for an operation: the other way round": 1 / ratio(),
        }, f"for {sizes} it is too {'large' if found > ratio() else 'small'}: go through both counts, factor by "
            f"factor.", "the ratio", 1e-6)


# --------------------------------------------------------------------------------------------------- exercise 3


class _Asked(TorchDispatchMode):
    """The operations that PyTorch is asked for, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.names.append(operation.__name__)
        return operation(*arguments, **(options or {}))


@hints(
    "A block of one token is its own inverse: begin with the identity, of L's dtype. Then every round joins "
    "neighbours, two and two, until there is a single block. Only B is new in each: cut it out of L.",
    "In M all blocks stand on the diagonal and nothing else. So M B M, with all the B's of a round in one matrix, is "
    "Z' Y X' for every pair at once, just where it belongs.",
    "Token i is in block i // size. B is L where the block of the row is one more than that of the column, and odd; "
    "elsewhere zero. Subtract M @ B @ M from M, and double the size.",
)
def my_block_inverse(mine):
    """the inverse by blocks: a chunk twice as long is one round more"""
    for lead, C in (((), 16), ((3,), 32), ((2, 2), 64), ((), 128), ((2,), 2)):
        random, eye = torch.Generator().manual_seed(C), torch.eye(C, dtype=torch.float64)
        L = torch.rand(*lead, C, C, generator=random, dtype=torch.float64).sub(0.5).mul(0.6).tril(-1)
        with _Asked() as counter:
            found = call(mine, L)
        demand(not any("linalg" in name or "inverse" in name for name in counter.names),
               "you call torch.linalg, or an inverse of torch's: inside of a kernel there is no such function.")

        half = torch.kron(torch.eye(2, dtype=L.dtype), torch.ones(C // 2, C // 2, dtype=L.dtype))
        apart = torch.linalg.inv(eye + half * L)
        compare(found, torch.linalg.inv(eye + L), {
            "the last two blocks are not joined: go on until one block is as large as L": apart,
            "a minus is missing, and this is (I - L)^-1: below stands -Z' Y X'": torch.linalg.inv(eye - L),
            "this is I + L: it has to be inverted": eye + L,
            "this is I - L, the first two terms of a series": eye - L,
            "each block is paired with both of its neighbours: B is there for odd blocks alone":
                _with_all_neighbours(L),
        }, "this is not (I + L)^-1: begin with two tokens, then four, and compare.", tolerance=1e-9)

        agreeing = 0.99 * torch.ones(C, C).tril(-1)
        right = torch.linalg.inv(eye + agreeing.double())
        demand((call(mine, agreeing).double() - right).abs().max() < SINGLE,
               "in float32 its digits are gone when keys agree: it adds up powers of L.")
    demand(_steps(mine, 128) < STEPS_ALLOWED * _steps(mine, 64),
           "a chunk twice as long takes twice as many steps: join all pairs of a round at once.")


def _steps(mine, C):
    """How many operations PyTorch is asked for."""
    with _Asked() as counter:
        mine(torch.zeros(C, C))
    return len(counter.names)


def _with_all_neighbours(L):
    """The inverse by blocks, but each is paired with the one before it and the one behind."""
    M, size, token = torch.eye(L.shape[-1], dtype=L.dtype), 1, torch.arange(L.shape[-1])
    while size < len(token):
        block = token // size
        M, size = M - M @ (L * (block[:, None] == block + 1)) @ M, 2 * size
    return M


# --------------------------------------------------------------------------------------------------- exercise 4


def _chunks(ends, C):
    return torch.tensor([[first, end] for start, end in zip(ends, ends[1:], strict=False)
                         for first in range(start, end, C)])


@hints(
    "Text n has the tokens from ends[n] up to, and without, ends[n + 1]. A new text begins a new chunk, wherever the "
    "one before has ended.",
    "A text of n tokens has as many chunks as fit, and one more for what is left over. Each is a row: its first token, "
    "and the end of its text, so that a program knows which of its C tokens exist.",
    "range(start, end, C) has the first tokens of a text's chunks. Two loops, one row [first, end] each, and "
    "torch.tensor around.",
)
def my_chunk_index(mine):
    """a chunk never crosses the border between two texts"""
    for ends, C in (([0, 3, 11, 12], 4), ([0, 64], 64), ([0, 1, 64, 129, 150], 64), ([0, 5, 10], 16)):
        right, text_ends = _chunks(ends, C), torch.tensor(ends)
        found = call(mine, text_ends, C)
        demand(isinstance(found, torch.Tensor) and found.ndim == 2 and found.shape[1] == 2,
               "a tensor of two columns is wanted: the first token, and where the text ends.")
        demand(not found.is_floating_point(), "tokens are counted in whole numbers.")
        one_text, lengths = _chunks([0, ends[-1]], C), text_ends.diff()
        demand(len(ends) == 2 or found.tolist() != one_text.tolist(),
               "chunks run on over the borders: each text begins a chunk of its own.")
        demand(len(found) == len(right), {
            (lengths // C).sum().item(): "what is left over at a text's end is a chunk, too.",
            (lengths // C + 1).sum().item(): "a text of just C tokens is one chunk, and not two.",
        }.get(len(found), f"{ends} in chunks of {C} are {len(right)} chunks, and not {len(found)}."))
        compare(found.long(), right, {
            "the second number is where the text ends, and not where the chunk ends":
                torch.stack((right[:, 0], torch.minimum(right[:, 0] + C, right[:, 1])), dim=1),
        }, f"for {ends} in chunks of {C} the rows are {right.tolist()}.")
