"""Plugins: finding, loading and listing them, describing them as plain values, and writing new projects."""
