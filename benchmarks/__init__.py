"""Measures of what the plugin costs, each beside its floor: ``python -m benchmarks --help``."""
