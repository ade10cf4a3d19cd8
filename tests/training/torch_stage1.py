"""The training step of stage 1 in PyTorch, term by term as the RAE release takes it.

python -m tests.training.torch_stage1 [PICTURE]

trains a decoder on the built-in digits with L1 for 50 steps, here and there, and draws both loss
curves.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from rae_jax import build
from rae_jax.configuration.parts import OptimizerConfig, ScheduleConfig
from rae_jax.configuration.schema import Stage1Config
from rae_jax.files import replacing
from rae_jax.models.auxiliary.dino_discriminator import (
    DINOConfig,
    DINODiscriminator,
    HeadConfig,
)
from rae_jax.models.decoders.vit_decoder import DecoderConfig
from rae_jax.ops.images import to_float
from rae_jax.reconstruction.latent_noise import add_latent_noise
from rae_jax.reconstruction.objective import Phases
from rae_jax.training import stage1
from rae_jax.training.run import Job
from rae_jax.training.stage1_step import Stage1Step, disguise_key
from rae_jax.weights.convert import export
from rae_jax.weights.tables.dino_discriminator import dino_table, heads_table
from rae_jax.weights.tables.lpips import LPIPS_TABLE
from rae_jax.weights.tables.vit_decoder import VIT_DECODER
from tests import pipeline
from tests.comparison import nhwc_to_nchw

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Entries:
    """Entries of a published file, or those whose names start with `prefix`."""

    tensors: Mapping[str, Tensor]
    prefix: str = ""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def under(self, name: str) -> "Entries":
        return Entries(self.tensors, f"{self.prefix}{name}.")

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], epsilon)


def to_torch(entries: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Copies of arrays, as tensors of torch's default type."""
    dtype = torch.get_default_dtype()
    return {name: torch.tensor(np.asarray(array), dtype=dtype) for name, array in entries.items()}


# Networks. Images are NCHW, tokens [B, N, D].


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """What the layers of a transformer block are called."""

    norms: tuple[str, str]
    qkv: tuple[str, ...]
    out: str
    mlp: tuple[str, str]


_DECODER = BlockNames(
    norms=("layernorm_before", "layernorm_after"),
    qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    out="attention.output.dense",
    mlp=("intermediate.dense", "output.dense"),
)
_DINO = BlockNames(
    norms=("norm1", "norm2"), qkv=("attn.qkv",), out="attn.proj", mlp=("mlp.fc1", "mlp.fc2")
)


def block(
    tokens: Tensor,
    entries: Entries,
    names: BlockNames,
    *,
    heads: int,
    epsilon: float,
    approximate: str,
) -> Tensor:
    """A pre-norm transformer block; `approximate` is GELU's."""

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    x = entries.norm(names.norms[0], tokens, epsilon)
    fused = torch.cat([entries.linear(name, x) for name in names.qkv], dim=-1)
    mixed = F.scaled_dot_product_attention(*map(split, fused.chunk(3, dim=-1)))
    tokens = tokens + entries.linear(names.out, mixed.transpose(1, 2).flatten(2))
    x = entries.norm(names.norms[1], tokens, epsilon)
    x = F.gelu(entries.linear(names.mlp[0], x), approximate=approximate)
    return tokens + entries.linear(names.mlp[1], x)


def decode(features: Tensor, entries: Entries, config: DecoderConfig) -> Tensor:
    """Normalised pixels of features [B, h, w, C] on the decoder's own grid."""
    tokens = entries.linear("decoder_embed", features.flatten(1, 2))
    first = entries["trainable_cls_token"].expand(len(tokens), -1, -1)
    tokens = torch.cat([first, tokens], dim=1) + entries["decoder_pos_embed"]
    for layer in range(config.depth):
        tokens = block(
            tokens,
            entries.under(f"decoder_layers.{layer}"),
            _DECODER,
            heads=config.num_heads,
            epsilon=config.layer_norm_eps,
            approximate="none",
        )
    tokens = entries.norm("decoder_norm", tokens, config.layer_norm_eps)
    patches = entries.linear("decoder_pred", tokens)[:, 1:]
    (rows, columns), side = config.grid, config.patch_size
    patches = patches.reshape(-1, rows, columns, side, side, 3)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, rows * side, columns * side)


