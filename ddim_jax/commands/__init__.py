"""The commands, each a module with its flags, a `main` and a `run` of the whole command line. One process imports one of them.

They are `ddim-sample` and so on where the package is installed, and `python -m experiments.sample` in a checkout.
"""
