"""The PyTorch backend: the same experiments on CPU and CUDA, and sparse training for anyone's own model."""
