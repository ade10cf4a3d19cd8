"""Options of autoencoders of convolutions, which take images of any size."""

import dataclasses

from rae_jax.models.autoencoders.slicing import require_slice_size
from rae_jax.models.autoencoders.tiling import Tiling


@dataclasses.dataclass(frozen=True)
class ConvolutionalOptions:
    """What changes neither the parameters nor the latents' range of an autoencoder.

    Attributes:
        slice_size: Images that go through encoder and decoder at a time, one slice after another
            in the same compiled function, which bounds memory; None takes the whole batch.
        tiling: How large images are cut into tiles, which bounds memory too and gives slightly
            different latents and images; None never cuts.
    """

    slice_size: int | None = None
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        """Rejects a slice of no images."""
        require_slice_size(self.slice_size)
