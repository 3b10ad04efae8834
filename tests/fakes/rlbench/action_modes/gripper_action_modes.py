import numpy as np
from faults import log


class Discrete:
    def __init__(self, attach_grasped_objects: bool = True, detach_before_open: bool = True): ...

    def action(self, scene, action: np.ndarray):
        gripper, wanted = scene.robot.gripper, float(action[0] > 0.5)
        log(
            event="grip",
            to=wanted,
            tip=[round(float(v), 5) for v in scene.robot.arm.get_tip().get_position()],
        )
        if float(gripper.open > 0.9) == wanted:
            return
        gripper.open = wanted
        if wanted:
            gripper.release()
            for _ in range(10):
                scene.step()
        else:
            for thing in scene.task.get_graspable_objects():
                gripper.grasp(thing)
            scene.step()
