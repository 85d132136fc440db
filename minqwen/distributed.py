"""One run of training on many processes: PyTorch's FSDP2, which cuts up every weight among them.

    torchrun --nproc-per-node 2 -m minqwen.finetune Qwen/Qwen3.5-0.8B --data chats.jsonl
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m minqwen.finetune ...

Each rank keeps a piece of each matrix, of its float32 copy and of its moments, and reads its own share of a step's
sequences. Before a layer computes, its matrices are put together (all-gather), and behind it they are let go again; so
once more in the backward pass, at whose end gradients are added up and cut (reduce-scatter). `A_log` and the norm of
the delta rule, a few hundred float32 numbers of a layer, are whole everywhere.

What a run goes on from is kept by PyTorch's distributed checkpoint: each rank writes its pieces, and any other number
of ranks can read them. All machines must see the same folder.

Source: "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (Zhao et al. 2023, arXiv 2304.11277), after
"ZeRO" (Rajbhandari et al. 2019, arXiv 1910.02054), stage 3.
"""

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from .checkpoint import KEPT_FLOAT32, without_memory
from .errors import QwenError, read_json, remark, short
from .files import write_whole
from .masters import MasterAdamW
from .model import Qwen
from .ranks import peer_gone, rank, ranks

__all__ = ["PART", "SHARDS", "CheckpointException", "about", "keep", "restore", "shard", "snapshots", "whole"]

NAME, PART, SHARDS = "snapshot-", ".snapshot-part", ".shards"
ABOUT, METADATA = "run.json", ".metadata"                # the second is PyTorch's, which writes it last


def shard(model: Qwen) -> None:
    """Cut up the weights. Each layer is a unit that is put together by itself, and so are the tower and `mtp`; the last
    unit is what remains, embedding, norm and head. Gradients are added up in float32."""
    mesh = init_device_mesh(model.head_weight.device.type, (ranks(),))
    apart = {p for name, p in model.named_parameters() if name.endswith(KEPT_FLOAT32)}
    units = [*model.model.language_model.layers, getattr(model.model, "visual", None), getattr(model, "mtp", None)]
    for unit in (*(unit for unit in units if unit is not None), model):
        fully_shard(unit, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32), ignored_params=apart)
    register_fsdp_forward_method(model, "hidden_states")


def whole(model: Qwen, out: Path) -> Qwen | None:
    """The model in one piece on the first rank; None on the others. It is never in memory as a whole: each rank writes
    its pieces, PyTorch puts them together in the official layout, and what comes is mapped from there. It lies in
    `out / SHARDS` until the caller removes that."""
    folder = out / SHARDS
    if rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    dcp.save(model.state_dict(), storage_writer=dcp.HuggingFaceStorageWriter(
        str(folder), save_distributed=True, enable_consolidation=True))
    if rank() > 0:
        return None
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    plain = without_memory(model.config).requires_grad_(False)
    plain.load_state_dict(tensors, assign=True)
    return plain


# ------------------------------------------------------------------------------------------------------------ snapshots


def snapshots(out: Path) -> list[Path]:
    """This run's snapshots, the newest first: a folder each. One that is being written has another name."""
    return sorted(out.glob(f"{NAME}[0-9]*[0-9]"), reverse=True)


def keep(out: Path, step: int, optimizer: MasterAdamW, about: dict) -> None:
    """Write a snapshot, each rank its pieces. It gets its name at one stroke, when all of it is there; if it cannot be
    written, as on a full disk, the one before stays. about: what else belongs to it, for JSON."""
    aside = out / PART
    if rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    dist.barrier()
    try:
        dcp.save(optimizer.tensors(), storage_writer=dcp.FileSystemWriter(aside))
        if rank() == 0:
            before = snapshots(out)
            write_whole(aside / ABOUT, json.dumps(about).encode())
            os.replace(aside, out / f"{NAME}{step:08d}")
            for folder in before:
                shutil.rmtree(folder)
    except (CheckpointException, OSError) as error:      # the first comes to all ranks, whichever it was
        if peer_gone(error):
            raise
        if rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            remark(f"The snapshot of step {step} cannot be written ({_cause(error)}): the run goes on, and the "
                   f"snapshot before it stays.")
    dist.barrier()


def about(folder: Path) -> dict:
    """What else belongs to a snapshot. Raises QwenError if it is not whole."""
    if not (folder / METADATA).exists():
        raise QwenError(f"{folder} is no whole snapshot ({METADATA} is missing): {ELSE}")
    return read_json(folder / ABOUT)


def restore(folder: Path, optimizer: MasterAdamW) -> None:
    """Go on from a snapshot, whatever number of ranks wrote it. Raises QwenError if it is not whole."""
    try:
        dcp.load(optimizer.tensors(), storage_reader=dcp.FileSystemReader(folder))
    except CheckpointException as error:
        if peer_gone(error):
            raise
        raise QwenError(f"{folder} is no whole snapshot ({_cause(error)}): {ELSE}") from None
    optimizer.round()


ELSE = "remove it, or add --restart."


def _cause(error: CheckpointException | OSError) -> str:
    """What befell the first rank that failed, in a few words."""
    cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
    if isinstance(cause, FileNotFoundError):
        return f"{Path(cause.filename).name} is missing"
    return short(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)
