"""The composition root and command line: the only package that imports all the others."""
