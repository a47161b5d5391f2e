"""Runs parts of any compiled model, its regions, as a whole in the layout of the sparse CPU kernels."""
