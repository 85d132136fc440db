"""Official checkpoints, in and out.

A checkpoint is a folder: `config.json`, and the weights as one `model.safetensors` or as shards with an index
that says which tensor lies where. The names in it are those of `Qwen.state_dict()`, so loading needs no table
of names; only experts may be stored one by one, and are put together on the way in. What it needs is care: that
every tensor is there and fits before the first is read, that memory holds the weights once, and that saving never
leaves half a checkpoint behind.
"""

import glob
import io
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from .config import Config
from .errors import QwenError, read_json, remark, short
from .layouts import Packed, gathered, layout_of, settings_in, written
from .model import Qwen
from .quantize import EMBEDDING, HEAD, plan, quantizes, rounded_parts
from .quantized import QuantizedTensor, for_cpu, quantized_bits

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EXPERT = re.compile(r"(?P<experts>.+\.mlp\.experts)\.(?P<number>\d+)\.(?P<which>gate|up|down)_proj\.weight")
SHARD = re.compile(r"model(\.safetensors)?-\d+-of-\d+\.safetensors")  # official files are named either way
COMPANIONS = (  # files that may lie beside config and weights and belong to the model
    "generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "processor_config.json",
)  # fmt: skip

ELSEWHERE = ("*model*.bin", "*.gguf", "consolidated*.pth")   # weights as other programs keep them
PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KEPT_FLOAT32 = ("linear_attn.A_log", "linear_attn.norm.weight")  # official: float32 among bfloat16
AT_A_TIME = 2 ** 20                                          # numbers that are read together, to be rounded

# ------------------------------------------------------------------------------------------------------ loading


