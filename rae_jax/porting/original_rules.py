"""What becomes of each key of the RAE release's YAML files (bytetriper/RAE, `configs/`)."""

import math
from collections.abc import Callable
from typing import Any

from rae_jax.configuration import defaults
from rae_jax.porting import original_training_rules
from rae_jax.porting.original_conversion import Conversion
from rae_jax.porting.original_values import Rule, lower, nothing, number, of, only, to

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
        return nothing("it is empty")
    return _RULES.get(key)


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
    return only((True,), "LightningDiT always has positions")(conversion, value)


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
    return conversion.set("transport.loss_weight", "none" if value is None else lower(value))


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
    if lower(conversion.get("sampler.params.sampling_method")) == "dopri5":
        return "nothing: dopri5 chooses its own steps"
    return _sampler("num_steps", int)(conversion, value)


def _tolerance(name: str) -> Rule:
    def rule(conversion: Conversion, value: Any) -> str:
        method = lower(conversion.get("sampler.params.sampling_method", "euler"))
        if method != "dopri5":
            return f"nothing: {method} has no tolerances"
        return _sampler(name, number)(conversion, value)

    return rule


def _guided(conversion: Conversion) -> bool:
    return float(conversion.get("guidance.scale", 1.0)) != 1.0


def _guidance_method(conversion: Conversion, value: Any) -> str:
    methods = {"cfg": "classifier_free", "autoguidance": "autoguidance"}
    method = of(methods)(value)
    if not _guided(conversion):
        return "nothing: its scale is 1, which does not guide"
    if conversion.kind == "stage2" and method == "autoguidance":
        return "nothing: no guide is at hand in training; convert with --kind=sampling too"
    done = conversion.set(f"{_sampling_place(conversion, 'guidance')}.method", method)
    if method == "autoguidance" and conversion.has("guidance.checkpoint"):
        done += f", {conversion.set('guidance.checkpoint', _GUIDE)}"
    return done


def _without_guide(conversion: Conversion) -> bool:
    method = lower(conversion.get("guidance.method", "cfg"))
    return conversion.kind == "stage2" and method == "autoguidance"


def _guidance_scale(conversion: Conversion, value: Any) -> str:
    if not _guided(conversion) or _without_guide(conversion):
        return "nothing: see guidance.method"
    return conversion.set(f"{_sampling_place(conversion, 'guidance')}.scale", number(value))


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
    return only((int(classes),), "the null label is the one after the classes")(conversion, value)


_STAGE_1: dict[str, Rule] = {
    "target": only(("stage1.RAE",), "the autoencoder is a RAE"),
    "ckpt": _decoder_weights,
    "params.encoder_cls": _encoder_class,
    "params.encoder_config_path": _encoder,
    "params.encoder_input_size": to("autoencoder.encoder.input_size", int),
    "params.encoder_params.dinov2_path": _encoder,
    "params.encoder_params.model_name": _encoder,
    "params.encoder_params.normalize": only((True,), "features are always normalised"),
    "params.decoder_config_path": _decoder_config,
    "params.pretrained_decoder_path": _decoder_weights,
    "params.noise_tau": to("autoencoder.noise_tau", number),
    "params.reshape_to_2d": only((True,), "latents are always grids"),
    "params.normalization_stat_path": _statistics,
    "params.decoder_patch_size": to("autoencoder.decoder.patch_size", int),
    "params.eps": only((1e-5, "1e-5"), "latents are always normalised with 1e-5"),
}

_STAGE_2: dict[str, Rule] = {
    "target": _denoiser_target,
    "ckpt": _denoiser_weights,
    "params.input_size": nothing("the autoencoder tells the shape of its latents"),
    "params.in_channels": nothing("the autoencoder tells the shape of its latents"),
    "params.patch_size": to("denoiser.patch_size", int),
    "params.hidden_size": _denoiser_size("hidden_size"),
    "params.depth": _denoiser_size("depth"),
    "params.num_heads": _denoiser_size("num_heads"),
    "params.mlp_ratio": to("denoiser.mlp_ratio", number),
    "params.class_dropout_prob": to("label_dropout", number),
    "params.num_classes": to("denoiser.num_classes", int),
    "params.use_qknorm": to("denoiser.use_qk_norm", bool),
    "params.use_swiglu": to("denoiser.use_swiglu", bool),
    "params.use_rope": to("denoiser.use_rope", bool),
    "params.use_rmsnorm": to("denoiser.use_rms_norm", bool),
    "params.wo_shift": to("denoiser.use_shift", lambda value: not value),
    "params.use_pos_embed": _position_embedding,
}

_SAMPLING: dict[str, Rule] = {
    "transport.params.path_type": to("transport.path", lower),
    "transport.params.prediction": to("transport.prediction", lower),
    "transport.params.loss_weight": _loss_weight,
    "transport.params.time_dist_type": _time_distribution,
    "sampler.mode": _sampler("mode", of({"ode": "ode", "sde": "sde"})),
    "sampler.params.sampling_method": _sampler("method", lower),
    "sampler.params.num_steps": _num_steps,
    "sampler.params.atol": _tolerance("atol"),
    "sampler.params.rtol": _tolerance("rtol"),
    "sampler.params.reverse": only((False, None), "sampling goes from noise to images"),
    "guidance.method": _guidance_method,
    "guidance.scale": _guidance_scale,
    "guidance.t_min": _guidance_interval,
    "guidance.t_max": _guidance_interval,
    "guidance.guidance_model.ckpt": _guide_weights,
    "misc.latent_size": _latent_size,
    "misc.num_classes": to("denoiser.num_classes", int),
    "misc.null_label": _null_label,
    "misc.time_dist_shift_dim": _shift_dim,
    "misc.time_dist_shift_base": to("transport.time_shift_base", int),
}

_RULES: dict[str, Rule] = {
    **{f"stage_1.{key}": rule for key, rule in _STAGE_1.items()},
    **{f"stage_2.{key}": rule for key, rule in _STAGE_2.items()},
    **_SAMPLING,
    **original_training_rules.RULES,
    **{
        f"guidance.guidance_model.{key}": nothing("the guide's own run knows it")
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
