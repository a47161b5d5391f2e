"""The parameters of a user's model: their names, what they share, and which of them become sparse."""
