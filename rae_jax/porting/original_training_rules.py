"""What becomes of the sections training, eval and gan of the RAE release's YAML files."""

from typing import Any

from rae_jax.porting.original_conversion import Conversion
from rae_jax.porting.original_values import (
    Rule,
    in_unit,
    lower,
    nothing,
    number,
    of,
    only,
    pair,
    to,
)


def _batch_size(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.get("training.global_batch_size"):
        return "nothing: global_batch_size is set"
    done = conversion.set("global_batch_size", int(value))
    return f"{done}; if it was meant for one device, multiply it by their number"


def _clip(conversion: Conversion, value: Any) -> str:
    return conversion.set("optimizer.clip_norm", number(value or 0.0))


def _preview_scale(conversion: Conversion, value: Any) -> str:
    if number(value) == 1.0:
        return "nothing: 1 does not guide"
    done = conversion.set("preview_guidance.method", "classifier_free")
    return f"{done}, {conversion.set('preview_guidance.scale', number(value))}"


def _decay_start(conversion: Conversion, value: Any) -> str:
    done = conversion.set("schedule.warmup", f"{number(value):g} epochs")
    return f"{done}, {conversion.set('schedule.warmup_from_zero', False)}"


def _eval_model(conversion: Conversion, value: Any) -> str:
    return conversion.set("evaluation.weights", ("ema", "raw") if value else ("ema",))


def _metrics(conversion: Conversion, value: Any) -> str:
    names = [lower(name) for name in ([value] if isinstance(value, str) else value)]
    if conversion.kind == "stage1":
        names = ["rfid" if name == "fid" else name for name in names]
    names = [{"is": "inception_score", "gfid": "fid"}.get(name, name) for name in names]
    return conversion.set("evaluation.metrics", tuple(names))


def _reference(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.kind == "stage1":
        return "nothing: reconstructions are compared with their originals"
    return conversion.set("evaluation.reference.path", str(value))


def _optimizer_rules(source: str, section: str) -> dict[str, Rule]:
    return {
        f"{source}.lr": to(f"{section}.learning_rate", number),
        f"{source}.betas": pair(f"{section}.beta1", f"{section}.beta2"),
        f"{source}.weight_decay": to(f"{section}.weight_decay", number),
        f"{source}.eps": to(f"{section}.epsilon", number),
    }


def _schedule_rules(source: str, prefix: str) -> dict[str, Rule]:
    kinds = of({"cosine": "cosine", "linear": "linear", "constant": "constant"})
    section = f"{prefix}schedule"
    return {
        f"{source}.type": to(f"{section}.kind", kinds),
        f"{source}.warmup_epochs": to(f"{section}.warmup", in_unit("epochs")),
        f"{source}.warmup_steps": to(f"{section}.warmup", in_unit("steps")),
        f"{source}.decay_end_epoch": to(f"{section}.end", in_unit("epochs")),
        f"{source}.decay_end_steps": to(f"{section}.end", in_unit("steps")),
        f"{source}.base_lr": to(f"{prefix}optimizer.learning_rate", number),
        f"{source}.final_lr": to(f"{section}.final_learning_rate", number),
        f"{source}.warmup_from_zero": to(f"{section}.warmup_from_zero", bool),
    }


_TRAINING: dict[str, Rule] = {
    "epochs": to("duration", in_unit("epochs")),
    "global_batch_size": to("global_batch_size", int),
    "batch_size": _batch_size,
    "grad_accum_steps": to("gradient_accumulation", int),
    "ema_decay": to("ema_decay", number),
    "num_workers": to("data.num_threads", int),
    "clip_grad": _clip,
    "log_interval": to("loop.log_every", in_unit("steps")),
    "log_every": to("loop.log_every", in_unit("steps")),
    "checkpoint_interval": to("loop.checkpoint_every", in_unit("epochs")),
    "ckpt_every": to("loop.checkpoint_every", in_unit("steps")),
    "sample_every": to("loop.preview_every", in_unit("steps")),
    "global_seed": to("seed", int),
    "cfg_scale": _preview_scale,
    "base_lr": to("optimizer.learning_rate", number),
    "final_lr": to("schedule.final_learning_rate", number),
    "beta": pair("optimizer.beta1", "optimizer.beta2"),
    "wd": to("optimizer.weight_decay", number),
    "schedule_type": _schedule_rules("", "")[".type"],
    "decay_start_epoch": _decay_start,
    "decay_end_epoch": to("schedule.end", in_unit("epochs")),
}

_EVAL: dict[str, Rule] = {
    "eval_interval": to("evaluation.every", in_unit("steps")),
    "eval_model": _eval_model,
    "data_path": to("evaluation.images.data.path", str),
    "reference_npz_path": _reference,
    "metrics": _metrics,
}

_GAN: dict[str, Rule] = {
    "disc.arch.dino_ckpt_path": to("gan.discriminator.path", str),
    "disc.arch.ks": to("gan.discriminator.kernel_size", int),
    "disc.arch.norm_type": to("gan.discriminator.norm", of({"bn": "batch", "gn": "group"})),
    "disc.arch.using_spec_norm": to("gan.discriminator.spectral", bool),
    "disc.arch.recipe": nothing("the file of the DINO tells its sizes"),
    "disc.arch.key_depths": to("gan.discriminator.key_depths", lambda v: tuple(map(int, v))),
    "disc.arch.norm_eps": to("gan.discriminator.norm_eps", number),
    "disc.augment.prob": to("gan.augment_probability", number),
    "disc.augment.cutout": to("gan.augment_cutout", number),
    "loss.disc_loss": to("gan.loss", lower),
    "loss.gen_loss": only(("vanilla", "hinge"), "the decoder's loss is minus the mean logit"),
    "loss.disc_weight": to("gan.weight", number),
    "loss.perceptual_weight": to("lpips.weight", number),
    "loss.disc_start": to("gan.start", in_unit("epochs")),
    "loss.disc_upd_start": to("gan.discriminator_start", in_unit("epochs")),
    "loss.lpips_start": to("lpips.start", in_unit("epochs")),
    "loss.max_d_weight": to("gan.largest_adaptive_weight", number),
    "loss.disc_updates": only((1,), "the discriminator learns once per step"),
}

RULES: dict[str, Rule] = {
    **{f"training.{key}": rule for key, rule in _TRAINING.items()},
    **_optimizer_rules("training.optimizer", "optimizer"),
    **_schedule_rules("training.scheduler", ""),
    **{f"eval.{key}": rule for key, rule in _EVAL.items()},
    **{f"gan.{key}": rule for key, rule in _GAN.items()},
    **_optimizer_rules("gan.disc.optimizer", "gan.optimizer"),
    **_schedule_rules("gan.disc.scheduler", "gan."),
}
"""By the dotted path of the key."""
