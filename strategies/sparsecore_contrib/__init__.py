"""Contributed strategies, each maintained by its owner; README.md has the rules."""