def lpips(images: Tensor, others: Tensor, entries: Entries) -> Tensor:
    """Distances [B] of images in [-1, 1]."""
    total, maps = torch.zeros(len(images)), [_scaled(x) for x in (images, others)]
    layer = 0
    for number, count in enumerate((2, 2, 3, 3, 3)):
        if number:
            maps, layer = [F.max_pool2d(x, 2) for x in maps], layer + 1
        for _ in range(count):
            at = entries.under(f"features.{layer}")
            maps = [F.relu(F.conv2d(x, at["weight"], at["bias"], padding=1)) for x in maps]
            layer += 2
        # The slope of this norm is zero at zero, where that of a root is infinite.
        first, second = (
            x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in maps
        )
        weights = entries[f"lin{number}.model.1.weight"]
        total = total + F.conv2d((first - second) ** 2, weights).mean(dim=(1, 2, 3))
    return total


def _scaled(images: Tensor) -> Tensor:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    return (images - shift[:, None, None]) / scale[:, None, None]


def dino_tokens(images: Tensor, entries: Entries, config: DINOConfig) -> list[Tensor]:
    """Patch tokens of images in [-1, 1] after every block."""
    if images.shape[-1] != config.image_size:
        size = (config.image_size, config.image_size)
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = images * (0.5 / std)[:, None, None] + ((0.5 - mean) / std)[:, None, None]
    kernel, bias = (entries[f"patch_embed.proj.{name}"] for name in ("weight", "bias"))
    patches = F.conv2d(pixels, kernel, bias, stride=config.patch_size).flatten(2).transpose(1, 2)
    first = entries["cls_token"].expand(len(patches), -1, -1)
    tokens, outputs = torch.cat([first, patches], dim=1) + entries["pos_embed"], []
    for layer in range(config.depth):
        tokens = block(
            tokens,
            entries.under(f"blocks.{layer}"),
            _DINO,
            heads=config.num_heads,
            epsilon=config.layer_norm_eps,
            approximate="tanh",
        )
        outputs.append(tokens[:, 1:])
    return outputs


class Residual(nn.Module):
    """(fn(x) + x) / sqrt(2)."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return (self.fn(x) + x) / math.sqrt(2)


class Heads(nn.Module):
    """Heads of the discriminator under their published names.

    The spectral norm is torch's own: in training mode every call takes a power iteration first.
    """

    def __init__(self, width: int, config: HeadConfig):
        super().__init__()

        def convolution(out: int, size: int) -> nn.Module:
            plain = nn.Conv1d(width, out, size, padding=size // 2, padding_mode="circular")
            return nn.utils.spectral_norm(plain)

        def part(size: int) -> nn.Sequential:
            # A batch norm by each sample's own statistics.
            norm = nn.InstanceNorm1d(width, eps=config.norm_eps, affine=True)
            return nn.Sequential(convolution(width, size), norm, nn.LeakyReLU(0.2))

        self.heads = nn.ModuleList(
            nn.Sequential(part(1), Residual(part(config.kernel_size)), convolution(1, 1))
            for _ in range(1 + len(config.key_depths))
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits [B, L] of tokens, one tensor per head."""
        judged = [head(x.transpose(1, 2)) for head, x in zip(self.heads, features, strict=True)]
        return torch.cat([logits.flatten(1) for logits in judged], dim=1)


# Augmentation.


@dataclasses.dataclass(frozen=True)
class Draws:
    """Numbers in [0, 1) of one augmentation: three for the batch, seven for each image."""

    choices: np.ndarray
    each: np.ndarray


def disguised(images: Tensor, draws: Draws, *, probability: float, cutout: float) -> Tensor:
    """Images in [-1, 1] translated, coloured and cut out."""
    translated, coloured, cut = draws.choices <= probability
    each = torch.tensor(draws.each, dtype=images.dtype)
    if translated:
        images = torch.stack([_moved(*pair) for pair in zip(images, each[:2].T, strict=True)])
    if coloured:
        brightness, saturation, contrast = each[2:5, :, None, None, None]
        images = images + (brightness - 0.5)
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * 2 * saturation
        level = images.mean(dim=(1, 2, 3), keepdim=True)
        images = level + (images - level) * (contrast + 0.5)
    if cut and cutout > 0:
        kept = torch.stack([_kept(images.shape[2:], pair, cutout) for pair in each[5:].T])
        images = images * kept[:, None]
    return images


