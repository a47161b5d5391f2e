"""A run: an experiment carried out in a folder of its own, resumable at any moment."""
