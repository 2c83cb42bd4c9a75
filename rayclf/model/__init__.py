"""Backbone, adapters, head, artifact, and the engine that turns text into probabilities."""