def _moved(image: Tensor, draws: Tensor) -> Tensor:
    height, width = image.shape[1:]
    down, right = round(height / 8), round(width / 8)
    row, column = (math.floor(r * (2 * n + 1)) for r, n in zip(draws, (down, right), strict=True))
    padded = F.pad(image, (right, right, down, down))
    return padded[:, row : row + height, column : column + width]


def _kept(sides: torch.Size, draws: Tensor, cutout: float) -> Tensor:
    kept = torch.ones(sides)
    spans = []
    for side, draw in zip(sides, draws, strict=True):
        length = round(side * cutout)
        start = math.floor(draw * (side + 1 - length % 2)) - length // 2
        spans.append(slice(max(start, 0), max(start + length, 0)))
    kept[tuple(spans)] = 0
    return kept


def discretized(images: Tensor) -> Tensor:
    """Images in [-1, 1] clipped and rounded to 256 levels."""
    return torch.round((images.clamp(-1, 1) + 1) * 127.5) / 127.5 - 1


# The step.


class Learner:
    """AdamW with gradient clipping and the published schedule: warm-up from zero, then a cosine."""

    def __init__(
        self,
        parameters: list[Tensor],
        settings: OptimizerConfig,
        schedule: ScheduleConfig,
        to_steps: Callable[[str], int],
        first_step: int = 0,
    ):
        self.parameters, self.clip_norm = parameters, settings.clip_norm or math.inf
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        warmup, end = to_steps(schedule.warmup), to_steps(schedule.end)
        lowest = schedule.final_learning_rate / settings.learning_rate

        def factor(updates: int) -> float:
            step = updates + first_step
            if step < warmup:
                return (step + 1) / warmup
            passed = min((step - warmup) / (end - warmup), 1)
            return lowest + (1 - lowest) * (1 + math.cos(math.pi * passed)) / 2

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def update(self, loss: Tensor) -> tuple[float, float]:
        """Takes a step down the loss; gives the gradient's norm before clipping, and the rate."""
        for parameter, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters), strict=True
        ):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        return float(norm), rate


@dataclasses.dataclass(frozen=True)
class StepInput:
    """What a step works on: images in [0, 1], features [B, h, w, C], and all that is drawn.

    The augmentations are those of the reconstructions in the decoder's loss, then of made and real
    images before the discriminator.
    """

    images: Tensor
    clean: Tensor
    noisy: Tensor
    draws: tuple[Draws, ...]
    phases: Phases


def _judge(job: Job, state: Any) -> DINODiscriminator:
    trees = state.discriminator.params, state.discriminator.vectors, job.frozen["discriminator"]
    return job.step.adversary.definition.merge(*trees)


