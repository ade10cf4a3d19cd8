"""What becomes of each key of the RAE release's YAML files (bytetriper/RAE, `configs/`).

A rule takes the conversion and the value, sets keys of our config, and says what it did.
"""

import math
from collections.abc import Callable
from typing import Any

from rae_jax.configuration import defaults
from rae_jax.porting.original_conversion import Conversion

Rule = Callable[[Conversion, Any], str]

_PATCH_SIZES = {"Dinov2withNorm": 14, "SigLIP2wNorm": 16, "MAEwNorm": 16}
_DECODERS = {"ViTB": "vit_b", "ViTL": "vit_l", "ViTXL": "vit_xl"}
_DENOISERS = {"DiTwDDTHead": "dit_dh", "LightningDiT": "lightning_dit"}
_DECODER, _DENOISER, _GUIDE = "runs/decoder", "runs/denoiser", "runs/guide"
_STATISTICS = "runs/latent_statistics.npz"


def find(key: str) -> Rule | None:
    """The rule for a dotted key; None if it is unknown.

    A section is a key only where it is empty.
    """
    if any(known.startswith(f"{key}.") for known in _RULES):
        return _nothing("it is empty")
    return _RULES.get(key)


def _to(setting: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """A value that is a setting of ours; where it is empty, ours stays as it is by default."""

    def rule(conversion: Conversion, value: Any) -> str:
        return "nothing: it is empty" if value is None else conversion.set(setting, convert(value))

    return rule


def _nothing(reason: str) -> Rule:
    return lambda conversion, value: f"nothing: {reason}"


def _only(legal: tuple[Any, ...], reason: str) -> Rule:
    """A value that has to be what is always so here."""

    def rule(conversion: Conversion, value: Any) -> str:
        if value not in legal:
            raise ValueError(f"it must be {' or '.join(map(repr, legal))}: {reason}")
        return f"nothing: {reason}"

    return rule


def _number(value: Any) -> float:
    # YAML takes "1e-4", without a point, for text.
    return float(value)


def _lower(value: Any) -> str:
    return str(value).lower().replace("-", "_")


def _of(table: dict[str, str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if _lower(value) not in table:
            raise ValueError(f"it must be one of {', '.join(table)}")
        return table[_lower(value)]

    return convert


def _in(unit: str) -> Callable[[Any], str]:
    return lambda value: f"{_number(value):g} {unit}"


def _pair(first: str, second: str) -> Rule:
    def rule(conversion: Conversion, value: Any) -> str:
        one, other = value
        return f"{conversion.set(first, _number(one))}, {conversion.set(second, _number(other))}"

    return rule


# stage_1 ------------------------------------------------------------------------------------


def _encoder(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    return conversion.set("autoencoder.encoder.path", str(value))


def _encoder_class(conversion: Conversion, value: Any) -> str:
    if value not in _PATCH_SIZES:
        raise ValueError(f"it must be one of {', '.join(_PATCH_SIZES)}")
    return "nothing: the encoder's own config.json tells its class"


def _decoder_config(conversion: Conversion, value: Any) -> str:
    name = str(value).rstrip("/").split("/")[-1]
    if name not in _DECODERS:
        raise ValueError(f"its last part must be one of {', '.join(_DECODERS)}")
    sizes = defaults.DECODERS[_DECODERS[name]]
    names = ("hidden_size", "depth", "num_heads", "intermediate_size")
    done = [conversion.set(f"autoencoder.decoder.{size}", getattr(sizes, size)) for size in names]
    return ", ".join(done) if conversion.has("autoencoder") else "the size of the decoder's run"


def _decoder_weights(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.kind == "stage1":
        return conversion.set("init_from", str(value))
    conversion.command(
        f"python tools/convert_weights.py --kind=decoder --source={value} --output={_DECODER} "
        f"--model={_decoder_name(conversion)} --encoder={_encoder_path(conversion)}"
    )
    if conversion.kind == "sampling":
        return f"{_DECODER}, which the denoiser is converted with"
    setting = "checkpoint" if conversion.kind == "reconstruction" else "autoencoder.checkpoint"
    return conversion.set(setting, _DECODER)


def _decoder_name(conversion: Conversion) -> str:
    path = str(conversion.get("stage_1.params.decoder_config_path", "ViTXL"))
    return _DECODERS.get(path.rstrip("/").split("/")[-1], "vit_xl")


def _encoder_path(conversion: Conversion) -> str:
    names = ("encoder_params.dinov2_path", "encoder_params.model_name", "encoder_config_path")
    found = (conversion.get(f"stage_1.params.{name}") for name in names)
    return str(next((path for path in found if path), "ENCODER"))


def _statistics(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.kind not in ("stage2", "sampling"):
        return "nothing: a decoder trains, and reconstructs, without statistics"
    conversion.command(
        f"python tools/convert_weights.py --kind=statistics --source={value} "
        f"--output={_STATISTICS} --encoder={_encoder_path(conversion)}"
    )
    if conversion.kind == "sampling":
        return f"{_STATISTICS}, which the denoiser is converted with"
    return conversion.set("autoencoder.statistics", _STATISTICS)


# stage_2 ------------------------------------------------------------------------------------


def _denoiser_kind(target: Any) -> str:
    name = str(target).split(".")[-1]
    if name not in _DENOISERS:
        raise ValueError(f"its last part must be one of {', '.join(_DENOISERS)}")
    return _DENOISERS[name]


def _denoiser_target(conversion: Conversion, value: Any) -> str:
    return conversion.set("denoiser.kind", _denoiser_kind(value))


def _denoiser_size(name: str) -> Rule:
    """One number for LightningDiT, that of the backbone and that of the head for DiTDH."""

    def rule(conversion: Conversion, value: Any) -> str:
        if not isinstance(value, list):
            return conversion.set(f"denoiser.{name}", int(value))
        backbone, head = value
        done = conversion.set(f"denoiser.backbone_{name}", int(backbone))
        return f"{done}, {conversion.set(f'denoiser.head_{name}', int(head))}"

    return rule


def _position_embedding(conversion: Conversion, value: Any) -> str:
    if _denoiser_kind(conversion.get("stage_2.target")) == "dit_dh":
        return conversion.set("denoiser.use_position_embedding", bool(value))
    return _only((True,), "LightningDiT always has positions")(conversion, value)


def _denoiser_weights(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.kind == "stage2":
        return conversion.set("init_from", str(value))
    _convert_denoiser(conversion, "stage_2", str(value), _DENOISER)
    return conversion.set("checkpoint", _DENOISER)


def _convert_denoiser(conversion: Conversion, section: str, source: str, folder: str) -> None:
    """Notes the command that makes the work folder of a published denoiser."""
    kind = _denoiser_kind(conversion.get(f"{section}.target"))
    parts = ("backbone_", "head_") if kind == "dit_dh" else ("",)
    sizes: dict[str, Any] = {}
    for name in ("hidden_size", "depth", "num_heads"):
        value = conversion.get(f"{section}.params.{name}")
        values = value if isinstance(value, list) else [value]
        sizes |= dict(zip([f"{part}{name}" for part in parts], values, strict=False))
    fitting = [
        name
        for name, config in defaults.DENOISERS.items()
        if config.kind == kind and all(getattr(config, key) == sizes[key] for key in sizes)
    ]
    model = f"--model={fitting[0]}" if fitting else "--config=CONFIG_OF_ITS_TRAINING"
    command = f"python tools/convert_weights.py --kind={kind} --source={source} --output={folder}"
    if conversion.get("stage_1.target"):
        model += f" --autoencoder={_DECODER} --statistics={_STATISTICS}"
    conversion.command(f"{command} {model}")


# transport, sampler, guidance, misc ---------------------------------------------------------


def _time_distribution(conversion: Conversion, value: Any) -> str:
    name, *numbers = str(value).split("_")
    if name == "uniform" and not numbers:
        return conversion.set("transport.time_distribution", "uniform")
    if name != "logit-normal" or len(numbers) != 2:
        raise ValueError("it must be 'uniform' or such as 'logit-normal_0_1'")
    mean, std = map(float, numbers)
    return ", ".join(
        (
            conversion.set("transport.time_distribution", "logit_normal"),
            conversion.set("transport.logit_mean", mean),
            conversion.set("transport.logit_std", std),
        )
    )


def _loss_weight(conversion: Conversion, value: Any) -> str:
    return conversion.set("transport.loss_weight", "none" if value is None else _lower(value))


def _sampling_place(conversion: Conversion, section: str) -> str:
    """Where settings of sampling stand: in training, those of the scores."""
    return f"evaluation.{section}" if conversion.kind == "stage2" else section


def _sampler(name: str, convert: Callable[[Any], Any]) -> Rule:
    def rule(conversion: Conversion, value: Any) -> str:
        if value is None:
            return "nothing: it is empty"
        return conversion.set(f"{_sampling_place(conversion, 'sampler')}.{name}", convert(value))

    return rule


def _num_steps(conversion: Conversion, value: Any) -> str:
    if _lower(conversion.get("sampler.params.sampling_method")) == "dopri5":
        return "nothing: dopri5 chooses its own steps"
    return _sampler("num_steps", int)(conversion, value)


def _tolerance(name: str) -> Rule:
    def rule(conversion: Conversion, value: Any) -> str:
        method = _lower(conversion.get("sampler.params.sampling_method", "euler"))
        if method != "dopri5":
            return f"nothing: {method} has no tolerances"
        return _sampler(name, _number)(conversion, value)

    return rule


def _guided(conversion: Conversion) -> bool:
    return float(conversion.get("guidance.scale", 1.0)) != 1.0


def _guidance_method(conversion: Conversion, value: Any) -> str:
    methods = {"cfg": "classifier_free", "autoguidance": "autoguidance"}
    method = _of(methods)(value)
    if not _guided(conversion):
        return "nothing: its scale is 1, which does not guide"
    if conversion.kind == "stage2" and method == "autoguidance":
        return "nothing: no guide is at hand in training; convert with --kind=sampling too"
    done = conversion.set(f"{_sampling_place(conversion, 'guidance')}.method", method)
    if method == "autoguidance" and conversion.has("guidance.checkpoint"):
        done += f", {conversion.set('guidance.checkpoint', _GUIDE)}"
    return done


def _without_guide(conversion: Conversion) -> bool:
    method = _lower(conversion.get("guidance.method", "cfg"))
    return conversion.kind == "stage2" and method == "autoguidance"


def _guidance_scale(conversion: Conversion, value: Any) -> str:
    if not _guided(conversion) or _without_guide(conversion):
        return "nothing: see guidance.method"
    return conversion.set(f"{_sampling_place(conversion, 'guidance')}.scale", _number(value))


def _guidance_interval(conversion: Conversion, value: Any) -> str:
    if not _guided(conversion) or _without_guide(conversion):
        return "nothing: see guidance.method"
    low, high = (
        float(conversion.get(f"guidance.{end}", d)) for end, d in (("t_min", 0), ("t_max", 1))
    )
    return conversion.set(f"{_sampling_place(conversion, 'guidance')}.interval", (low, high))


def _guide_weights(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.kind != "sampling" or not _guided(conversion):
        return "nothing: see guidance.method"
    _convert_denoiser(conversion, "guidance.guidance_model", str(value), _GUIDE)
    return conversion.set("guidance.checkpoint", _GUIDE)


def _latent_size(conversion: Conversion, value: Any) -> str:
    channels, height, width = (int(size) for size in value)
    if height != width:
        raise ValueError("latents must be square")
    derived = conversion.get("stage_1.params.encoder_input_size")
    patch = _PATCH_SIZES.get(str(conversion.get("stage_1.params.encoder_cls")))
    if derived and patch and int(derived) // patch != height:
        return (
            f"nothing: an encoder of patch {patch} makes {int(derived) // patch} x "
            f"{int(derived) // patch} latents of {derived} pixels, whatever this says"
        )
    return "nothing: the encoder tells the shape of its latents"


def _shift_dim(conversion: Conversion, value: Any) -> str:
    size = conversion.get("misc.latent_size")
    if size and math.prod(size) != int(value):
        return f"nothing: the shift follows from the latents' shape; here that is not {value}"
    return "nothing: the shift follows from the latents' shape"


def _null_label(conversion: Conversion, value: Any) -> str:
    classes = conversion.get(
        "misc.num_classes", conversion.get("stage_2.params.num_classes", value)
    )
    return _only((int(classes),), "the null label is the one after the classes")(conversion, value)


# training, eval, gan ------------------------------------------------------------------------


def _batch_size(conversion: Conversion, value: Any) -> str:
    if value is None:
        return "nothing: it is empty"
    if conversion.get("training.global_batch_size"):
        return "nothing: global_batch_size is set"
    done = conversion.set("global_batch_size", int(value))
    return f"{done}; if it was meant for one device, multiply it by their number"


def _clip(conversion: Conversion, value: Any) -> str:
    return conversion.set("optimizer.clip_norm", _number(value or 0.0))


def _preview_scale(conversion: Conversion, value: Any) -> str:
    if _number(value) == 1.0:
        return "nothing: 1 does not guide"
    done = conversion.set("preview_guidance.method", "classifier_free")
    return f"{done}, {conversion.set('preview_guidance.scale', _number(value))}"


def _decay_start(conversion: Conversion, value: Any) -> str:
    done = conversion.set("schedule.warmup", f"{_number(value):g} epochs")
    return f"{done}, {conversion.set('schedule.warmup_from_zero', False)}"


def _eval_model(conversion: Conversion, value: Any) -> str:
    return conversion.set("evaluation.weights", ("ema", "raw") if value else ("ema",))


def _metrics(conversion: Conversion, value: Any) -> str:
    names = [_lower(name) for name in ([value] if isinstance(value, str) else value)]
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
        f"{source}.lr": _to(f"{section}.learning_rate", _number),
        f"{source}.betas": _pair(f"{section}.beta1", f"{section}.beta2"),
        f"{source}.weight_decay": _to(f"{section}.weight_decay", _number),
        f"{source}.eps": _to(f"{section}.epsilon", _number),
    }


def _schedule_rules(source: str, prefix: str) -> dict[str, Rule]:
    kinds = _of({"cosine": "cosine", "linear": "linear", "constant": "constant"})
    section = f"{prefix}schedule"
    return {
        f"{source}.type": _to(f"{section}.kind", kinds),
        f"{source}.warmup_epochs": _to(f"{section}.warmup", _in("epochs")),
        f"{source}.warmup_steps": _to(f"{section}.warmup", _in("steps")),
        f"{source}.decay_end_epoch": _to(f"{section}.end", _in("epochs")),
        f"{source}.decay_end_steps": _to(f"{section}.end", _in("steps")),
        f"{source}.base_lr": _to(f"{prefix}optimizer.learning_rate", _number),
        f"{source}.final_lr": _to(f"{section}.final_learning_rate", _number),
        f"{source}.warmup_from_zero": _to(f"{section}.warmup_from_zero", bool),
    }


_STAGE_1: dict[str, Rule] = {
    "target": _only(("stage1.RAE",), "the autoencoder is a RAE"),
    "ckpt": _decoder_weights,
    "params.encoder_cls": _encoder_class,
    "params.encoder_config_path": _encoder,
    "params.encoder_input_size": _to("autoencoder.encoder.input_size", int),
    "params.encoder_params.dinov2_path": _encoder,
    "params.encoder_params.model_name": _encoder,
    "params.encoder_params.normalize": _only((True,), "features are always normalised"),
    "params.decoder_config_path": _decoder_config,
    "params.pretrained_decoder_path": _decoder_weights,
    "params.noise_tau": _to("autoencoder.noise_tau", _number),
    "params.reshape_to_2d": _only((True,), "latents are always grids"),
    "params.normalization_stat_path": _statistics,
    "params.decoder_patch_size": _to("autoencoder.decoder.patch_size", int),
    "params.eps": _only((1e-5, "1e-5"), "latents are always normalised with 1e-5"),
}

_STAGE_2: dict[str, Rule] = {
    "target": _denoiser_target,
    "ckpt": _denoiser_weights,
    "params.input_size": _nothing("the autoencoder tells the shape of its latents"),
    "params.in_channels": _nothing("the autoencoder tells the shape of its latents"),
    "params.patch_size": _to("denoiser.patch_size", int),
    "params.hidden_size": _denoiser_size("hidden_size"),
    "params.depth": _denoiser_size("depth"),
    "params.num_heads": _denoiser_size("num_heads"),
    "params.mlp_ratio": _to("denoiser.mlp_ratio", _number),
    "params.class_dropout_prob": _to("label_dropout", _number),
    "params.num_classes": _to("denoiser.num_classes", int),
    "params.use_qknorm": _to("denoiser.use_qk_norm", bool),
    "params.use_swiglu": _to("denoiser.use_swiglu", bool),
    "params.use_rope": _to("denoiser.use_rope", bool),
    "params.use_rmsnorm": _to("denoiser.use_rms_norm", bool),
    "params.wo_shift": _to("denoiser.use_shift", lambda value: not value),
    "params.use_pos_embed": _position_embedding,
}

_SAMPLING: dict[str, Rule] = {
    "transport.params.path_type": _to("transport.path", _lower),
    "transport.params.prediction": _to("transport.prediction", _lower),
    "transport.params.loss_weight": _loss_weight,
    "transport.params.time_dist_type": _time_distribution,
    "sampler.mode": _sampler("mode", _of({"ode": "ode", "sde": "sde"})),
    "sampler.params.sampling_method": _sampler("method", _lower),
    "sampler.params.num_steps": _num_steps,
    "sampler.params.atol": _tolerance("atol"),
    "sampler.params.rtol": _tolerance("rtol"),
    "sampler.params.reverse": _only((False, None), "sampling goes from noise to images"),
    "guidance.method": _guidance_method,
    "guidance.scale": _guidance_scale,
    "guidance.t_min": _guidance_interval,
    "guidance.t_max": _guidance_interval,
    "guidance.guidance_model.ckpt": _guide_weights,
    "misc.latent_size": _latent_size,
    "misc.num_classes": _to("denoiser.num_classes", int),
    "misc.null_label": _null_label,
    "misc.time_dist_shift_dim": _shift_dim,
    "misc.time_dist_shift_base": _to("transport.time_shift_base", int),
}

_TRAINING: dict[str, Rule] = {
    "epochs": _to("duration", _in("epochs")),
    "global_batch_size": _to("global_batch_size", int),
    "batch_size": _batch_size,
    "grad_accum_steps": _to("gradient_accumulation", int),
    "ema_decay": _to("ema_decay", _number),
    "num_workers": _to("data.num_threads", int),
    "clip_grad": _clip,
    "log_interval": _to("loop.log_every", _in("steps")),
    "log_every": _to("loop.log_every", _in("steps")),
    "checkpoint_interval": _to("loop.checkpoint_every", _in("epochs")),
    "ckpt_every": _to("loop.checkpoint_every", _in("steps")),
    "sample_every": _to("loop.preview_every", _in("steps")),
    "global_seed": _to("seed", int),
    "cfg_scale": _preview_scale,
    "base_lr": _to("optimizer.learning_rate", _number),
    "final_lr": _to("schedule.final_learning_rate", _number),
    "beta": _pair("optimizer.beta1", "optimizer.beta2"),
    "wd": _to("optimizer.weight_decay", _number),
    "schedule_type": _schedule_rules("", "")[".type"],
    "decay_start_epoch": _decay_start,
    "decay_end_epoch": _to("schedule.end", _in("epochs")),
}

_EVAL: dict[str, Rule] = {
    "eval_interval": _to("evaluation.every", _in("steps")),
    "eval_model": _eval_model,
    "data_path": _to("evaluation.images.data.path", str),
    "reference_npz_path": _reference,
    "metrics": _metrics,
}

_GAN: dict[str, Rule] = {
    "disc.arch.dino_ckpt_path": _to("gan.discriminator.path", str),
    "disc.arch.ks": _to("gan.discriminator.kernel_size", int),
    "disc.arch.norm_type": _to("gan.discriminator.norm", _of({"bn": "batch", "gn": "group"})),
    "disc.arch.using_spec_norm": _to("gan.discriminator.spectral", bool),
    "disc.arch.recipe": _nothing("the file of the DINO tells its sizes"),
    "disc.arch.key_depths": _to("gan.discriminator.key_depths", lambda v: tuple(map(int, v))),
    "disc.arch.norm_eps": _to("gan.discriminator.norm_eps", _number),
    "disc.augment.prob": _to("gan.augment_probability", _number),
    "disc.augment.cutout": _to("gan.augment_cutout", _number),
    "loss.disc_loss": _to("gan.loss", _lower),
    "loss.gen_loss": _only(("vanilla", "hinge"), "the decoder's loss is minus the mean logit"),
    "loss.disc_weight": _to("gan.weight", _number),
    "loss.perceptual_weight": _to("lpips.weight", _number),
    "loss.disc_start": _to("gan.start", _in("epochs")),
    "loss.disc_upd_start": _to("gan.discriminator_start", _in("epochs")),
    "loss.lpips_start": _to("lpips.start", _in("epochs")),
    "loss.max_d_weight": _to("gan.largest_adaptive_weight", _number),
    "loss.disc_updates": _only((1,), "the discriminator learns once per step"),
}

_RULES: dict[str, Rule] = {
    **{f"stage_1.{key}": rule for key, rule in _STAGE_1.items()},
    **{f"stage_2.{key}": rule for key, rule in _STAGE_2.items()},
    **_SAMPLING,
    **{f"training.{key}": rule for key, rule in _TRAINING.items()},
    **_optimizer_rules("training.optimizer", "optimizer"),
    **_schedule_rules("training.scheduler", ""),
    **{f"eval.{key}": rule for key, rule in _EVAL.items()},
    **{f"gan.{key}": rule for key, rule in _GAN.items()},
    **_optimizer_rules("gan.disc.optimizer", "gan.optimizer"),
    **_schedule_rules("gan.disc.scheduler", "gan."),
    **{
        f"guidance.guidance_model.{key}": _nothing("the guide's own run knows it")
        for key in _STAGE_2
        if key != "ckpt"
    },
}


def derive(conversion: Conversion) -> None:
    """Sets what the original takes from its command line or has written into its code."""
    side = conversion.get("stage_1.params.encoder_input_size")
    patch = _PATCH_SIZES.get(str(conversion.get("stage_1.params.encoder_cls")))
    if not side or not patch or not conversion.has("data.image_size"):
        return
    size = int(side) // patch * int(conversion.get("stage_1.params.decoder_patch_size", 16))
    settings: dict[str, Any] = {"data.image_size": size}
    if conversion.kind == "stage1":
        # The release enlarges images of 256 pixels to 384, others by half.
        settings["data.resize_size"] = 384 if size == 256 else int(1.5 * size)
        settings["evaluation.images.data.image_size"] = size
    if "evaluation.images.data.path" in conversion.settings:
        settings |= {"evaluation.images.data.split": "", "evaluation.images.data.crop": "center"}
    conversion.derived += [conversion.set(name, value) for name, value in settings.items()]
