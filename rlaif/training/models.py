"""A model's folder in and out: loaded in float32, trained, saved as the one it came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config.engine import EngineConfig
from rlaif.config.section import LoraConfig, TrainerConfig
from rlaif.engine.model import check_servable, local_folder
from rlaif.errors import ConfigError

if TYPE_CHECKING:
    import peft
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
HEAD = "score.weight"  # of a reward model; new where it is made from a language model


def source(model: str, revision: str | None = None) -> Path:
    """The folder of a model, brought from the hub if it is not on this machine.

    Raises:
        ConfigError: there is no such model, or it could not be served: it has pickled weights or
            no chat template.
    """
    folder = local_folder(model) or _fetched(model, revision)
    check_servable(EngineConfig(model=str(folder)))
    return folder


def _fetched(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                model, revision=revision, allow_patterns=list(_WANTED), ignore_patterns="*/*"
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"the model cannot be had: {str(error).splitlines()[0]}",
            where=model,
            remedy="check `model`, `revision` and the network; or name a folder",
        ) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with a token to pad with.

    Raises:
        ConfigError: it cannot be read, has no chat template, or no token that ends a turn.
    """
    from transformers import AutoTokenizer

    with _readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for missing in ("chat_template", "eos_token"):
        if getattr(tokenizer, missing) is None:
            remedy = "save it with the tokenizer: tokenizer.save_pretrained(folder)"
            raise ConfigError(f"the tokenizer has no {missing}", where=str(folder), remedy=remedy)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, *, reward: bool = False, frozen: bool = False) -> PreTrainedModel:
    """The folder's model in float32, whatever its own format: small steps would be lost otherwise.
    Of its generation config it has the tokens that end an answer: the rest would change what is
    drawn, or be refused where the model is saved.

    With `reward` it has one output, which is 0 where the folder holds a language model. A `frozen`
    model, which only adapters train, is in bfloat16 where the GPU has it, but for that output.

    Raises:
        ConfigError: it cannot be read, or some of its weights are missing.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GenerationConfig,
    )

    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    options = {"num_labels": 1} if reward else {}
    dtype = torch.bfloat16 if frozen and on_gpu_with_bf16() else torch.float32
    model, missing = _loaded(auto, folder, dtype, **options)
    if reward:
        head = model.get_parameter(HEAD)
        head.data = head.data.float() * (HEAD not in missing)
    else:
        ends = model.generation_config.eos_token_id  # pyright: ignore[reportOptionalMemberAccess]
        model.generation_config = GenerationConfig(eos_token_id=ends)
    if missing := sorted(missing - ({HEAD} if reward else set())):
        remedy = "save the model again with save_pretrained()"
        what = f"{len(missing)} weights are missing, such as {missing[0]}"
        raise ConfigError(what, where=str(folder), remedy=remedy)
    return model


def load_for_training(
    folder: Path, config: TrainerConfig, *, reward: bool = False
) -> PreTrainedModel:
    """`load_model` as a training wants it: frozen under adapters, and without dropout where the
    training compares probabilities or rewards, which must not hang on chance.

    Raises:
        ConfigError: as `load_model`; or an adapter is wanted at a weight that two layers share.
    """
    model = load_model(folder, reward=reward, frozen=config.lora is not None)
    _refuse_shared(model, adapters(config.lora))
    if config.no_dropout:
        without_dropout(model)
    return model


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off for good: modules, and the numbers that attention and others are called
    with, whatever an architecture names them."""
    from torch import nn

    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _refuse_shared(model: PreTrainedModel, wanted: peft.LoraConfig | None) -> None:
    """Of tied embeddings an adapter is learned at one end, and would be merged into both."""
    from peft.tuners.tuners_utils import check_target_module_exists

    weight: Any = model.get_input_embeddings().weight
    layers = [n for n, layer in model.named_modules() if getattr(layer, "weight", None) is weight]
    if wanted and len(layers) > 1:
        for name in filter(partial(check_target_module_exists, wanted), layers):
            what = f"{' and '.join(layers)} share their weights: no adapter can be merged into one"
            remedy = f"leave {name.rpartition('.')[2]} away"
            raise ConfigError(what, where="lora.target_modules", remedy=remedy)