class TorchStage1:
    """Decoder and discriminator under training, from the initial state of a job of ours."""

    def __init__(self, job: Job, state: Any):
        step, config = job.step, job.config
        assert isinstance(step, Stage1Step)
        assert isinstance(config, Stage1Config)
        self.config = config
        to_steps = build.durations(len(job.source), config.global_batch_size)
        model = step.autoencoder(state.params, state.buffers, job.frozen)
        self.mean, self.std = (
            torch.tensor(values)[:, None, None] for values in (model.image_mean, model.image_std)
        )
        self.sizes, self.decoder = (
            model.decoder.config,
            to_torch(export(VIT_DECODER, model.decoder)),
        )
        trained = [
            tensor.requires_grad_()
            for name, tensor in self.decoder.items()
            if name != "decoder_pos_embed"
        ]
        self.ema = {name: tensor.detach().clone() for name, tensor in self.decoder.items()}
        self.learner = Learner(trained, config.optimizer, config.schedule, to_steps)
        if step.lpips is not None:
            self.lpips = to_torch(export(LPIPS_TABLE, step.lpips.merge(job.frozen["lpips"])))
        if step.adversary is None:
            return
        judge = _judge(job, state)
        self.dino_sizes, self.key_depths = judge.backbone.config, judge.config.key_depths
        self.dino = to_torch(export(dino_table(self.dino_sizes.patch_size), judge.backbone))
        self.heads = Heads(self.dino_sizes.hidden_size, judge.config)
        self.heads.load_state_dict(to_torch(export(heads_table(judge.config), judge.heads)))
        by_step = config.gan.schedule_by == "step"
        self.judge_learner = Learner(
            list(self.heads.parameters()),
            config.gan.optimizer,
            config.gan.schedule,
            to_steps,
            first_step=to_steps(config.gan.discriminator_start) if by_step else 0,
        )

    def step(self, given: StepInput) -> dict[str, float]:
        """A step of the decoder, then one of the discriminator; metrics as of `Stage1Step`."""
        metrics = self._decoder_step(given)
        if self.config.gan.weight and given.phases.discriminator:
            metrics |= self._discriminator_step(given)
        return metrics

    def reconstruct(self, features: Tensor) -> Tensor:
        """Images around [0, 1]."""
        return decode(features, Entries(self.decoder), self.sizes) * self.std + self.mean

    def classify(self, images: Tensor, draws: Draws) -> Tensor:
        """Logits of images in [-1, 1] in disguise."""
        gan = self.config.gan
        images = disguised(
            images, draws, probability=gan.augment_probability, cutout=gan.augment_cutout
        )
        tokens = dino_tokens(images, Entries(self.dino), self.dino_sizes)
        return self.heads([tokens[-1], *(tokens[depth] for depth in self.key_depths)])

    def _decoder_step(self, given: StepInput) -> dict[str, float]:
        config, signed = self.config, 2 * given.images - 1
        made = self.reconstruct(given.noisy)
        l1 = (made - given.images).abs().mean()
        loss, metrics = config.loss.l1 * l1, {"l1": l1}
        if config.lpips.weight and given.phases.perceptual:
            perceptual = lpips(signed, 2 * made - 1, Entries(self.lpips)).mean()
            loss, metrics["perceptual"] = loss + config.lpips.weight * perceptual, perceptual
        if config.gan.weight:
            last = self.decoder["decoder_pred.weight"]
            ours = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
            metrics["last_layer_reconstruction"] = ours
            if given.phases.adversarial:
                self.heads.eval()
                adversarial = -self.classify(2 * made - 1, given.draws[0]).mean()
                theirs = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
                weight = (ours / (theirs + 1e-6)).clamp(0, config.gan.largest_adaptive_weight)
                metrics |= {"adversarial": adversarial, "adaptive_weight": weight}
                metrics["last_layer_adversarial"] = theirs
                loss = loss + config.gan.weight * weight.detach() * adversarial
        norm, rate = self.learner.update(loss)
        for name, average in self.ema.items():
            average.lerp_(self.decoder[name].detach(), 1 - config.ema_decay)
        metrics = {name: float(value.detach()) for name, value in metrics.items()}
        return {
            "loss": float(loss.detach()),
            **metrics,
            "gradient_norm": norm,
            "learning_rate": rate,
        }

    def _discriminator_step(self, given: StepInput) -> dict[str, float]:
        with torch.no_grad():
            made = discretized(2 * self.reconstruct(given.clean) - 1)
        self.heads.train()
        fake = self.classify(made, given.draws[1])
        real = self.classify(2 * given.images - 1, given.draws[2])
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        norm, rate = self.judge_learner.update(loss)
        return {
            "discriminator_loss": float(loss.detach()),
            "logits_real": float(real.detach().mean()),
            "logits_fake": float(fake.detach().mean()),
            "discriminator_accuracy": float((real > fake).double().mean()),
            "discriminator_gradient_norm": norm,
            "discriminator_learning_rate": rate,
        }


# Both side by side.


