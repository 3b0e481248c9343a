"""The processes of a run: how many, which of them this is, and how they find each other."""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

# Ranks wait for one that downloads a large model, or for a slow disk. A rank that dies is noticed otherwise.
PATIENCE = timedelta(hours=6)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: a signal when the parent dies


def start_accelerator(**options) -> Accelerator:
    """accelerate's view of ranks and devices, the process group started where there are several ranks."""
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    ranks = int(os.environ.get("WORLD_SIZE") or 1)
    if ranks > 1 and os.environ.get("LOCAL_RANK") == "0" and not dist.is_initialized():
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        print(f"{ranks} ranks meet at {address}", file=sys.stderr, flush=True)
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        # A launcher that is killed takes its ranks along; they save first.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patient], **options)


def world_size() -> int:
    """The number of ranks that share the model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def this_rank() -> int:
    """This process's place among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """A decorator of main: of several ranks one that fails leaves at once, and the launcher ends the others.

    Python's own way out leads through vLLM, which takes the process group apart: over NCCL that waits for all
    ranks, and they may wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if world_size() == 1:
            raise
        code = error.code if isinstance(error, SystemExit) else None  # a number, or what to say
        if isinstance(code, str):
            print(code, file=sys.stderr)
        elif code is None and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