def load_config(path_or_name, revision=None):
    """The `Config` of a checkpoint. By name, this fetches no weights. Arguments and errors as in `load_model`."""
    folder = resolve(path_or_name, revision, progress=False, files=(CONFIG,))
    if not (folder / CONFIG).exists():
        if (folder / "adapter_config.json").exists():
            raise QwenError(f"{folder} is an adapter, which changes another checkpoint: load that one, and put this "
                            f"into it by minqwen.lora.merge(qwen.model, {str(folder)!r}).")
        raise QwenError(f"{folder} is no checkpoint folder: {CONFIG} is missing.")
    official = read_json(folder / CONFIG)
    try:
        return Config.from_dict(official)
    except ValueError as error:
        raise QwenError(f"{folder / CONFIG}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise QwenError(f"{folder / CONFIG} is not laid out like an official one ({error}).") from None


def config_as_stored(path_or_name, revision=None):
    """The `Config` of a checkpoint, without what its weights, if they are in a folder here, lack or have otherwise: a
    head that `transformers` dropped when it saved them. Reads no more of them than it must."""
    config, folder = load_config(path_or_name, revision), Path(path_or_name).expanduser()
    if folder.is_dir() and _weights_in(folder):
        _fit(config, _find_tensors(folder), folder)
    return config


def quantized_by(path_or_name, revision=None):
    """The method by which a checkpoint says that its weights are quantized; None if it does not. Fetches no weights."""
    folder = resolve(path_or_name, revision, progress=False, files=(CONFIG,))
    settings = settings_in(read_json(folder / CONFIG))
    return short(settings.get("quant_method")) if isinstance(settings, dict) else None


def load_model(path_or_name, dtype=None, device="cpu", revision=None, progress=True, context=None, bits=None,
               group_size=None, embeddings=8):
    """A checkpoint as a model that is ready to run: in eval mode, without gradients (to train it, let it have them
    again: `model.requires_grad_(True)`).

    The model is built without memory and then takes the tensors of the memory-mapped files as they are: on a
    CPU, in the stored dtype, loading copies nothing, and pages are read from disk when they are first used.

    Args:
        path_or_name: a folder, a name on the Hugging Face Hub ("Qwen/Qwen3.5-0.8B"), or one on ModelScope
            ("modelscope:Qwen/Qwen3.5-0.8B").
        dtype: a torch dtype or its name; None, or "auto", keeps every tensor as it is stored; matrices of several
            dtypes become what the configuration says, with a warning. `A_log` and the norm of the delta rule stay
            float32 if they are stored so: the model is another one without.
        device: where the weights go.
        revision: branch, tag or commit of a checkpoint fetched by name.
        progress: show a progress bar, unless all is done within a second (or TQDM_DISABLE is set).
        context: tokens that it must be able to read; more than it can so far takes YaRN, see `Config.with_context`.
        bits, group_size, embeddings: quantize the weights as they come, as `quantize` does: of those in 16 bits there
            is never more in memory than a part of one. None leaves them as they are; a checkpoint that is quantized
            already, in one of `layouts.LAYOUTS`, stays so.

    Raises:
        QwenError: what is missing, damaged or misshapen, by name; or why the checkpoint cannot be fetched.

    Tensors that the model has no place for are left alone, with a warning that names them.
    """
    dtype, device = _dtype(dtype), usable_device(device)
    folder = resolve(path_or_name, revision, progress)
    config, stored = load_config(folder), _find_tensors(folder)
    stored = _fused(gathered(stored, layout_of(read_json(folder / CONFIG), folder), folder), folder)
    _refuse_codes(folder, stored)
    _fit(config, stored, folder)
    if context is not None:
        config = config.with_context(context)
    try:
        model = without_memory(config).requires_grad_(False)
    except RuntimeError as error:                            # sizes that are possible alone, and not together
        raise QwenError(f"{folder / CONFIG}: no model can be built of these sizes ({_first_line(error)}).") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _check_tensors(folder, expected, stored, tied=config.tie_word_embeddings)
    if bits is not None and any(stored[name].dtype is None for name in expected):
        raise QwenError(f"{folder} is quantized already: load it without bits={bits!r}, or load another in bfloat16.")
    rounding = plan(expected, bits, group_size, embeddings) if quantizes(bits, group_size, embeddings) else {}
    dtype = dtype or _one_dtype(config, {name: stored[name] for name in expected}, folder)

    tensors, reader = {}, Reader()
    bar = {"desc": "loading", "unit": " tensors", "leave": False, "delay": 1} if progress else {"disable": True}
    for name in tqdm(expected, **bar):
        where, as_stored = stored[name], dtype is None
        if name in rounding and where.dtype in PLAIN:
            tensors[name] = for_cpu(rounded_parts(reader.parts(where), expected[name], dtype or PLAIN[where.dtype],
                                                  *rounding[name])).to(device)
            continue
        tensor = reader.read(where)
        if isinstance(tensor, QuantizedTensor):              # of which the scales may be of another dtype than the rest
            tensors[name] = for_cpu(tensor.to(device, dtype or getattr(torch, config.text_config.dtype)))
            continue
        if not tensor.is_floating_point():
            raise QwenError(f"The tensor {name} in {where.path} is stored as {tensor.dtype}, which is no dtype of "
                            f"weights.")
        as_stored |= name.endswith(KEPT_FLOAT32) and tensor.dtype == torch.float32
        tensors[name] = tensor.to(device, tensor.dtype if as_stored else dtype)
        if rounding and tensors[name] is tensor:             # a small one, for which its whole file would stay mapped
            tensors[name] = tensor.clone()
        if tensors[name] is not tensor or isinstance(where, Split):
            reader.let_go(where)
    # glibc hands freed memory back at once until a block of this size was freed, and prefill would fetch it anew layer
    # by layer, which took it a sixth of its time
    torch.empty(31 << 20, dtype=torch.uint8)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


class Reader:
    """Reads tensors out of a checkpoint's files, which are mapped into memory when they are first asked for."""

    def __init__(self):
        self.opened = {}

    def read(self, where):
        """A tensor as it is stored; experts that are stored one by one are put together here, in place."""
        if isinstance(where, Packed):
            parts = {part: self.read(lies) for part, lies in where.parts.items()}
            try:
                weight = where.layout.read(parts, where.name)
            except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
                if isinstance(error, QwenError):
                    raise
                raise QwenError(f"The parts of {where.name} in {where.path} do not fit each other "
                                f"({_first_line(error)}): fetch it again.") from None
            self.let_go(where)
            scales = tuple(-(-n // of) for n, of in zip(weight.shape, weight.block))
            for part, x in ("scales", weight.scale), ("zero points", weight.zero):
                if x is not None and x.shape != scales:
                    raise QwenError(f"The {part} of {where.name} in {where.path} have the shape {tuple(x.shape)}, but "
                                    f"its codes ask for {scales}.")
            if weight.scale.dtype not in PLAIN.values():
                raise QwenError(f"The scales of {where.name} in {where.path} are stored as {weight.scale.dtype}, which "
                                f"is no dtype of scales.")
            return weight
        if isinstance(where, Split) and where.dtype is None:
            return QuantizedTensor.stacked([self.read(part) for part in where.parts], where.shape)
        if isinstance(where, Split):
            fused = torch.empty(len(where.parts), *where.parts[0].shape, dtype=PLAIN[where.dtype])
            for matrix, part in zip(fused, where.parts, strict=True):
                matrix.copy_(self.read(part))
            return fused.view(where.shape)
        return self.file(where).get_tensor(where.name)

    def parts(self, where):
        """The rows of a tensor some after the other, (n, K), all mapped anew: never all of them are in memory."""
        if isinstance(where, Split):
            for part in where.parts:
                yield self.read(part)
                self.let_go(part)
            return
        *lead, K = where.shape
        rows = max(AT_A_TIME // (K * (lead[1] if len(lead) > 1 else 1)), 1)
        for start in range(0, lead[0], rows):
            yield self.file(where).get_slice(where.name)[start : start + rows].flatten(0, -2)
            self.let_go(where)

    def file(self, where):
        if where.path not in self.opened:
            self.opened[where.path] = safe_open(where.path, framework="pt")
        return self.opened[where.path]

    def let_go(self, where):
        """What was read of its file was copied: map it anew, so that the pages read so far are let go."""
        self.opened.pop(where.path, None)


def without_memory(config):
    """The model of a configuration with all of its shapes and none of its numbers: on the meta device, in no time."""
    with torch.device("meta"), Unfilled():
        return Qwen(config)


class Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor, such as `normal_`: there is nothing to fill, and the meta device would import a
    compiler for it, which takes a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.__name__, kwargs or {}
        fills = name.endswith("_") and not name.endswith("__")
        return (*args, *kwargs.values())[0] if fills else function(*args, **kwargs)


class Stored(NamedTuple):
    """Where a tensor lies."""

    path: Path
    name: str
    shape: tuple
    dtype: str                                               # in the format's own words, such as "BF16"

    def read(self):
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.name)


class Split(NamedTuple):
    """A tensor of all experts that is stored as a matrix for each: `mtp.*` of the official checkpoints is."""

    path: Path                                               # of the first of them
    shape: tuple                                             # of all together
    dtype: str
    parts: list[Stored]                                      # gate 0, up 0, gate 1, up 1 ...; or down 0, down 1 ...


def _fused(stored, folder):
    """The same with the matrices of single experts, `experts.3.gate_proj.weight`, as the tensors that the model has:
    `experts.gate_up_proj` (E, 2 n, d), gate first, and `experts.down_proj` (E, d, n). Nothing is read yet."""
    stored, matrices = dict(stored), {}
    for name in list(stored):
        if found := EXPERT.fullmatch(name):
            matrices.setdefault(found["experts"], {})[int(found["number"]), found["which"]] = stored.pop(name)
    for experts, parts in matrices.items():
        E = 1 + max(number for number, _ in parts)
        for fused, which in ("gate_up_proj", ("gate", "up")), ("down_proj", ("down",)):
            names = [(number, one) for number in range(E) for one in which]
            here = [parts[name] for name in names if name in parts]
            if f"{experts}.{fused}" in stored or not here:   # the fused one counts, and what is missing is told later
                continue
            odd = [name for name in names if name not in parts or parts[name][2:4] != here[0][2:4]]
            if odd:
                number, one = odd[0]
                raise QwenError(f"{folder} lacks the tensor {experts}.{number}.{one}_proj.weight, or it is not of the "
                                f"shape and dtype of the others ({here[0].shape}, {here[0].dtype}); fetch it again.")
            n, d = here[0].shape
            stored[f"{experts}.{fused}"] = Split(here[0].path, (E, len(which) * n, d), here[0].dtype, here)
    return stored


def _find_tensors(folder):
    """{official name: Stored} for every tensor in the folder's weights. Reads the files' headers only.

    Of a tensor that is there twice the copy counts that the index speaks of, and then the one with the official name.
    """
    files = _weight_files(folder)
    index = {} if files == [WEIGHTS] else read_json(folder / INDEX)["weight_map"]
    found = []
    for file_name in files:
        path = folder / file_name
        if not path.is_file():
            raise QwenError(f"{folder} lacks {path.name}, one of its {len(files)} files of weights; fetch it again.")
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    lies, official = file.get_slice(name), _official_name(name)
                    where = Stored(path, name, tuple(lies.get_shape()), lies.get_dtype())
                    if index.get(name, file_name) == file_name:
                        found.append((name in index, name == official, official, where))
        except SafetensorError as error:
            with open(path, "rb") as file:
                if file.read(20) == b"version https://git-":
                    raise QwenError(f"{path} only says where its weights are kept (Git LFS): run `git lfs pull` in "
                                    f"{folder}.") from None
            raise QwenError(
                f"{path} is cut short or damaged ({path.stat().st_size:,} bytes; {short(error)}); fetch it again."
            ) from None
    return {official: where for *_, official, where in sorted(found, key=lambda one: one[:2])}  # the last one counts


def _weight_files(folder):
    """The names of the files that hold a checkpoint's weights: the one, or those that the index names."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    if not (folder / INDEX).exists():
        others = sorted(path.name for pattern in ELSEWHERE for path in folder.glob(pattern))
        instead = f", but {others[0]}, which is of another format: have it written as safetensors" if others else ""
        raise QwenError(f"{folder} is no checkpoint folder: it has neither {WEIGHTS} nor {INDEX}{instead}.")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise QwenError(f"{folder / INDEX} has no weight_map; fetch or write it again.")
    for name, file in weight_map.items():
        # not even looked for elsewhere: an index is a stranger's, and the rest of the disk is none of its business
        path = PureWindowsPath(file) if isinstance(file, str) else None  # which knows both kinds of slashes
        if path is None or path.anchor or ".." in path.parts or path.suffix != ".safetensors":
            raise QwenError(f"{folder / INDEX} says that {short(name)} lies in {short(repr(file))}, which is no name "
                            "of a safetensors file in this folder; fetch or write it again.")
    return sorted(set(weight_map.values()))


def _refuse_codes(folder, stored):
    """Raises for weights that are numbers only together with scales, where nothing says which those are."""
    codes = [name for name, where in stored.items() if where.dtype not in (None, *PLAIN)
             and re.search("weight|bias|A_log|_proj$", name.rpartition(".")[2])]
    if codes:
        raise QwenError(f"{folder} is quantized: it stores {_some(codes)} as {stored[codes[0]].dtype}, and {CONFIG} "
                        f"does not say how that is meant (quantization_config); take the checkpoint in bfloat16.")


def _fit(config, stored, folder):
    """Let a configuration say what is stored, where `transformers` leaves it to the tensors."""
    text = config.text_config
    if not any(name.startswith("mtp.") for name in stored):  # `transformers` drops this head, and leaves its number
        text.mtp_num_hidden_layers = 0
    if text.tie_word_embeddings and HEAD in stored:
        head, embedding = stored[HEAD], stored.setdefault(EMBEDDING, stored[HEAD])
        if None in (head.dtype, embedding.dtype):            # codes: the file's word is taken
            pass
        elif head.shape != embedding.shape or not torch.equal(head.read(), embedding.read().to(PLAIN[head.dtype])):
            text.tie_word_embeddings = False
            remark(f"{CONFIG} of {folder} says that the embedding is the head, but a head of its own is stored beside "
                   f"it: that one is used (tie_word_embeddings is false).")


def _one_dtype(config, stored, folder):
    """The dtype for all if matrices that must multiply each other are stored in several; else None.

    `transformers` reads everything as the configuration says. Norms may be more exact than the rest, and the tower may
    be another dtype than the language model: then every tensor stays as it is.
    """
    parts = {}
    for name, where in stored.items():
        tower = name.startswith("model.visual.")
        if where.dtype is not None and (tower or len(where.shape) > 1 or name.endswith("_proj.bias")):
            parts.setdefault(tower, {}).setdefault(where.dtype, []).append(name)
    for found in parts.values():
        if len(found) > 1:
            rare = min(found.values(), key=len)
            remark(f"The weights in {folder} are stored in several dtypes ({_some(rare)} as {stored[rare[0]].dtype}): "
                   f"all are read as {config.text_config.dtype}, as {CONFIG} says; dtype=... chooses another.")
            return getattr(torch, config.text_config.dtype)
    return None


def _official_name(name):
    """A language model saved alone calls its parts `model.layers...`; in the whole they stand one deeper."""
    if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
        return name.replace("model.", "model.language_model.", 1)
    return name


def _check_tensors(folder, expected, stored, tied):
    """Raises unless the stored tensors are the expected ones ({name: shape})."""
    copies = {HEAD} if tied else set()  # a tied head may be stored beside the embedding
    unknown = [name for name in stored if name not in expected and name not in copies]
    missing = [name for name in expected if name not in stored]
    if missing:
        instead = f", and holds {_some(unknown)}, which the model of its {CONFIG} has no place for" if unknown else ""
        raise QwenError(f"{folder} lacks {_some(missing)}{instead}; fetch it again, or see whether {CONFIG} fits.")
    if unknown:
        remark(f"{folder} holds {_some(unknown)}, which the model of its {CONFIG} has no place for: not read.")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise QwenError(
                f"The tensor {name} in {stored[name].path} has the shape {stored[name].shape}, "
                f"but {CONFIG} asks for {shape}."
            )


def _some(names):
    """'the tensor a', or 'the tensor a and 3 others'."""
    others = len(names) - 1
    return f"the tensor {short(names[0])}" + (f" and {others} other{'s' if others > 1 else ''}" if others else "")


def _dtype(dtype):
    """A torch dtype from itself or from its name; None stays None."""
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if isinstance(found, torch.dtype) and found in PLAIN.values():
        return found
    raise QwenError(f"There is no dtype {str(dtype)!r} for weights; try 'float32' or 'bfloat16'.")


def usable_device(device):
    """A torch device that can be used."""
    why = "name one, such as 'cpu', or 'cuda' for a GPU"
    try:
        device = torch.device(device)
        why = "this torch does not compute there"
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # the second from a torch without CUDA
        if isinstance(device, torch.device) and not isinstance(error, NotImplementedError):
            why = _first_line(error).rstrip(".")
        raise QwenError(f"The device {str(device)!r} cannot be used: {why}.") from None


# ----------------------------------------------------------------------------------------------------- fetching

TO_FETCH = (CONFIG, WEIGHTS, INDEX, *COMPANIONS)  # and the shards that the index names


def resolve(path_or_name, revision=None, progress=True, files=TO_FETCH):
    """The local folder of a checkpoint: itself, or the place to which it was fetched by name.

    Args:
        path_or_name, revision, progress: as in `load_model`.
        files: which files of a repository to fetch, if it has them.

    Raises:
        QwenError: there is no such folder and no such name, or it cannot be fetched.
    """
    folder = Path(path_or_name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise QwenError(f"{folder} is a folder here, which has no revisions: leave out {revision!r}.")
        return folder
    if folder.exists():
        raise QwenError(f"{folder} is a file; a checkpoint is the folder with {CONFIG} and {WEIGHTS} in it.")
    name = str(path_or_name).removeprefix("modelscope:")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise QwenError(f"There is no folder {name}; and a name to fetch looks like Qwen/Qwen3.5-0.8B.")
    fetch = _from_hugging_face if name == str(path_or_name) else _from_modelscope
    folder = fetch(name, revision, files, progress)
    if INDEX in files and (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        folder = fetch(name, revision, (*files, *_weight_files(folder)), progress)
    return folder


def _from_hugging_face(name, revision, files, progress):
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import tqdm as bar

    class Bar(bar):
        def __init__(self, *args, **kwargs):
            unwanted = not progress or os.environ.get("TQDM_DISABLE")
            hidden = kwargs.get("disable") or bool(unwanted) or None  # None: unless somebody looks
            super().__init__(*args, **kwargs | {"disable": hidden})

    patterns = [glob.escape(file) for file in files]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, tqdm_class=Bar))
    except errors.GatedRepoError:
        problem = "asks you to accept its terms on its page and to run `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = "does not exist (or is private: run `hf auth login`)"
    except errors.RevisionNotFoundError:
        problem = f"has no revision {revision!r}"
    except errors.LocalEntryNotFoundError:
        problem = (
            "cannot be reached (no network, the Hub is down, or HF_HUB_OFFLINE is set), "
            "nor was all of it fetched before"
        )
    except Exception as error:  # the disk, the proxy, the server ...
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            problem = "cannot be asked for with your token, which the Hub does not know: run `hf auth login`"
        else:
            problem = f"could not be fetched ({_first_line(error)}); try again: files that have come are kept"
    raise QwenError(f"There is no folder {name}, and the Hugging Face Hub's repository of that name {problem}.")


def _from_modelscope(name, revision, files, progress):
    try:
        from modelscope import snapshot_download
        from requests import ConnectionError as NoConnection
        from requests import Timeout
    except ImportError:
        raise QwenError("Names that begin with modelscope: need `pip install modelscope`.") from None

    patterns = [glob.escape(file) for file in files]
    shown = progress and sys.stderr.isatty()  # its bars cannot be turned off, but what they write can be caught
    with nullcontext() if shown else redirect_stderr(io.StringIO()):
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        except (ConnectionError, NoConnection, Timeout):
            problem = "cannot be reached (no network, or it is down), nor was all of it fetched before"
            try:
                folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
                if _is_whole(folder, files):
                    return folder
            except Exception:  # nothing was fetched before
                pass
        except Exception as error:
            problem = f"could not be fetched ({_first_line(error)}); try again: files that have come are kept"
    raise QwenError(f"There is no folder {name}, and ModelScope's repository of that name {problem}.")


def _is_whole(folder, files):
    """Whether a folder holds all of these files that every checkpoint has: config, weights or index, shards."""
    needed = [file for file in files if file not in (WEIGHTS, INDEX, *COMPANIONS)]
    weights = WEIGHTS not in files or (folder / WEIGHTS).exists() or (folder / INDEX).exists()
    return weights and all((folder / file).exists() for file in needed)


def _first_line(error):
    return short((str(error).strip() or type(error).__name__).splitlines()[0])


# ------------------------------------------------------------------------------------------------------- saving


def save_model(model, folder, max_shard_size=5 * 10**9, overwrite=False, tokenizer_from=None, layout=None):
    """Writes `config.json` and the weights, so that `load_model` and `transformers` read them.

    All is written aside first and put in place at the end; a save that is interrupted or fails leaves what was
    there. Other files in the folder stay.

    Args:
        model: a `Qwen`.
        folder: where to; made if need be.
        max_shard_size: bytes of weights in one file at most (a single tensor may be larger).
        overwrite: replace the checkpoint that is in the folder.
        tokenizer_from: a checkpoint, by folder or name, whose tokenizer, chat template and settings of
            generation and of the processor are put beside the weights.
        layout: how others are to read a quantized model: "compressed-tensors", "gptq", "awq" or "fp8". They know of no
            codes for an embedding, which is written as the numbers it stands for. None: everything as it is, to be
            loaded here.

    Raises:
        QwenError: there is a checkpoint and it may not be overwritten, or cannot be (Windows does not let a file go
            that a loaded model lies in); there is no tokenizer to take along; a layout that cannot hold this model.
    """
    if not isinstance(model, Qwen):
        raise QwenError(f"save_model takes the model itself, such as qwen.model, and not the {type(model).__name__}.")
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise QwenError(f"{folder} is a file; name a folder to save to.")
    if folder.exists() and ((folder / CONFIG).exists() or _weights_in(folder)) and not overwrite:
        raise QwenError(f"{folder} holds a checkpoint already; pass overwrite=True to replace it.")
    if layout is not None and not quantized_bits(model):
        raise QwenError(f"layout={layout!r} is for quantized models, and this one is not: call minqwen.quantize first.")
    state, quantization = _as_published(model.state_dict()), {}
    if quantized_bits(model):
        state, settings = written(state, model, layout)
        quantization = {"quantization_config": settings}
    companions = []
    if tokenizer_from is not None:
        source = resolve(tokenizer_from, files=COMPANIONS)
        companions = [source / name for name in COMPANIONS if (source / name).exists()]
        if "tokenizer.json" not in {path.name for path in companions}:
            raise QwenError(f"{source} has no tokenizer.json to take along.")

    # Inside the folder, because only within one file system is renaming a file a single step.
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".saving*"):                     # by a save that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        config = replace(model.config.text_config, dtype=str(model.head_weight.dtype).removeprefix("torch."))
        official = replace(model.config, text_config=config).to_dict() | quantization
        (aside / CONFIG).write_text(json.dumps(official, indent=2) + "\n", encoding="utf-8")
        _write_weights(state, aside, max_shard_size)
        for weights in aside.glob("*.safetensors"):          # safetensors lets nobody else read what it writes
            shutil.copymode(aside / CONFIG, weights)
        for path in companions:
            shutil.copyfile(path, aside / path.name)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _put_in_place(aside, folder)


def _as_published(state):
    """The same with the experts of `mtp.*`, and quantized ones, one by one, as the official checkpoints hold them;
    nothing is copied."""
    published = {}
    for name, tensor in state.items():
        experts, _, fused = name.rpartition(".")
        alone = name.startswith("mtp.") or isinstance(tensor, QuantizedTensor)
        if not (alone and experts.endswith(".mlp.experts")):
            published[name] = tensor
            continue
        which = fused.removesuffix("_proj").split("_")       # gate and up, or down
        for number in range(len(tensor)):
            matrices = tensor[number]
            for one, matrix in zip(which, matrices.chunk(len(which)), strict=True):
                published[f"{experts}.{number}.{one}_proj.weight"] = matrix
    return published


def _write_weights(state, folder, max_shard_size):
    """The tensors in as few files as the size allows; with an index if they are several."""
    shards, size = [{}], 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > max_shard_size:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WEIGHTS]
    for file, shard in zip(files, shards, strict=True):
        shard = {name: tensor.contiguous() for name, tensor in shard.items()}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in state.values())},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _put_in_place(aside, folder):
    """Moves the files of a checkpoint from `aside` to `folder`, and removes those of the one that was there before.

    One file of weights is put in place at one stroke, several are not: then config.json goes first and comes last,
    and whoever looks in between finds no checkpoint rather than a mixture of two. A step that fails undoes those
    before it.
    """
    new, before = {path.name for path in aside.iterdir()}, aside / "before"
    there = {name for name in new | _weights_in(folder) if (folder / name).exists()}
    same_config = CONFIG in there and (folder / CONFIG).read_bytes() == (aside / CONFIG).read_bytes()
    one_stroke = same_config and _weights_in(aside) == _weights_in(folder) == {WEIGHTS}
    stay = {CONFIG, WEIGHTS} if one_stroke else set()
    come = sorted(new - stay) + [WEIGHTS] if one_stroke else [*sorted(new - {CONFIG}), CONFIG]
    go = sorted(there - stay, key=lambda name: name != CONFIG)
    before.mkdir()
    done = []
    try:
        for step in [(folder / name, before / name) for name in go] + [(aside / name, folder / name) for name in come]:
            os.replace(*step)
            done.append(step)
    except BaseException as error:
        for start, end in reversed(done):
            os.replace(end, start)
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise QwenError(f"{folder} was left as it was, because a file in it cannot be replaced ({error}): save to "
                            f"another folder, or let go first of the model that was loaded from it.") from None
        raise
    shutil.rmtree(aside, ignore_errors=True)             # what Windows does not let go of stays until the next save


def _weights_in(folder):
    """The names of the files that hold a checkpoint's weights or say where they are."""
    return {path.name for path in folder.iterdir() if path.name in (WEIGHTS, INDEX) or SHARD.fullmatch(path.name)}
