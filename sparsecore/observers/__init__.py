"""Observers of a training: what they receive, what is measured for them, and adapters to experiment trackers."""
