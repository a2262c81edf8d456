"""The graph: a model that calls tools, one task per call, until it answers."""
