"""Latents of a whole data set on disk, so that stage 2 does without the encoder."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from rae_jax import build
from rae_jax.checkpointing.claim import claimed, require_free
from rae_jax.checkpointing.experiment import open_workdir, require_experiment
from rae_jax.configuration.schema import LatentCacheConfig, as_dict
from rae_jax.data import pipeline
from rae_jax.data.latents import LatentManifest
from rae_jax.data.manifests import MANIFEST, Shard
from rae_jax.data.shards import checksum, write_shard
from rae_jax.data.sources.base import LabelledSource, Selection
from rae_jax.files import WORK_FOLDER, local_path, replacing
from rae_jax.layers.functional import split
from rae_jax.models.autoencoders.base import LatentMoments, latent_moments
from rae_jax.monitoring.progress import progress_bar
from rae_jax.ops.images import to_float
from rae_jax.sharding.each_device import on_each_device
from rae_jax.sharding.processes import from_main, is_main_process, wait_for_all
from rae_jax.typing import Array, Tree

KIND = "latents"
_NOTES = "caching"
_MAY_CHANGE = ("batch_size", "data.path", "data.num_threads", "data.num_workers")


def cache_latents(config: LatentCacheConfig, workdir: str | pathlib.Path) -> pathlib.Path:
    """Encodes every image, and its mirror image if asked for, into `workdir`.

    The images are cut into shards of `images_per_shard`, which the processes share, so the folder
    must be one that all of them see. A shard gets its name when it is complete and has been read
    back, and a note of its checksum follows: a job that is killed goes on with the shards that
    are missing. Every device runs the program of its own images alone, so that the files are the
    same bit for bit on any number of devices and processes. The manifest, without which nobody
    reads the folder, comes last. In a finished folder all checksums are verified, and damaged
    shards made anew.

    Returns:
        The folder, for `data.path` of stage 2.

    Raises:
        FileNotFoundError: Images or autoencoder are missing.
        FloatingPointError: Latents are not finite.
        ValueError: Settings do not fit, the folder holds something else, or another job is at work
            in it.
    """
    folder = local_path(workdir, WORK_FOLDER).absolute()
    noted = (
        KIND,
        as_dict(config),
        _MAY_CHANGE,
        (f"{_NOTES}/[0-9]*.json",),
        as_dict(LatentCacheConfig()),
    )
    require_experiment(folder, *noted)
    source = build.source(config.data)
    shards = _Shards(folder, len(source), config.images_per_shard)
    missing = shards.missing()
    if not missing and shards.manifest.exists():
        logging.info("%s is complete, with the right checksums", shards.folder)
        return shards.folder
    require_free(folder)
    job = _Job(config, source)
    shards.require_same(job.manifest)
    with claimed(folder):
        open_workdir(folder, *noted)
        _encode_missing(job, shards, missing, len(source))
    return shards.folder


class _Shards:
    """The files of latents in a folder, and the notes of what they hold."""

    def __init__(self, folder: pathlib.Path, num_images: int, images_per_shard: int):
        self.folder, self.manifest = folder, folder / MANIFEST
        self._plan = folder / _NOTES / "plan.json"
        self._num_images, self._size = num_images, images_per_shard
        self._count = -(-num_images // images_per_shard)

    def images(self, number: int) -> range:
        """Numbers of the images of a shard."""
        start = number * self._size
        return range(start, min(start + self._size, self._num_images))

    def missing(self) -> list[int]:
        """Numbers of the shards to be made; those of a finished folder are read for it."""
        missing = np.ones(self._count, bool)
        if is_main_process():
            # Reading what an interrupted job has done would take as long as a part of doing it.
            verify = self.manifest.exists()
            missing[:] = [not self._is_whole(n, verify=verify) for n in range(self._count)]
        return np.flatnonzero(from_main(missing)).tolist()

    def require_same(self, manifest: LatentManifest) -> None:
        """Raises ValueError if the shards that are there were made of something else."""
        if not self._plan.exists() or not any(self._note(n).exists() for n in range(self._count)):
            return
        there, here = (
            {name: value for name, value in json.loads(text).items() if name != "shards"}
            for text in (self._plan.read_text(encoding="utf-8"), manifest.dumps())
        )
        different = [name for name in here if there.get(name) != here[name]]
        if different:
            raise ValueError(
                f"{self.folder} holds latents that were made with other "
                f"{' and '.join(different)}; put back what has changed, or use another --workdir"
            )

    def begin(self, manifest: LatentManifest) -> None:
        """Notes what the shards are made of, and removes what a killed job has left half done."""
        if is_main_process():
            for leftover in self.folder.glob("*.partial"):
                leftover.unlink(missing_ok=True)
            _write(self._plan, manifest.dumps())
        wait_for_all("latents.begun")

    def write(self, number: int, records: Iterator[bytes]) -> None:
        """Writes a shard and its note."""
        shard = write_shard(self.folder / self._name(number), records)
        _write(self._note(number), json.dumps(dataclasses.asdict(shard)) + "\n")

    def finish(self, manifest: LatentManifest) -> None:
        """Writes the manifest.

        Raises:
            ValueError: Shards are missing.
        """
        lacking = [n for n in range(self._count) if not self._is_whole(n, verify=False)]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {self._count} shards are not in {self.folder}; let --workdir "
                "be on a file system that all processes share, and start again"
            )
        notes = [self._note(number).read_text(encoding="utf-8") for number in range(self._count)]
        shards = tuple(Shard(**json.loads(note)) for note in notes)
        _write(self.manifest, dataclasses.replace(manifest, shards=shards).dumps())

    def _is_whole(self, number: int, *, verify: bool) -> bool:
        path = self.folder / self._name(number)
        try:
            shard = Shard(**json.loads(self._note(number).read_text(encoding="utf-8")))
            size = path.stat().st_size
        except (OSError, ValueError, TypeError):
            return False
        if size == shard.size and (not verify or checksum(path) == shard.sha256):
            return True
        logging.warning("%s is damaged; its latents are made again", path)
        return False

    def _name(self, number: int) -> str:
        return f"latents-{number:05d}-of-{self._count:05d}.array_record"

    def _note(self, number: int) -> pathlib.Path:
        return self.folder / _NOTES / f"{number:05d}.json"


def _write(path: pathlib.Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


class _Job:
    """The images, and what encodes them.

    Attributes:
        manifest: Of the latents, without shards.
    """

    def __init__(self, config: LatentCacheConfig, source: LabelledSource):
        self._config, self._source = config, source
        # The decoder may not be trained yet.
        encoder = dataclasses.replace(config.autoencoder, checkpoint="")
        autoencoder = build.pretrained_autoencoder(encoder, build.Compute(config.dtype))
        definition, arrays = split(autoencoder)
        shape = autoencoder.latent_shape(config.data.image_size)

        def encode(arrays: Tree, images: Array) -> tuple[LatentMoments, Array]:
            pixels = to_float(images)
            if config.data.horizontal_flip:
                pixels = jnp.stack([pixels, pixels[:, :, ::-1]], axis=1)
                pixels = pixels.reshape(-1, *pixels.shape[2:])
            moments = latent_moments(definition.merge(arrays), pixels)
            sound = [jnp.isfinite(leaf).all(axis=(1, 2, 3)) for leaf in jax.tree.leaves(moments)]
            stored = jax.tree.map(lambda leaf: leaf.astype(config.stored_dtype), moments)
            return stored, jnp.stack(sound).all(axis=0)

        self._devices = jax.local_devices()
        self._encode = on_each_device(encode, arrays, self._devices)
        side = config.data.image_size
        images = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
        self.manifest = LatentManifest(
            classes=source.classes,
            num_images=len(source),
            latent_shape=shape,
            dtype=config.stored_dtype,
            random=jax.eval_shape(encode, arrays, images)[0].deviation is not None,
            mirrored=config.data.horizontal_flip,
            images=build.image_settings(config.data),
            encoder=build.encoder_settings(config.autoencoder),
            fingerprints=build.latent_fingerprints(autoencoder),
        )

    def records(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Records of these images in order, the versions of each after one another.

        Raises:
            FloatingPointError: Latents are not finite.
        """
        if not numbers:
            return
        size = min(self._config.batch_size, len(self._source))
        images = dataclasses.replace(self._config.data, horizontal_flip=False)
        batches = pipeline.evaluation_batches(
            Selection(self._source, np.asarray(numbers)),
            batch_size=len(self._devices) * size,
            transforms=build.transformations(images),
            num_threads=self._config.data.num_threads,
        )
        pending = None
        for batch in batches:
            started = self._encode(batch["images"])
            # The devices work on these images while the last ones' latents are written.
            if pending is not None:
                yield from self._packed(*pending)
            pending = batch, started
        if pending is not None:
            yield from self._packed(*pending)

    def _packed(
        self, batch: pipeline.Batch, encoded: tuple[LatentMoments, Array]
    ) -> Iterator[bytes]:
        (mean, deviation), sound = jax.device_get(encoded)
        versions = self.manifest.versions
        for row in np.flatnonzero(batch["valid"]):
            for place in range(row * versions, (row + 1) * versions):
                parts = [leaf[place] for leaf in (mean, deviation) if leaf is not None]
                if not sound[place]:
                    raise FloatingPointError(
                        f"latents of image number {batch['index'][row]} are NaN or infinite; "
                        "compute with dtype='float32', or look at the image and the encoder's "
                        "weights"
                    )
                yield self.manifest.pack(int(batch["labels"][row]), *parts)


def _encode_missing(job: _Job, shards: _Shards, missing: Sequence[int], num_images: int) -> None:
    shards.begin(job.manifest)
    share = missing[jax.process_index() :: jax.process_count()]
    records = job.records([index for number in share for index in shards.images(number)])
    there = num_images - sum(len(shards.images(number)) for number in missing)
    with progress_bar(num_images, done=there, description="caching latents", unit="image") as bar:

        def told() -> Iterator[bytes]:
            for record in records:
                yield record
                bar.update(jax.process_count() / job.manifest.versions)

        stream = told()
        for number in share:
            count = len(shards.images(number)) * job.manifest.versions
            shards.write(number, itertools.islice(stream, count))
    wait_for_all("latents.encoded")
    if is_main_process():
        shards.finish(job.manifest)
    wait_for_all("latents.written")
