"""Mathematics of stage 2, on arrays and callables."""
