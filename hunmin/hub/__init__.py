"""Folders of models: where they are found, and how their configurations and weights are read."""
