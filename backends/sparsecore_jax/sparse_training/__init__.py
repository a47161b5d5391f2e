"""``sparsify`` for any optax loop: masks in the optimizer's state, and updates of the strategy between jitted steps."""