def context_length(model: PreTrainedModel) -> int:
    """How many tokens a model can read."""
    return model.config.get_text_config().max_position_embeddings


def load_reward_model(folder: Path) -> PreTrainedModel:
    """A trained reward model, in float32.

    Raises:
        ConfigError: the folder holds none.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model, missing = _loaded(AutoModelForSequenceClassification, folder, torch.float32)
    if missing or model.config.num_labels != 1 or HEAD not in dict(model.named_parameters()):
        remedy = "name the model folder of a reward stage"
        raise ConfigError("this is no reward model", where=str(folder), remedy=remedy)
    return model


def _loaded(
    auto: Any, folder: Path, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the weights that the folder does not have."""
    with _readable(folder):
        model, info = auto.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    return model, set(info["missing_keys"])


def on_gpu_with_bf16() -> bool:
    """Whether this machine has a GPU that computes in bfloat16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def adapters(lora: LoraConfig | None, *, reward: bool = False) -> peft.LoraConfig | None:
    """Low-rank adapters as peft has them; a reward model's new head is trained in full."""
    if lora is None:
        return None
    import peft

    targets = lora.target_modules
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=["score"] if reward else None,
    )


def save(
    trainer: Trainer, start: Path, into: Path, *, lora: LoraConfig | None, reward: bool = False
) -> None:
    """Save what was trained from `start` to `into`, in the same format and with the same files
    beside it, so that it is served as `start` is. Adapters are merged into the weights."""
    import torch

    wrapped: Any = trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model
    state: Any = trainer.accelerator.get_state_dict(wrapped)  # every process takes part
    if not trainer.is_world_process_zero():
        return
    model = _merged(trainer, start, state, lora, reward)
    model.to(getattr(torch, storage_format(start)))  # pyright: ignore[reportArgumentType]
    draft = into.with_name(f".{into.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    for path in draft.glob("*.safetensors"):
        shutil.copymode(start / "config.json", path)  # else nobody but us can read them
    _copy_tokenizer(trainer.processing_class, start, draft)
    shutil.rmtree(into, ignore_errors=True)
    draft.replace(into)


def _merged(
    trainer: Trainer,
    start: Path,
    state: dict[str, torch.Tensor],
    lora: LoraConfig | None,
    reward: bool,
) -> PreTrainedModel:
    """The start model again, with what was trained in place of its own weights."""
    import peft

    model = load_model(start, reward=reward)
    if reward:
        padding = trainer.model.config.get_text_config().pad_token_id  # pyright: ignore
        model.config.get_text_config().pad_token_id = padding
    if lora is None:
        model.load_state_dict(state)
        return model
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    wrapped = peft.get_peft_model(model, trained.peft_config["default"])
    learned = peft.get_peft_model_state_dict(trained, state_dict=state)
    peft.set_peft_model_state_dict(wrapped, learned)
    return wrapped.merge_and_unload()  # pyright: ignore[reportCallIssue]


def storage_format(folder: Path) -> str:
    """The number format that the folder's config names: float16, bfloat16 or float32."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def _copy_tokenizer(tokenizer: Any, start: Path, into: Path) -> None:
    """Copy tokenizer, chat template and generation config, byte for byte."""
    for name in {*_TOKENIZER, *tokenizer.vocab_files_names.values()}:
        if (start / name).is_file():
            shutil.copyfile(start / name, into / name)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns whatever a loader raises over a folder into one error."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the model cannot be loaded: {said}",
            where=str(folder),
            remedy="save or download it again; remote code and pickled weights are never used",
        ) from error
