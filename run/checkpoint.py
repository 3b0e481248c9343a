"""Checkpoints: what a run needs to go on as if nothing had happened; each is whole or is not there.

checkpoints/step_<n>/ holds weights and optimizer as the ranks share them (torch.distributed.checkpoint; any
number of ranks can read it), and state.json: step, position in the data, seed, settings, the code's version,
and the checksum of every file. Random numbers need no more than that: every draw follows from (seed, purpose,
step, rank), see `derived_seed`. Nothing that is read here can run code.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from enum import EnumType
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from learner import Policy
from run.ranks import this_rank, world_size

# Its advice for those who forgot to start a process group; one process needs none.
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
CODE = Path(__file__).parents[1]
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def code_version() -> str:
    """A checksum of the scripts at the door and in run/."""
    digest = hashlib.sha256()
    for script in sorted([*CODE.glob("*.py"), *CODE.glob("run/*.py")]):
        digest.update(script.read_bytes())
    return digest.hexdigest()[:16]


def checkpoint_state(c, steps: int, world_size: int, evaluated: dict[str, float]) -> dict[str, Any]:
    """What a checkpoint holds besides tensors; accuracy is the mean over the sets, None if not evaluated."""
    accuracies = [value for key, value in evaluated.items() if key.endswith("/accuracy")]
    return {
        "step": steps,
        "position": steps * c.prompts_per_step,  # in the sequence of questions, see questions_of_step
        "seed": c.seed,
        "world_size": world_size,
        "accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "config": asdict(c),
        "code": code_version(),
    }


class Saver:
    """Saves a run every so many steps, and after its last.

    Args:
        c: the settings of train.py.
        say: prints a line.
        saved_at: the step of the newest checkpoint, None if there is none yet.
    """

    def __init__(
        self, c, policy: Policy, optimizer: torch.optim.Optimizer, say: Callable, saved_at: int | None
    ):
        self.c, self.policy, self.optimizer, self.say = c, policy, optimizer, say
        self.saved_at, self.try_again = saved_at, False

    def after(self, step: int, evaluated: dict[str, float]) -> None:
        """Save if it is time, or if there was no room for it after the step before."""
        if step == self.c.num_steps or self.try_again or step % self.c.save_every == 0:
            self.try_again = not self.save(step, evaluated)

    def save(self, step: int, evaluated: dict[str, float]) -> bool:
        """Whether there is a checkpoint after this step; training goes on without."""
        if self.saved_at == step:
            return True
        try:
            state = checkpoint_state(self.c, step, world_size(), evaluated)
            save_checkpoint(
                Path(self.c.output_dir), state, self.policy, self.optimizer, self.c.keep_checkpoints
            )
        except OSError as error:
            again = "" if step == self.c.num_steps else ", trying again after the next"
            self.say(f"! no checkpoint after step {step}{again}: {error}")
            return False
        self.saved_at = step
        return True


def save_checkpoint(
    folder: Path, state: dict[str, Any], policy: Policy, optimizer: torch.optim.Optimizer, keep: int
) -> None:
    """Write checkpoints/step_<state["step"]>/, then drop all but the newest `keep` and the most accurate.

    `state` goes into state.json; "accuracy" in it, or None, ranks the checkpoint. Written aside, flushed to
    the disk, and renamed when whole. OSError, on all ranks, where that fails: the older ones are still there.
    """
    checkpoints = folder / "checkpoints"
    final, aside = checkpoints / f"step_{state['step']}", checkpoints / f"step_{state['step']}.partial"

    def make_room():
        if this_rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)

    def write():  # each file is flushed to the disk
        dcp.save(_tensors(policy, optimizer), checkpoint_id=aside, no_dist=not dist.is_initialized())

    def finish():
        if this_rank() == 0:
            with open(aside / "state.json", "w") as file:
                file.write(json.dumps(state | {"files": checksums}, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(aside, final)
            _flush_folder(checkpoints)
            with contextlib.suppress(OSError):  # the new one is in place, whatever becomes of the old
                _drop_old(checkpoints, keep)

    try:
        _together(make_room)
        _together(write)
        checksums = {}
        for of_rank in _together(_checksums_of_share, aside):
            checksums |= of_rank
        _together(finish)
    except OSError:
        if this_rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
        raise


def load_checkpoint(
    folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Load the newest undamaged checkpoint in place -> its state.json, or None where there is none yet.

    A damaged one is told to `say`, and renamed so that nothing takes it for a checkpoint again. ValueError if
    all are damaged. The learning rate and other settings of the optimizer stay as they are.
    """
    steps = _steps(folder / "checkpoints")
    for path in steps:
        damage = [text for of_rank in _together(_damage_of_share, path) for text in of_rank]
        if not damage:
            break
        told = "; ".join(dict.fromkeys(damage))  # what all ranks say, once
        say(f"! {path} is damaged ({told}): it is put aside, and the one before is used")
        _together(_put_aside, path)
    else:
        if steps:
            raise ValueError(f"none of the checkpoints in {folder / 'checkpoints'} can be read")
        return None
    loaded = _tensors(policy, optimizer)
    dcp.load(loaded, storage_reader=_Reader(path), no_dist=not dist.is_initialized())
    _, settings = get_state_dict(policy, optimizer, options=FLAT)
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=loaded["policy"],
        optim_state_dict=settings | loaded["optimizer"],
        options=FLAT,
    )
    return json.loads((path / "state.json").read_text())


