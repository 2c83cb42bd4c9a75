"""Offline scoring: units of the input, the manifest that makes the output exact, and the Ray Data pipeline."""
