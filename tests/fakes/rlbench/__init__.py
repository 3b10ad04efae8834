"""A stand-in for RLBench; see README.md beside this folder."""

import gymnasium  # noqa: F401  (the real one registers its tasks there, but does not require it)

__version__ = "1.2.0"
