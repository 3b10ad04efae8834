"""A stand-in for MineRL 1.0; see README.md beside this folder."""
