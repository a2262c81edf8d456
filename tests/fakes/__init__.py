"""Fakes with behaviour, for what this project does not own."""
