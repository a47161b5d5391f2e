"""A user's optimizer: its wrappers, the state that it keeps for each weight, and hooks around its steps."""
