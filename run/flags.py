"""What the command lines of the scripts share: how flags are read, and how a start fails.

A start that cannot work ends in one sentence on stderr, said once a machine, and exit code 2.
"""

import contextlib
import difflib
import math
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TextIO

import huggingface_hub
from transformers import HfArgumentParser

from run.signals import BAD_INPUT
from run.tables import HUB_ID

PATHS = "model data eval_data data_dir output_dir regrade tokenizer".split()  # a leading ~ is your home

# Our flag, and what other trainers and evaluations call it.
OTHER_NAMES = {
    "model": "model_name_or_path model_name model_path pretrain pretrained base_model model_id checkpoint",
    "data": "dataset dataset_name dataset_path prompt_data train_data train_file train_files tasks task",
    "eval_data": "eval_dataset test_data val_files benchmarks eval_tasks",
    "template": "prompt_template chat_template system_prompt",
    "output_dir": "output out save_path save_dir ckpt_path run_dir",
    "algo": "loss_type advantage_estimator critic_type scale_rewards algorithm",
    "lr": "learning_rate actor_lr actor_learning_rate",
    "epochs": "num_train_epochs num_epochs",
    "num_steps": "max_steps total_steps total_training_steps num_train_epochs epochs num_epochs",
    "prompts_per_step": "rollout_batch_size train_batch_size batch_size generation_batch_size",
    "group_size": "num_generations n_samples_per_prompt num_samples num_return_sequences rollout_n n",
    "n": "num_generations n_samples num_samples num_return_sequences repeats k",
    "temperature": "temp",
    "max_prompt_tokens": "max_prompt_length prompt_max_length prompt_max_len",
    "max_response_tokens": """max_completion_length max_new_tokens max_tokens max_gen_toks max_length
        max_response_length generate_max_length generate_max_len""",
    "minibatch_size": "ppo_mini_batch_size mini_batch_size",
    "micro_batch_tokens": """per_device_train_batch_size gradient_accumulation_steps micro_train_batch_size
        train_batch_size_per_device ppo_micro_batch_size_per_gpu ppo_max_token_len_per_gpu""",
    "batch_rows": "batch_size train_batch_size per_device_train_batch_size",
    "row_tokens": "max_length max_seq_length block_size",
    "clip_eps": "epsilon cliprange clip_ratio eps_clip eps clip_ratio_low epsilon_low",
    "clip_eps_high": "epsilon_high clip_ratio_high",
    "beta": "kl_coef kl_coeff init_kl_coef kl_loss_coef kl_penalty_coef",
    "importance_cap": "vllm_importance_sampling_cap tis_imp_ratio_cap",
    "max_grad_norm": "max_norm grad_clip gradient_clip clip_grad",
    "engine_memory": "vllm_gpu_memory_utilization gpu_memory_utilization vllm_gpu_ratio",
    "memory": "gpu_memory_utilization vllm_gpu_ratio",
    "tensor_parallel": "vllm_tensor_parallel_size tp tp_size",
    "eval_every": "eval_steps test_freq eval_interval eval_freq",
    "save_every": "save_steps save_freq save_interval",
    "keep_checkpoints": "save_total_limit max_ckpt_num",
    "eval_limit": "max_eval max_eval_samples",
    "limit": "max_samples num_examples max_eval_samples num_questions",
    "resume": "resume_from_checkpoint resume_from",
    "report_to": "log_with use_wandb use_wb wandb logger tracker",
    "base_url": "api_base server url endpoint",
    "stop": "stop_sequences stop_strings until stop_words",
}


