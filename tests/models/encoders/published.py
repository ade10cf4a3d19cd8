"""Builds encoders from golden cases and runs them, each compiled once for a size of pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from rae_jax.layers.functional import freeze, split
from rae_jax.weights.convert import load
from rae_jax.weights.pretrained import encoder_config, encoder_from_config, encoder_table
from tests.comparison import Case, load_case, nchw_to_nhwc


def loaded(content, entries, **changes):
    """The frozen encoder of a `config.json` and the entries of its file."""
    config = encoder_config(content)
    encoder = encoder_from_config(config, **{"dtype": jnp.float32, **changes})
    return freeze(load(encoder_table(config, entries), entries, encoder))


def pixels_of(case: Case, name: str):
    return jnp.asarray(nchw_to_nhwc(case.input(name)))


class Published:
    """An encoder of a golden case and what upstream says of it.

    Attributes:
        case: The golden case.
        entries: Entries of the published file.
        encoder: The encoder that holds them.
        weights: Its arrays.
    """

    def __init__(self, name: str, config: str, entries: str, **changes):
        self.case = load_case(name)
        content = self.case.config[config] if config else self.case.config
        self.entries = self.case.entries(entries)
        self.encoder = loaded(content, self.entries, **changes)
        self.definition, self.weights = split(self.encoder)
        self._features = jax.jit(lambda weights, pixels: self.definition.merge(weights)(pixels))
        self._states = jax.jit(
            lambda weights, pixels, layers: self.definition.merge(weights).hidden_states(
                pixels, layers
            ),
            static_argnums=2,
        )

    def features(self, name: str, weights=None):
        """Features of an input as upstream lists tokens: [B, h * w, D]."""
        grid = self._features(
            self.weights if weights is None else weights, pixels_of(self.case, name)
        )
        return grid.reshape(grid.shape[0], -1, grid.shape[-1])

    def hidden_states(self, name: str, layers: tuple[int, ...] | None = None):
        return self._states(self.weights, pixels_of(self.case, name), layers)

    def normed_states(self, name: str):
        """All tokens after the final norm with the gain and bias that the encoder leaves out."""
        states = self.hidden_states(name, (-1,))[0]
        tokens = np.asarray(self.encoder.norm(states))
        return tokens * self._final("weight") + self._final("bias")

    def assert_full_size(self):
        """Meets a case that keeps slices of one input's features and states, and moments."""
        tokens = np.asarray(self.features("pixels"))
        self.case.assert_close("tokens", tokens[:, ::4, ::4])
        moments = [tokens.mean(), tokens.std(), np.abs(tokens).mean()]
        self.case.assert_close("stats_tokens", moments)
        states = np.asarray(self.hidden_states("pixels"))
        self.case.assert_close("hidden_states", states[:, :, ::16, ::16])
        moments = [states.mean((1, 2, 3)), states.std((1, 2, 3)), np.abs(states).mean((1, 2, 3))]
        self.case.assert_close("stats_hidden_states", np.stack(moments, axis=1))

    def _final(self, leaf: str):
        (key,) = (k for k in self.entries if k.endswith("layernorm." + leaf) and "head" not in k)
        return self.entries[key]
