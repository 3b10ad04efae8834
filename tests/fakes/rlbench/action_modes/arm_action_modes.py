import numpy as np
from faults import fault
from pyrep.errors import ConfigurationPathError
from pyrep.world import BASE, REACH, TABLE

from rlbench.backend.exceptions import InvalidActionError


class EndEffectorPoseViaPlanning:
    def __init__(self, absolute_mode: bool = True, frame=None, collision_checking: bool = False): ...

    def action(self, scene, action: np.ndarray):
        if np.shape(action) != (7,):
            raise InvalidActionError(
                f"Expected the action shape to be: (7,), but was shape: {np.shape(action)}"
            )
        if not np.isclose(np.linalg.norm(action[3:]), 1.0):
            raise InvalidActionError("Action contained non unit quaternion!")
        low = TABLE - np.array([0.275 + 0.2, 0.455 + 0.2, 0.0])
        high = TABLE + np.array([0.275 + 0.2, 0.455 + 0.2, 1.0])
        if not ((action[:3] > low) & (action[:3] < high)).all():
            raise InvalidActionError("A path could not be found because the target is outside of workspace.")
        if fault("bare_path_error"):
            raise ConfigurationPathError("Could not create path.")
        if fault("simulator_error"):
            raise RuntimeError("The call failed on the V-REP side. Return value: -1")
        if np.linalg.norm(action[:3] - BASE - [0, 0, 0.333]) > REACH:
            raise InvalidActionError(
                "A path could not be found. Most likely due to the target being inaccessible\n"
                "or a collison was detected."
            )
        scene.move(action[:3], action[3:])
