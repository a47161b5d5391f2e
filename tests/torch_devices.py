"""The devices that tests of torch run on: the CPU, and a CUDA device where there is one."""

import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
