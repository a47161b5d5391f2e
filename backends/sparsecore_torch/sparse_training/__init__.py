"""``sparsify``: what is chosen, checked, saved and told, whatever the storage."""
