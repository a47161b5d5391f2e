"""How the kernels compute the functions that torch's graphs are made of, one file for each kind of function."""
