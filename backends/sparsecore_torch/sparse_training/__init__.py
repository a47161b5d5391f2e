"""``sparsify``: sparse training of a user's own model and optimizer.

The folders form layers, each of which imports only those below it. At the top, the modules of this folder choose the
sparse tensors, check the model, follow the steps of the optimizer, save and restore. ``kernels`` sends layers through
the sparse kernels of ``sparsecore_cpu``, whatever storage their weights have. ``storage`` keeps the weights, as masked
dense tensors or as one vector of the active weights. ``optimizers`` knows a user's optimizer: its wrappers, the state
that it keeps for each weight, and the hooks around its steps. ``model`` knows a user's model: the names of its
parameters and which of them are weight matrices. Below are modules that the whole backend shares:
``sparsecore_torch.distributed``, ``arrays``, ``tensors`` and ``_torch_internals``.
"""
