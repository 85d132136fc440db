"""For tests of several processes: what each of them does. They import this module, so it is small."""

import os
import signal
import warnings
from unittest.mock import patch

import torch
import torch.distributed as dist

from minqwen import distributed
from minqwen.context_parallel import attention_across
from minqwen.errors import QwenError
from minqwen.finetune import Trainer, finetune
from minqwen.ranks import rank, ranks


def tune(source, data, out, settings, fault=None, at=None, merge=False, keep_every=50, restart=False):
    """A whole run -> its log, or the sentence that it ends with, and what was remarked.

    fault: what happens to the second process: "killed" in the middle of step `at`, "killed while writing" the snapshot
    behind that step, or a "full disk" there. With "full at last" it is the first process, which writes what is left
    when all pieces are there.
    """
    real_step, real_write = Trainer.step, distributed.dcp.FileSystemWriter.write_data
    real_rest = distributed.write_whole
    now = None

    def step(self, number, rows):
        nonlocal now
        now = number
        if (rank(), number, fault) == (1, at, "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real_step(self, number, rows)

    def write(self, plan, planner):
        if (rank(), now, fault) == (1, at, "full disk"):
            raise OSError(28, "No space left on device")
        done = real_write(self, plan, planner)
        if (rank(), now, fault) == (1, at, "killed while writing"):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def rest(path, content):
        if (now, fault) == (at, "full at last"):
            raise OSError(28, "No space left on device")
        real_rest(path, content)

    with (patch.object(Trainer, "step", step), patch.object(distributed.dcp.FileSystemWriter, "write_data", write),
          patch.object(distributed, "write_whole", rest), warnings.catch_warnings(record=True) as heard):
        try:
            said = finetune(source, data, out, settings, merge=merge, keep_every=keep_every, restart=restart)
        except QwenError as error:
            said = str(error)
    return said, [str(warning.message) for warning in heard if warning.filename == "minqwen"]


def tune_each(*runs):
    """Several runs, one after the other, by the same processes."""
    return [tune(*run) for run in runs]


def attend(q, k, v):
    return attention_across(*(x.chunk(ranks(), dim=2)[rank()] for x in (q, k, v)))


def returns_what_cannot_be_sent():
    return lambda: None


def fails_on_the_second():
    """The first waits for the second, in vain."""
    if rank() == 1:
        raise QwenError("this cannot be.")
    dist.recv(torch.empty(1), 1)
