"""Stand-ins for networks, as golden cases state them."""

import jax.numpy as jnp

FORMS = {
    "sin(x) + t": lambda x, t: jnp.sin(x) + t,
    "0.8*sin(2*x) + 0.5*x*cos(3*t) + 0.1*t - 0.25": lambda x, t: (
        0.8 * jnp.sin(2 * x) + 0.5 * x * jnp.cos(3 * t) + 0.1 * t - 0.25
    ),
    "0.2*t*t*sin(3*x)": lambda x, t: 0.2 * t * t * jnp.sin(3 * x),
    "t*t*x + 0.05*t*t*(1 - t)*sin(3*x)": lambda x, t: (
        t * t * x + 0.05 * t * t * (1 - t) * jnp.sin(3 * x)
    ),
    "-x + 0.1*(1 - t)*sin(3*x)": lambda x, t: -x + 0.1 * (1 - t) * jnp.sin(3 * x),
}