@dataclasses.dataclass
class Pair:
    """The same training here and in PyTorch.

    Attributes:
        job: Ours.
        state: Ours, after the steps taken.
        peer: The other.
    """

    job: Job
    state: Any
    peer: TorchStage1

    @classmethod
    def of(
        cls, config: Stage1Config, prepare: Callable[[Any], Any] = lambda state: state
    ) -> "Pair":
        """Both in the same initial state, which `prepare` may change before."""
        job = stage1.make_job(config)
        state = jax.jit(job.initial_state)()
        state = state if prepare is None else prepare(state)
        return cls(job, state, TorchStage1(job, state))

    def compared(self) -> Iterator[tuple[str, np.ndarray, Tensor]]:
        """Name, ours and the other's of every entry of decoder, moving average and heads."""
        job, state = self.job, self.state
        for kind, tree, theirs in (
            ("decoder", state.params, self.peer.decoder),
            ("ema", state.ema, self.peer.ema),
        ):
            model = job.step.autoencoder(tree, state.buffers, job.frozen)
            for name, array in export(VIT_DECODER, model.decoder).items():
                yield f"{kind}/{name}", array, theirs[name].detach()
        if job.step.adversary is not None:
            judge, theirs = _judge(job, state), self.peer.heads.state_dict()
            for name, array in export(heads_table(judge.config), judge.heads).items():
                yield f"discriminator/{name}", array, theirs[name]

    def run(self, steps: int) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
        """Takes steps on both sides and gives the metrics of each."""
        job, config = self.job, self.job.config
        compiled, inputs = jax.jit(job.step), jax.jit(self._inputs)
        batches = build.batches(
            job.source,
            config.data,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            start_step=int(self.state.step),
        )
        for batch in itertools.islice(batches, steps):
            features, draws = inputs(self.state, job.frozen, batch["images"])
            pixels = {"images": nhwc_to_nchw(batch["images"]).astype(np.float32) / 255}
            given = StepInput(
                **to_torch(pixels | features),
                draws=tuple(Draws(*map(np.asarray, numbers)) for numbers in draws),
                phases=job.phases(int(self.state.step)),
            )
            self.state, ours = compiled(self.state, job.frozen, batch)
            yield {name: float(value) for name, value in ours.items()}, self.peer.step(given)

    def _inputs(self, state: Any, frozen: Any, images: jax.Array) -> tuple[dict, list]:
        """Features and everything that our step draws."""
        model = self.job.step.autoencoder(state.params, state.buffers, frozen)
        features, step = model.features(to_float(images)), state.step
        key = jax.random.fold_in(state.key, step)
        noisy = add_latent_noise(features, key, self.job.step.noise_tau)
        fake_key, real_key = jax.random.split(disguise_key(state.key, step, 1))
        keys = disguise_key(state.key, step, 0), fake_key, real_key
        return {"clean": features, "noisy": noisy}, [_draws(key, len(images)) for key in keys]


def _draws(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """What `ops.augment.augment` takes from a key."""
    choice_key, draw_key = jax.random.split(key)
    keys = [jax.random.fold_in(draw_key, number) for number in range(count)]
    each = jax.numpy.stack([jax.random.uniform(image_key, (7,)) for image_key in keys], axis=1)
    return jax.random.uniform(choice_key, (3,)), each


STEPS = 50


def l1_curves() -> tuple[np.ndarray, np.ndarray]:
    """Loss of each step, ours and the other's.

    Networks and data are those of configs/smoke/stage1.py, step sizes those of the published
    recipe over a shorter time. With the larger ones of that config, training magnifies rounding:
    after 50 steps PyTorch in float32 is 4e-4 from itself in float64.
    """
    config = dataclasses.replace(
        pipeline.smoke("stage1", Stage1Config),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(warmup="10 steps", end=f"{STEPS} steps"),
    )
    losses = [(ours["loss"], theirs["loss"]) for ours, theirs in Pair.of(config).run(STEPS)]
    ours, theirs = np.array(losses).T
    return ours, theirs


def draw(ours: np.ndarray, theirs: np.ndarray, picture: str) -> None:
    """Both curves over each other, and their distance below."""
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    steps = np.arange(1, len(ours) + 1)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(steps, ours, color="tab:blue", linewidth=3, alpha=0.5, label="rae_jax")
    above.plot(steps, theirs, color="black", linewidth=1, linestyle="--", label="PyTorch")
    above.set_ylabel("L1 loss")
    above.legend()
    # Most are a few units in the last place, and some are none.
    below.plot(steps, np.abs(ours - theirs), color="tab:red", marker=".", linewidth=0.8)
    below.set_ylabel("distance")
    below.set_xlabel("step")
    for panel in (above, below):
        panel.grid(alpha=0.3)
    with replacing(picture) as partial:
        figure.savefig(partial, format="png", dpi=110)


def main(picture: str = "docs/images/stage1_l1_curves.png") -> None:
    """Draws the curves and prints how far they are apart."""
    ours, theirs = l1_curves()
    draw(ours, theirs, picture)
    print(f"largest distance in {STEPS} steps: {np.abs(ours - theirs).max():.2g}; {picture}")


if __name__ == "__main__":
    main(*sys.argv[1:])
