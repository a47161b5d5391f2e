"""The learning half of a backend: its protocols, parameters, optimizers, memory ledger and ranks."""
