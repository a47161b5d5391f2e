"""Every private name of torch that this backend uses; ``tests/test_torch_internals*.py`` have a test for each.

A release of torch may change any of them without notice. Nothing else in the backend reads a name of torch that begins
with an underscore, or relies on how torch calls its own functions.
"""
