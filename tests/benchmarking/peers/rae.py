"""The models, the training step and the sampling of the RAE release, from a checkout of it."""

import contextlib
import copy
import importlib
import importlib.util
import json
import math
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from rae_jax.benchmarking import filling
from rae_jax.benchmarking.presets import (
    GUIDANCE_SCALE,
    IMAGE_MEAN,
    IMAGE_STD,
    NORMALIZED_VARIANCE,
    NUM_CLASSES,
    Settings,
)
from rae_jax.benchmarking.sides import Prepared
from rae_jax.configuration.denoising import DiTDHConfig
from rae_jax.configuration.schema import Stage2Config
from tests.benchmarking.peers import torch_side

VERSION = f"bytetriper/RAE, torch {torch.__version__}"


class _PatchEmbed(nn.Module):
    """In the place of timm's: a convolution whose outputs are tokens."""

    def __init__(self, side: int, patch: int, channels: int, width: int, bias: bool = True):
        super().__init__()
        self.patch_size = (patch, patch)
        self.num_patches = (side // patch) ** 2
        self.proj = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def _odeint(
    function: Callable[..., Any], start: torch.Tensor, t: torch.Tensor, *, method: str, **_: Any
) -> torch.Tensor:
    """In the place of torchdiffeq's: Euler's method, which keeps every point."""
    if method != "euler":
        raise ValueError(f"only Euler's method is here, got {method}; install torchdiffeq")
    points = [start]
    for here, there in zip(t[:-1], t[1:], strict=True):
        points.append(points[-1] + (there - here) * function(here, points[-1]))
    return torch.stack(points)


_STAND_INS: dict[str, dict[str, Any]] = {
    "timm": {},
    "timm.models": {},
    # Feed-forward layers and attention are imported there and, at these settings, not used.
    "timm.models.vision_transformer": {
        **{"PatchEmbed": _PatchEmbed, "Mlp": nn.Identity, "Attention": nn.Identity},
    },
    "torchdiffeq": {"odeint": _odeint},
    "regex": {"B": None},
}
"""What takes the place of libraries that are not installed and of which next to nothing is used."""


@contextlib.contextmanager
def _importable(checkout: str) -> Iterator[None]:
    source = pathlib.Path(checkout) / "src"
    if not checkout:
        raise ValueError("this peer needs --peer_path, a checkout of bytetriper/RAE")
    if not (source / "stage2" / "models" / "DDT.py").is_file():
        raise ValueError(
            f"no checkout of bytetriper/RAE at {checkout}: it has no src/stage2/models"
        )
    for name, content in _STAND_INS.items():
        top = name.partition(".")[0]
        if top in sys.modules and not hasattr(sys.modules[top], "__stand_in__"):
            continue
        if top not in sys.modules and importlib.util.find_spec(top) is not None:
            continue
        module = types.ModuleType(name)
        vars(module).update(content, __stand_in__=True)
        sys.modules[name] = module
    sys.path.insert(0, str(source))
    try:
        yield
    finally:
        sys.path.remove(str(source))


def _module(settings: Settings, name: str) -> Any:
    with _importable(settings.path):
        return importlib.import_module(name)


def _denoiser(settings: Settings, config: DiTDHConfig) -> Any:
    head, _, channels = settings.sizes.latent_shape
    with torch_side.uninitialized():
        module = _module(settings, "stage2.models.DDT").DiTwDDTHead(
            input_size=head,
            patch_size=config.patch_size,
            in_channels=channels,
            hidden_size=[config.backbone_hidden_size, config.head_hidden_size],
            depth=[config.backbone_depth, config.head_depth],
            num_heads=[config.backbone_num_heads, config.head_num_heads],
            mlp_ratio=config.mlp_ratio,
            class_dropout_prob=0.1,
            num_classes=NUM_CLASSES,
            use_qknorm=False,
            use_swiglu=True,
            use_rope=True,
            use_rmsnorm=True,
            wo_shift=False,
            use_pos_embed=True,
        )
    return torch_side.filled(module)


def _decoder(settings: Settings) -> Any:
    """The decoder, and what goes around it."""
    sizes = settings.sizes
    utils = _module(settings, "stage1.decoders.utils")
    options = json.loads(
        (pathlib.Path(settings.path) / "configs/decoder/ViTXL/config.json").read_text()
    )
    options |= {
        "hidden_size": sizes.latent_shape[2],
        "patch_size": sizes.decoder.patch_size,
        "image_size": sizes.image_size,
        "decoder_hidden_size": sizes.decoder.hidden_size,
        "decoder_intermediate_size": sizes.decoder.intermediate_size,
        "decoder_num_attention_heads": sizes.decoder.num_heads,
        "decoder_num_hidden_layers": sizes.decoder.depth,
    }
    with torch_side.uninitialized():
        decoder = _module(settings, "stage1.decoders.decoder").GeneralDecoder(
            utils.ViTMAEConfig(**options), num_patches=sizes.grid**2
        )
    torch_side.filled(decoder.eval())
    mean, std = (
        torch.tensor(v, device=torch_side.DEVICE)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD)
    )

    def decode(latents: torch.Tensor) -> torch.Tensor:
        features = latents * NORMALIZED_VARIANCE**0.5
        patches = decoder(features.flatten(2).transpose(1, 2), drop_cls_token=False).logits
        return decoder.unpatchify(patches) * std + mean

    return torch_side.compiled(decode, settings)


