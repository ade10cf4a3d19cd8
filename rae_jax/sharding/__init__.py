"""Where arrays live: device mesh, parameter rules, activation constraints, several processes."""
