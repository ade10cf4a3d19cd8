"""Stand-ins for denoisers whose evaluations can be counted."""

import collections

import jax
import jax.numpy as jnp

from rae_jax.models.denoisers.base import DenoiserOutput

NULL = 10


class Known:
    """A denoiser made of a function of (latents, t, labels)."""

    null_label = NULL

    def __init__(self, function):
        self.function = function

    def __call__(self, noisy_latents, t, labels):
        return DenoiserOutput(self.function(noisy_latents, t, labels))


class Counted:
    """A denoiser in two parts that counts how often each really runs, by rows of the batch.

    Its state is [batch, 1, `width`]: the labels and times that it was made of.
    """

    null_label = NULL

    def __init__(self, width=2, gain=1.0):
        self.width, self.gain, self.calls = width, gain, collections.Counter()

    def _count(self, what, labels):
        def note(labels):
            self.calls[what, "null" if (labels == NULL).all() else "label", len(labels)] += 1

        jax.debug.callback(note, labels)

    def __call__(self, noisy_latents, t, labels):
        self._count("whole", labels)
        return DenoiserOutput(self._value(noisy_latents, self._state(t, labels)))

    def backbone_state(self, noisy_latents, t, labels):
        self._count("backbone", labels)
        return self._state(t, labels)

    def predict(self, noisy_latents, state):
        self._count("head", state[:, 0, 0])
        return DenoiserOutput(self._value(noisy_latents, state))

    def _state(self, t, labels):
        state = jnp.stack([labels.astype(jnp.float32), t], axis=1)[:, None]
        return jnp.pad(state, ((0, 0), (0, 0), (0, self.width - 2)))

    def _value(self, latents, state):
        label, t = (state[:, 0, n][:, None, None, None] for n in range(2))
        return self.gain * (jnp.sin(latents + label) + t)

    def counted(self):
        """Calls since the last time, by (part, kind of labels, rows)."""
        jax.effects_barrier()
        calls, self.calls = dict(self.calls), collections.Counter()
        return calls
