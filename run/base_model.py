"""The checkpoint that a run starts from: can it be trained, its tokenizer, and its shapes without weights."""

import contextlib
import copy
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)

from run.tables import HUB_ID

# Where a config may state the context. vLLM allows no more than the least of them.
CONTEXT = """max_position_embeddings n_positions max_seq_len seq_length model_max_length max_target_positions
    max_sequence_length max_seq_length seq_len""".split()


def read_config(path: str) -> PretrainedConfig:
    """The config of a checkpoint folder or Hub id; code that comes with it is never run.

    Without dropout: with it, old and new log-probs would be of two policies, by which units were dropped.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)  # left out, transformers asks on stdin
    for name, value in vars(config).items():
        if name.endswith(("dropout", "pdrop")) and value:
            setattr(config, name, 0.0)
    return config


def check_model(path: str) -> int:
    """The context of a checkpoint folder or Hub id (owner/name), in tokens; no weights are loaded.

    ValueError, in one sentence, where `path` is neither, or is nothing that can be trained. A folder's
    weights are compared with its config here, those on the Hub as they load.
    """
    if not os.path.isdir(path) and (not HUB_ID.fullmatch(path) or os.path.exists(os.path.dirname(path))):
        raise ValueError(f"model {path!r} is no folder, and no Hub id (owner/name)")
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "config.json")):
        if os.path.exists(os.path.join(path, "adapter_config.json")):
            raise ValueError(f"model {path!r} is an adapter (LoRA): merge it into its base model first")
        raise ValueError(f"model {path!r} is a folder without config.json: not a checkpoint of transformers")
    try:
        config = read_config(path)
    except Exception as error:  # of a class for each kind of nonsense
        raise ValueError(f"model {path!r} cannot be read: {one_line(error)}") from None
    if getattr(config, "quantization_config", None):
        raise ValueError(f"model {path!r} is quantized: take the checkpoint in bf16 or float32")
    if config.get_text_config() is not config or config.is_encoder_decoder:
        raise ValueError(
            f"model {path!r} is a {config.model_type}, and only models of text alone can be trained"
        )
    if not getattr(config, "max_position_embeddings", None):
        raise ValueError(f"model {path!r} is a {config.model_type}, which states no max_position_embeddings")
    try:
        with silence():
            GenerationConfig.from_pretrained(path)
    except OSError:  # there is none
        pass
    except Exception as error:  # vLLM would not start
        raise ValueError(f"model {path!r}: generation_config.json is refused: {one_line(error)}") from None
    if os.path.isdir(path):
        check_weights(path, config)
    return context_of(config)


def context_of(config: PretrainedConfig) -> int:
    """The least context that a config states, in tokens."""
    lengths = [getattr(config, name, None) for name in CONTEXT]
    return min(length for length in lengths if length is not None)


def check_weights(path: str, config: PretrainedConfig) -> None:
    """ValueError where a folder's weights are missing, damaged, or not those that its config.json describes.

    Of .safetensors files the headers are read, of .bin files only whether they are there. transformers then
    loads tensors without content, so that names are mapped as they will be.
    """
    tensors = {}
    for file in weight_files(path):
        if not file.is_file():
            raise ValueError(f"model {path!r} lacks {file.name}, a part of its weights")
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, "pt") as opened:
                shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"model {path!r}: {file.name} is damaged, or a pointer of Git LFS (git lfs pull): {error}"
            ) from None
        tensors |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if not tensors:
        return
    options = dict(device_map="meta", dtype=torch.float32, ignore_mismatched_sizes=True)
    try:
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with silence():
            _, loaded = kind.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, **options
            )
    except Exception:  # a model of another kind, which empty_model may refuse
        return
    check_loaded(path, loaded)


def weight_files(path: str) -> list[Path]:
    """The files with the weights of a checkpoint folder, by the name that transformers takes first."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        file = Path(path, name)
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        try:
            parts = set(json.loads(file.read_text())["weight_map"].values())
            return [Path(path, part) for part in sorted(parts)]
        except Exception as error:
            raise ValueError(f"model {path!r}: {name} cannot be read: {one_line(error)}") from None
    raise ValueError(f"model {path!r} holds no weights: there is no {SAFE_WEIGHTS_NAME}")


