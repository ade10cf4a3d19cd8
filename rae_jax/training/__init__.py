"""Training: state, optimisers, the loop with its hooks, and the steps of each stage."""
