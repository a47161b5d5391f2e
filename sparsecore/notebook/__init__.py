"""Representations in notebooks: HTML of trainings and results, and plots."""
