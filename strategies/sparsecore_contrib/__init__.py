"""Strategies that others have contributed and maintain; README.md has the rules."""
