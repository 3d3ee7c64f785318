"""Options that TRL would ignore, or fail on only after the model is loaded, are errors."""

from __future__ import annotations

from rlaif.config.policy import DpoConfig, KtoConfig
from rlaif.documents import did_you_mean
from rlaif.errors import ConfigError

LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # those that read label_smoothing
_OF_HARD_LOSSES = {
    "loss_type", "loss_weights", "label_smoothing", "f_divergence_type", "f_alpha_divergence_coef",
    "ld_alpha", "use_weighting", "discopop_tau",
}  # fmt: skip


def check_dpo(config: DpoConfig) -> None:
    """Refuse what TRL's DPOTrainer, or our soft loss, would silently ignore.

    Raises:
        ConfigError: it names the option and what to do.
    """
    if config.labels == "soft":
        _check_soft(config)
        return
    if config.anchor:
        remedy = "set `labels: soft`, or give TRL `loss_type: [sigmoid, sft]` and `loss_weights`"
        raise _error("anchor", "hard labels would ignore it", remedy)
    given = config.trl.get("loss_type", config.loss_type)
    for loss in given if isinstance(given, list) else [given]:
        if loss not in LOSSES:
            remedy = did_you_mean(loss, LOSSES) or f"one of {', '.join(LOSSES)}"
            raise _error("loss_type", f"TRL's DPOTrainer has no loss {loss!r}", remedy)
        if config.label_smoothing and loss not in SMOOTHED:
            remedy = f"use one of {', '.join(SMOOTHED)}, or `labels: soft`"
            raise _error("label_smoothing", f"the loss {loss} ignores it", remedy)
        if loss == "exo_pair" and not config.label_smoothing:
            raise _error("label_smoothing", "exo_pair needs one above 0", "set 0.001, as its paper")


def _check_soft(config: DpoConfig) -> None:
    if config.loss_type != "sigmoid":
        what = f"soft labels have one loss, sigmoid; {config.loss_type} knows hard labels only"
        raise _error("loss_type", what, "set `labels: hard`, or leave loss_type away")
    for name in sorted(_OF_HARD_LOSSES & config.trl.keys()):
        remedy = "set `labels: hard`, or remove it from `trl`"
        raise _error(f"trl.{name}", "soft labels would ignore it", remedy)


def check_kto(config: KtoConfig) -> None:
    """Refuse a batch in which KTO cannot estimate its reference point.

    Raises:
        ConfigError: one device would handle a single answer at a time.
    """
    if (config.micro_batch or config.batch_size) < 2:
        what = "KTO compares the answers of a micro batch, and needs 2 or more"
        raise _error("micro_batch", what, "raise it")


def _error(key: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(what, where=f"policy.{key}", remedy=remedy)
