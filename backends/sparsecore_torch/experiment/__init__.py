"""``--backend torch``: the learning half, on N values and dense weights that live for the length of a layer."""
