"""``--backend torch``: learning on N sparse values, whose dense weights exist only while a layer computes."""