def flag(default: Any = None, help: str = "", choices: Iterable[str] = ()) -> Any:
    """A field of a dataclass of settings, with its help text."""
    metadata = {"help": help} | ({"choices": list(choices)} if choices else {})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Flags(HfArgumentParser):
    """The flags that are a dataclass's fields. What cannot be read is a ValueError of one sentence."""

    def __init__(self, settings: type, usage: str):
        super().__init__(settings, usage=usage, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own takes -1e-5 for a flag

    def error(self, message: str):
        raise ValueError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message))

    def read(self, args: Sequence[str], refused: Mapping[str, str] = {}) -> Any:
        """The settings. `refused` holds flags that there are elsewhere and not here, and says why."""
        # Without the file of flags beside the script that HfArgumentParser would read, unseen.
        settings, unknown = self.parse_args_into_dataclasses(
            args, return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            raise ValueError(unknown_flag(unknown, list(vars(settings)), refused))
        for name, value in vars(settings).items():
            values = value if isinstance(value, list) else [value]
            if "" in values and value != self.get_default(name):  # as of a variable that is not set
                raise ValueError(f"--{name} is empty: give it a value, or leave it out")
            if name.endswith("data") and (times := count_flag(name, args)) > 1:
                once = "give it once" + ", with all sets behind it" * isinstance(value, list)
                raise ValueError(f"--{name} is there {times} times, and the last alone would count: {once}")
            if name in PATHS and value is not None:
                values = [os.path.expanduser(path) for path in values]
                setattr(settings, name, values if isinstance(value, list) else values[0])
        return settings


def count_flag(name: str, args: Sequence[str]) -> int:
    return sum(text.split("=")[0].replace("-", "_") == f"__{name}" for text in args)


def unknown_flag(unknown: Sequence[str], names: Sequence[str], refused: Mapping[str, str]) -> str:
    """What is wrong with the first argument that is no flag's: a sentence with the nearest flag's name."""
    given = next((text for text in unknown if text.startswith(("-", "–", "—"))), None)
    if given is None:
        return f"{unknown[0]!r} belongs to no flag: a value with spaces needs quotes, and -h lists the flags"
    given = given.split("=")[0]
    name = given.strip("-–—").replace("-", "_").lower()
    if name in refused:
        return f"--{name}: {refused[name]}"
    near = nearest_flag(name, names)
    return f"{given} is no flag{f': did you mean --{near}?' if near else ','} -h lists them all"


def nearest_flag(name: str, names: Sequence[str]) -> str | None:
    """By what others call it, else by how it begins, else by its letters."""
    known = [ours for ours, theirs in OTHER_NAMES.items() if ours in names and name in theirs.split()]
    begun = [ours for ours in names if ours.startswith(name)]
    return next(iter(known + begun + difflib.get_close_matches(name, names, n=1)), None)


def check_numbers(settings: Any, may_be_zero: Iterable[str] = ()) -> None:
    """ValueError for a number that is negative, not finite, or 0 where that is not its default."""
    for flag in fields(settings):
        value = getattr(settings, flag.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        zero = flag.default == 0 or flag.name in may_be_zero
        if not (0 < value < math.inf or (zero and value == 0)):
            rule = "finite" if value > 0 else "0 or more" if zero else "above 0"
            raise ValueError(f"{flag.name} is {value}, and must be {rule}")
        if flag.name == "seed" and value >= 2**31:  # numpy takes 32 bits, and ranks add to it
            raise ValueError(f"seed is {value}, and must be below 2147483648")


# ---- The start of a script ----


@contextlib.contextmanager
def one_sentence(script: str) -> Iterator[None]:
    """What is raised within, while a script starts, ends it in one sentence."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # None where it was closed before the start
        setattr(sys, name, stream if isinstance(stream, Outlet) else Outlet(stream))
    try:
        check_launcher()
        yield
    except (ValueError, OSError) as error:
        alone = os.environ.get("WORLD_SIZE") in (None, "", "1")
        if alone or os.environ.get("LOCAL_RANK") in (None, "", "0"):  # once a machine: each has its own files
            print(f"{script}: {' '.join(map(str.strip, str(error).splitlines()))}", file=sys.stderr)
        sys.exit(BAD_INPUT)


class Outlet:
    """stdout or stderr, written to as long as it can be: what `| head` or a full disk refuses is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_launcher() -> None:
    """ValueError where accelerate's config, made for another project, asks for another way of sharding.

    Or where a variable of the cluster names a network that this machine lacks.
    """
    networks = os.environ.get("GLOO_SOCKET_IFNAME") or ""
    here = [name for _, name in socket.if_nameindex()]
    if missing := [name for name in networks.split(",") if name and name not in here]:
        raise ValueError(
            f"GLOO_SOCKET_IFNAME is {networks}, and this machine has no {', '.join(missing)}, only "
            f"{', '.join(here)}: set it to one of these, or unset it"
        )
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        variable = f"ACCELERATE_USE_{name}"
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise ValueError(
                f"{variable} is set, by an accelerate config of another project: the model is sharded here "
                "without it, so start with `accelerate launch --multi_gpu`, or unset the variable"
            )


def try_writing(folder: Path) -> None:
    """Make a folder, if need be; an OSError where no file can be written there, now and not hours later."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def try_hub(sources: Iterable[str]) -> None:
    """Where one of these can only be on the Hub, and that does not answer, its libraries look no further.

    They would ask six times for each file, waiting up to 8 s between. What is in their cache still loads.
    """
    wanted = [s for s in sources if HUB_ID.fullmatch(s) and not Path(s).exists()]
    if not wanted or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except Exception:  # of the HTTP client that the library is built on, by its version one or another
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for a library that is loaded later
