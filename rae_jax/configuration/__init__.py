"""Configuration: schema, defaults, durations and the command line of every tool."""
