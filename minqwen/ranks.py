"""The processes that share one run, and what they say to each other. A rank is one of them, by its number.

`torchrun` starts them, on one machine or on many; `together` starts some on this one, to try things on.
"""

import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist

from .errors import QwenError, short, whole_number

__all__ = ["first_to_fail", "join", "many", "peer_gone", "rank", "ranks", "summed", "together"]


def many() -> bool:
    """Whether the run is shared, be it by one process alone."""
    return dist.is_initialized()


def rank() -> int:
    """Which of the processes this is, from 0 on."""
    return dist.get_rank() if many() else 0


def ranks() -> int:
    """How many processes there are."""
    return dist.get_world_size() if many() else 1


def summed(number: float) -> float:
    """The sum of all ranks' numbers, the same on each of them."""
    if not many():
        return number
    total = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()


def join(device: str = "cpu") -> str:
    """Become a rank, if `torchrun` has started this process -> the device that is this rank's.

    Raises:
        QwenError: there are more processes on this machine than GPUs.
    """
    if many() or not dist.is_torchelastic_launched():
        return device
    signal.signal(signal.SIGTERM, _end)
    if torch.device(device).type == "cuda":
        place, GPUs = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= GPUs:
            raise QwenError(f"This machine has {GPUs} GPUs, and this is its process {place + 1}: start at most one for "
                            f"each (--nproc-per-node).")
        device = f"cuda:{place}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    return device


class Ended(RuntimeError):
    """`torchrun` ends all processes when one of them has failed."""


def _end(*_):
    raise Ended


def peer_gone(error: BaseException) -> bool:
    """Whether an error says no more than that another process has gone."""
    return isinstance(error, dist.DistError | Ended) or any(name in str(error) for name in ("gloo", "Gloo", "NCCL"))


def first_to_fail() -> bool:
    """Whether no other rank under `torchrun` has asked this before: one sentence is enough for all of them."""
    if not dist.is_torchelastic_launched():
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)       # there is something to say first
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=5)).add("minqwen failed", 1) == 1
    except RuntimeError:                                # whoever kept the count has gone, too
        return True


# ----------------------------------------------------------------------------------------------- processes of one's own


def together(function: Callable, size: int, *arguments) -> list:
    """What a function returns on each of so many processes of this machine, which talk by gloo and take a thread each.

    It must be a module's own, and arguments and results such as can be sent.

    Raises:
        QwenError: there would be none of them; one has failed, and then the others are ended.
    """
    size = whole_number("The number of processes", size, 1)
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([__name__, "minqwen.finetune"])      # imported once, for all of them
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        task = pickle.dumps((function, arguments))      # else tensors would be shared, and go with their process
        processes = [context.Process(target=_one_of, args=(number, size, folder, there, task))
                     for number, (_, there) in enumerate(pipes)]
        for process, (_, there) in zip(processes, pipes):
            process.start()
            there.close()
        results, waiting = [None] * size, {here: number for number, (here, _) in enumerate(pipes)}
        try:
            while waiting:
                for pipe in wait(list(waiting)):
                    number = waiting.pop(pipe)
                    try:
                        results[number], problem = pickle.loads(pipe.recv_bytes())
                    except EOFError:
                        problem = "it was ended from outside"
                    if problem is not None:
                        raise QwenError(f"Process {number} of {size} has failed: {problem}.")
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for process in processes:
                process.join()
    return results


def _one_of(number, size, folder, pipe, task):
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), size), rank=number,
                            world_size=size)
    try:
        function, arguments = pickle.loads(task)
        said = pickle.dumps((function(*arguments), None))
        dist.barrier()                                  # what is under way to another rank is lost with its sender
        dist.destroy_process_group()
    except BaseException as error:                      # PyTorch's distributed checkpoint raises such, too
        said = pickle.dumps((None, short(error if isinstance(error, QwenError) else repr(error)).rstrip(".")))
    pipe.send_bytes(said)
