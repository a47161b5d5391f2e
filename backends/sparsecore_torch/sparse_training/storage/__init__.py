"""How the weights of a user's model are stored: as dense tensors with masks, or as one vector of active weights."""