def _decode(settings: Settings) -> Prepared:
    decode = _decoder(settings)
    latents = torch_side.nchw(filling.latents(settings.batch_size, settings.sizes.latent_shape))

    def run() -> torch.Tensor:
        with torch_side.autocast(settings):
            return decode(latents)

    return torch_side.prepared(settings, run, torch_side.nhwc)


def _denoise(settings: Settings) -> Prepared:
    denoiser = _denoiser(settings, settings.sizes.denoiser).eval()
    count = settings.batch_size
    inputs = (
        torch_side.nchw(filling.latents(count, settings.sizes.latent_shape)),
        torch.from_numpy(filling.times(count)).to(torch_side.DEVICE),
        _labels(count),
    )
    network = torch_side.compiled(denoiser, settings)

    def run() -> torch.Tensor:
        with torch_side.autocast(settings):
            return network(*inputs)

    return torch_side.prepared(settings, run, torch_side.nhwc)


def _labels(count: int) -> torch.Tensor:
    found = filling.labels(count, NUM_CLASSES).astype(np.int64)
    return torch.from_numpy(found).to(torch_side.DEVICE)


def _transport(settings: Settings, **options: Any) -> Any:
    shift = math.sqrt(math.prod(settings.sizes.latent_shape) / 4096)
    create = _module(settings, "stage2.transport").create_transport
    return create(
        path_type="Linear", prediction="velocity", time_dist_shift=max(shift, 1.0), **options
    )


def _train_stage2(settings: Settings) -> Prepared:
    """A step as `train.py` takes it, on latents that are given."""
    recipe = Stage2Config()
    model = _denoiser(settings, settings.sizes.trained_denoiser)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    transport = _transport(settings, time_dist_type="logit-normal_0_1")
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.optimizer.learning_rate,
        betas=(recipe.optimizer.beta1, recipe.optimizer.beta2),
        weight_decay=recipe.optimizer.weight_decay,
        eps=recipe.optimizer.epsilon,
        fused=True,
    )
    model.train()
    network = torch_side.compiled(model, settings)
    clean = torch_side.nchw(filling.latents(settings.batch_size, settings.sizes.latent_shape))
    labels = _labels(settings.batch_size)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch_side.autocast(settings):
            loss = transport.training_losses(network, clean, {"y": labels})["loss"].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
        optimizer.step()
        with torch.no_grad():
            averages = dict(average.named_parameters())
            for name, parameter in model.named_parameters():
                averages[name].mul_(recipe.ema_decay).add_(parameter, alpha=1 - recipe.ema_decay)
        return loss.item()

    return torch_side.prepared(settings, run, trains=True)


def _sample(settings: Settings) -> Prepared:
    """As `sample.py` samples: every label is joined by the null label, and half is thrown away."""
    sizes = settings.sizes
    model = _denoiser(settings, sizes.denoiser).eval()
    guide = _denoiser(settings, sizes.guide).eval()
    if settings.compiled:
        model.forward, guide.forward = (torch.compile(m.forward) for m in (model, guide))
    decode = _decoder(settings)
    sampler = _module(settings, "stage2.transport").Sampler(
        _transport(settings, time_dist_type="uniform")
    )
    generate = sampler.sample_ode(sampling_method="euler", num_steps=settings.points)
    count, (rows, columns, channels) = settings.batch_size, sizes.latent_shape
    null = torch.full((count,), NUM_CLASSES, device=torch_side.DEVICE)
    labels = torch.cat([_labels(count), null])

    def run() -> torch.Tensor:
        noise = torch.randn(count, channels, rows, columns, device=torch_side.DEVICE)
        with torch_side.autocast(settings):
            samples = generate(
                torch.cat([noise, noise]),
                model.forward_with_autoguidance,
                y=labels,
                cfg_scale=GUIDANCE_SCALE,
                cfg_interval=(0.0, 1.0),
                additional_model_forward=guide.forward,
            )[-1]
            return decode(samples.chunk(2)[0])

    return torch_side.prepared(settings, run)


PARTS = {
    "decode": _decode,
    "denoise": _denoise,
    "train-stage2": _train_stage2,
    "sample": _sample,
}