def _tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Weights and the optimizer's moments. Its other settings are flags, and would have to be pickled."""
    weights, moments = get_state_dict(policy, optimizer, options=FLAT)
    tensors = {name: value for name, value in moments.items() if isinstance(value, torch.Tensor)}
    return {"policy": weights, "optimizer": tensors}


def _together(act: Callable[..., Any], *args: Any) -> list[Any]:
    """What `act` returns on each rank; OSError on all of them if it fails on any."""
    result, error = None, None
    try:
        result = act(*args)
    except (OSError, CheckpointException) as failure:
        error = f"{type(failure).__name__}: {failure}"
    outcomes = [(result, error)]
    if dist.is_initialized():
        outcomes *= dist.get_world_size()
        dist.all_gather_object(outcomes, (result, error))
    for _, error in outcomes:
        if error:
            raise OSError(error)
    return [result for result, _ in outcomes]


def _share(names: list[str]) -> list[str]:
    return sorted(names)[this_rank() :: world_size()]


def _checksum(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksums_of_share(folder: Path) -> dict[str, str]:
    """Ranks share the files out, since these can be a hundred GB."""
    return {name: _checksum(folder / name) for name in _share(os.listdir(folder))}


def _damage_of_share(folder: Path) -> list[str]:
    try:
        files = json.loads((folder / "state.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [f"state.json: {error}"]
    return [
        f"{name} {'has changed' if (folder / name).exists() else 'is missing'}"
        for name in _share(list(files))
        if not (folder / name).exists() or _checksum(folder / name) != files[name]
    ]


def _put_aside(path: Path) -> None:
    if this_rank() == 0:
        aside = path.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        os.replace(path, aside)


def _accuracy(path: Path) -> float | None:
    """The accuracy of a checkpoint; None if it was not evaluated, or does not say."""
    try:
        return json.loads((path / "state.json").read_text())["accuracy"]
    except (OSError, ValueError, KeyError):
        return None


def _steps(checkpoints: Path) -> list[Path]:
    """Whole checkpoints, the newest first."""
    found = [path for path in checkpoints.glob("step_*") if path.name.removeprefix("step_").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _drop_old(checkpoints: Path, keep: int) -> None:
    steps = _steps(checkpoints)
    accuracies = {path: _accuracy(path) for path in steps}
    evaluated = [path for path in steps if accuracies[path] is not None]
    best = max(evaluated, key=accuracies.get, default=None)
    for path in steps[keep:]:
        if path != best:
            shutil.rmtree(path)
    for path in checkpoints.glob("step_*.partial"):  # of a run that was killed while it saved
        shutil.rmtree(path)


class _Reader(dcp.FileSystemReader):
    """A reader whose pickled metadata can name the classes of a checkpoint of tensors, and nothing else."""

    def read_metadata(self, *_, **__):
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    ALLOWED = {
        "torch.distributed.checkpoint.metadata": """Metadata MetadataIndex TensorStorageMetadata StorageMeta
            TensorProperties ChunkStorageMetadata _MEM_FORMAT_ENCODING""".split(),
        "torch.distributed.checkpoint.filesystem": ["_StorageInfo"],
        "torch": ["Size", "float32", "float64", "bfloat16", "float16"],
        "torch.serialization": ["_get_layout"],
        "pathlib": ["PosixPath"],
    }

    def find_class(self, module: str, name: str):
        module = "pathlib" if module == "pathlib._local" else module  # as Python 3.13 calls it
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name not in self.ALLOWED.get(module, []):
            raise pickle.UnpicklingError(f"a checkpoint's metadata must not name {module}.{name}")
        return super().find_class(module, name)


def _member(of: type, name: str):
    """Stands for getattr: Python 3.11.0 to 3.11.3, Debian 12's too, pickle a member of an enum by it."""
    if not isinstance(of, EnumType):
        raise pickle.UnpicklingError(f"a checkpoint's metadata must not take {name} of {of}")
    return of[name]
