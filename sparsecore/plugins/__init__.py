"""Plugins: how they are found, listed, described as plain values, and begun as projects of their own."""
