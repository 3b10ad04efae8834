"""Inverse dynamics: from two consecutive frames to the action between them. Sees frames and an ActionSpec only."""

from inverse_dynamics.model import CheckpointError, InverseDynamics, InverseDynamicsConfig

__all__ = ["CheckpointError", "InverseDynamics", "InverseDynamicsConfig"]
