"""The bare graph as Aegra loads it: it brings its own saver."""

from benchmarks.bare_graph import build

graph = build()
