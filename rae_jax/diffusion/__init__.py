"""Mathematics of stage 2 on callables: paths, predictions, times, losses, guidance, integration."""
