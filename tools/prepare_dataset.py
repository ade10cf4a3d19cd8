r"""Packs a folder of images into ArrayRecord shards, which load faster and from anywhere.

python tools/prepare_dataset.py --source=imagenet/train --output=records/train

Classes are the sub-folders of the source; "builtin:digits/train" packs the digits. By default the
files are packed as they are. --center_crop=256 packs what config.data.crop='center' would make of
them, and --shorter_side=384 what its 'random' would crop from, both bit for bit and as pixels,
which need no decoding. Killed at any moment it goes on when started again; once finished, it
verifies all checksums and packs damaged shards anew. See docs/data.md.
"""

from absl import flags as absl_flags

from rae_jax.configuration import flags

_SOURCE = absl_flags.DEFINE_string("source", "", "Folder of images, one sub-folder per class.")
_OUTPUT = absl_flags.DEFINE_string("output", "", "Folder of the shards.")
_CENTER_CROP = absl_flags.DEFINE_integer("center_crop", 0, "Side of a square from the middle.")
_SHORTER_SIDE = absl_flags.DEFINE_integer("shorter_side", 0, "Resize the shorter side to this.")
_IMAGES_PER_SHARD = absl_flags.DEFINE_integer("images_per_shard", 10_000, "Images in one file.")
_NUM_WORKERS = absl_flags.DEFINE_integer(
    "num_workers", None, "Processes that pack; by default one per core, 0 for this one alone."
)
_MAX_UNREADABLE = absl_flags.DEFINE_integer(
    "max_unreadable", 0, "So many files that are no readable images may be left out."
)


def run() -> None:
    """Runs the job."""
    for flag, value in (("source", _SOURCE.value), ("output", _OUTPUT.value)):
        if not value:
            raise ValueError(f"--{flag} is missing; name a folder")
    from tqdm import tqdm

    from rae_jax.data import packing

    with tqdm(desc="packing", unit="image", delay=1) as bar:

        def advance(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        manifest = packing.pack(
            _SOURCE.value,
            _OUTPUT.value,
            preparation=packing.Preparation(
                center_crop=_CENTER_CROP.value, shorter_side=_SHORTER_SIDE.value
            ),
            images_per_shard=_IMAGES_PER_SHARD.value,
            num_workers=_NUM_WORKERS.value,
            max_unreadable=_MAX_UNREADABLE.value,
            advance=advance,
        )
    count = sum(shard.records for shard in manifest.shards)
    print(
        f"records: {_OUTPUT.value}, {count} images in {len(manifest.shards)} shards, "
        f"{len(manifest.unreadable)} left out"
    )


if __name__ == "__main__":
    flags.launch(run)
