"""The processes of a run: how many, which of them this is, and how they find each other."""

from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

# Ranks wait for one that downloads a large model, or for a slow disk. A rank that dies is noticed otherwise.
PATIENCE = timedelta(hours=6)


def start_accelerator(**options) -> Accelerator:
    """accelerate's view of ranks and devices, the process group started where there are several ranks."""
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patient], **options)


def world_size() -> int:
    """The number of ranks that share the model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def this_rank() -> int:
    """This process's place among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0