def check_loaded(path: str, loaded: dict) -> None:
    """ValueError where transformers, by its own report, drew weights at random that it did not find."""
    if missing := sorted(loaded["missing_keys"]):
        others = f", and {min(loaded['unexpected_keys'])} has no place" if loaded["unexpected_keys"] else ""
        raise ValueError(f"model {path!r}: {missing[0]} is missing, in all {len(missing)} weights{others}")
    for name, found, needed in sorted(loaded["mismatched_keys"]):
        raise ValueError(f"model {path!r}: {name} is {[*found]}, and by its config.json {[*needed]}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the notes and progress bars of transformers."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """The first sentence of an error that goes on for a page; with its class, where the text may not do."""
    text, *more = (str(error).strip() or type(error).__name__).splitlines()
    text = f"{text} {more[0].strip()}" if text.endswith(":") and more else text
    return text if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {text}"


def load_tokenizer(path: str):
    """The tokenizer of a checkpoint. ValueError where there is none: transformers would make an empty one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"the tokenizer of {path!r} cannot be read: {one_line(error)}") from None
    if not tokenizer("What is 1 + 1?")["input_ids"]:
        raise ValueError(f"{path!r} has no tokenizer: copy the base model's tokenizer files into it")
    return tokenizer


def encode(tokenizer, texts: Sequence[str], vocab_size: int) -> list[list[int]]:
    """Prompts as token ids. ValueError for an id that the model's embedding has no row for."""
    prompts = tokenizer(list(texts))["input_ids"] if texts else []
    check_largest(tokenizer, max((max(ids, default=0) for ids in prompts), default=0), vocab_size)
    return prompts


def check_largest(tokenizer, largest: int, vocab_size: int) -> None:
    """ValueError where the largest id of some text has no row in an embedding of `vocab_size`."""
    if largest >= vocab_size:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise ValueError(
            f"token {token!r} is number {largest}, and the model knows {vocab_size}: not its tokenizer?"
        )


def empty_model(path: str, attn_implementation: str = "sdpa") -> nn.Module:
    """The architecture at `path`, its parameters on the meta device: shapes without memory.

    ValueError if Policy, `fully_shard` or the hand-over could not take it.
    """
    config = read_config(path)
    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config,
                dtype=torch.float32,
                attn_implementation=attn_implementation,
                trust_remote_code=False,
            )
    except ImportError:  # that attention is not installed
        raise
    except Exception as error:
        raise ValueError(f"model {path!r}: {one_line(error)}") from None
    model.tie_weights()  # the move to the meta device made two of one
    name, head = type(model).__name__, model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{name} has a head with a bias, which Policy leaves out")
    if not isinstance(getattr(model.base_model, "layers", None), nn.ModuleList):
        raise ValueError(f"{name} has no decoder layers in base_model.layers, so it cannot be sharded")
    if any(parameter.ndim > 2 for parameter in model.parameters()):
        raise ValueError(
            f"{name} packs several matrices into one tensor (experts), and vLLM reads each by itself"
        )
    logit_scale(model)
    return model


class _Returns(nn.Module):
    """Stands for a part of a model: whatever comes in, this goes out."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *_, **__):
        return self.value


def logit_scale(model: nn.Module) -> float:
    """What a model multiplies its head's product by: 1 for most, a constant for Granite and Cohere.

    Its own forward tells, between a stub for the layers and one for the head. ValueError if it does anything
    else to the logits, as soft-capping does.
    """
    logits, hidden = torch.tensor([[[1.0, -64.0]]]), torch.zeros(1, 1, model.config.hidden_size)
    outer, head = copy.copy(model), model.get_output_embeddings()
    outer._modules = {
        name: _Returns(logits if part is head else BaseModelOutputWithPast(last_hidden_state=hidden))
        for name, part in model.named_children()
    }
    try:
        first, second = outer(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False).logits.flatten()
    except Exception:  # a forward of another kind
        first, second = torch.nan, torch.nan
    if not torch.isclose(torch.as_tensor(second), torch.as_tensor(-64 * first)):
        raise ValueError(
            f"{type(model).__name__} does more to its logits than to scale them, which Policy leaves out"
        )
    return float(first)
