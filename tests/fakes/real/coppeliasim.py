"""A stand-in for CoppeliaSim's library alone, below PyRep's and RLBench's real Python.

It stands where PyRep's build puts ``pyrep/backend/_sim_cffi``: ``ffi`` and ``lib``. Every call goes through a C
function pointer with the signature that PyRep's own ``cffi_build.py`` declares, so cffi checks name, number and
C types of the arguments as it does for the compiled library. Behind it is a scene of a few boxes and an arm
whose seven "joints" are the tip's place, its rotation vector and nothing: no physics but things that fall.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from cffi import FFI
from scipy.spatial.transform import Rotation

SHAPE, JOINT, DUMMY, PROXIMITY, VISION, FORCE = 0, 1, 4, 5, 9, 12
EVERYTHING, NO_MODEL, STATIC, SPEED_LIMIT, ANGLE = -2, 0xF000, 3003, 2017, 1004
TABLE, BASE, REACH, TICK = np.array([0.25, 0.0, 0.752]), np.array([-0.309, 0.0, 0.82]), 0.95, 0.05
SHOULDER = BASE + np.array([0.0, 0.0, 0.333])
MODELS = {  # what some .ttm files hold: kind, name, place above the table's centre, size
    "reach_target": [
        (SHAPE, "target", (0.0, 0.0, 0.2), 0.05),
        (SHAPE, "distractor0", (0.0, 0.1, 0.2), 0.05),
        (SHAPE, "distractor1", (0.0, -0.1, 0.2), 0.05),
        (PROXIMITY, "success", (0.0, 0.0, 0.2), 0.05),
        (DUMMY, "waypoint0", (0.0, 0.0, 0.2), 0.0),
        (SHAPE, "boundary", (0.0, 0.0, 0.3), 0.3),
    ],
    "beat_the_buzz": [
        (SHAPE, "wand", (0.0, 0.0, 0.2), 0.03),
        (PROXIMITY, "middle_sensor", (0.0, 0.0, 0.2), 0.05),
        (PROXIMITY, "right_sensor", (0.0, 0.2, 0.2), 0.05),
    ],
    "stack_blocks": [
        *((SHAPE, f"stack_blocks_target{i}", (-0.1, 0.2 * i - 0.3, 0.025), 0.05) for i in range(4)),
        *((SHAPE, f"stack_blocks_distractor{i}", (0.1, 0.2 * i - 0.3, 0.025), 0.05) for i in range(4)),
        (DUMMY, "waypoint0", (1.2, 0.0, 0.2), 0.0),  # beyond the arm, as a file's may be from where it lies
    ],
}


class Thing:
    """One object; ``pose`` is (4, 4) in the world."""

    def __init__(self, kind: int, name: str, place=(0.0, 0.0, 0.0), size=0.0, parent: int = -1):
        self.kind, self.name, self.parent = kind, name, parent
        self.size, self.pose, self.model = np.broadcast_to(size, 3).astype(float), np.eye(4), NO_MODEL
        self.pose[:3, 3] = place
        self.at = self.target = self.speed = 0.0  # a joint's
        self.floats, self.ints = {SPEED_LIMIT: 3.0, ANGLE: 0.7, 2012: 0.0, 1000: 0.01, 1001: 3.5}, {STATIC: 1}


def written(pointer, values) -> int:
    for i, value in enumerate(values):
        pointer[i] = float(value)
    return 1


class Scene:
    """The C functions that are called, by their names; a failure is -1 or null, as theirs."""

    def __init__(self, ffi: FFI):
        self.ffi, self.things, self.last, self.running = ffi, {}, 0, False
        self.kept, self.saved, self.motions = [], {}, {}
        self.ready = False

    # --- parts ---

    def add(self, *values) -> int:
        thing = Thing(*values)
        stem, n = thing.name, 0
        while self.named(thing.name) >= 0:
            thing.name, n = f"{stem}{n}", n + 1
        self.last += 1
        self.things[self.last] = thing
        return self.last

    def named(self, name: str) -> int:
        return next((handle for handle, thing in self.things.items() if thing.name == name), -1)

    def tree(self, handle: int) -> list[int]:
        return [
            handle,
            *(h for c, t in list(self.things.items()) if t.parent == handle for h in self.tree(c)),
        ]

    def place(self, handle: int, pose: np.ndarray) -> int:
        move = pose @ np.linalg.inv(self.things[handle].pose)
        for below in self.tree(handle):
            self.things[below].pose = move @ self.things[below].pose
        return 1

    def frame(self, relative: int) -> np.ndarray:
        return np.eye(4) if relative == -1 else self.things[relative].pose

    def seen(self, handle: int, relative: int) -> np.ndarray:
        return np.linalg.inv(self.frame(relative)) @ self.things[handle].pose

    def turn(self, handle: int, relative: int, rotation: Rotation) -> int:
        pose = self.seen(handle, relative)
        pose[:3, :3] = rotation.as_matrix()
        return self.place(handle, self.frame(relative) @ pose)

    def kept_alive(self, ctype: str, values):
        self.kept = [*self.kept[-200:], self.ffi.new(ctype, values)]
        return self.kept[-1]

    @property
    def joints(self) -> list[Thing]:
        return [self.things[self.named(f"Panda_joint{i}")] for i in range(1, 8)]

    def follow(self) -> None:
        """Bring the tip to where the joints are."""
        pose, at = np.eye(4), [joint.at for joint in self.joints]
        pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(at[3:6]).as_matrix(), at[:3]
        self.place(self.named("Panda_tip"), pose)

    def solution(self) -> np.ndarray | None:
        """The joints that bring the tip to the target, or None out of reach."""
        pose = self.things[self.named("Panda_target")].pose
        turn, now = Rotation.from_matrix(pose[:3, :3]).as_rotvec(), [joint.at for joint in self.joints]
        other = turn * (1 - 2 * np.pi / max(np.linalg.norm(turn), 1e-9))  # the same rotation
        turn = min(turn, other, key=lambda t: np.linalg.norm(t - now[3:6]))
        return np.r_[pose[:3, 3], turn, 0.0] if np.linalg.norm(pose[:3, 3] - SHOULDER) < REACH else None

    # --- the application ---

    def simExtLaunchUIThread(self, name, options, scene, root):
        self.add(SHAPE, "workspace", TABLE, (0.55, 0.91, 0.0))
        panda = self.add(SHAPE, "Panda", BASE)
        for i, at in enumerate([0.2785, -0.0082, 1.472, 0.0, 3.0, 0.0, 0.0]):
            joint = self.things[self.add(JOINT, f"Panda_joint{i + 1}", BASE, 0.0, panda)]
            joint.at = joint.target = at
        tip, _ = (self.add(DUMMY, f"Panda_{name}", BASE, 0.0, panda) for name in ("tip", "target"))
        gripper = self.add(SHAPE, "Panda_gripper", BASE, 0.0, tip)
        for i in (1, 2):
            self.things[self.add(JOINT, f"Panda_gripper_joint{i}", BASE, 0.0, gripper)].at = 0.04
        self.add(PROXIMITY, "Panda_gripper_attachProxSensor", BASE, 0.04, gripper)
        self.add(FORCE, "Panda_gripper_attachPoint", BASE, 0.0, gripper)
        for camera in ("over_shoulder_left", "over_shoulder_right", "overhead", "wrist", "front"):
            for kind in ("", "_mask"):
                self.add(VISION, f"cam_{camera}{kind}", (1.3, 0.0, 1.6))
        self.follow()
        self.ready = True
        return 1

    def simExtCanInitSimThread(self):
        return int(self.ready)

    def simStartSimulation(self):
        self.running = True
        return 1

    def simGetSimulationTimeStep(self):
        return TICK

    def simExtStep(self, run):
        if not (self.running and run):
            return 1
        for joint in self.joints:
            joint.at = joint.target
        self.follow()
        for i in (1, 2):
            finger = self.things[self.named(f"Panda_gripper_joint{i}")]
            finger.at = float(np.clip(finger.at + finger.speed * TICK, 0.0, 0.04))
        held = self.tree(self.named("Panda_gripper_attachPoint"))
        for handle, thing in self.things.items():
            if thing.kind == SHAPE and not thing.ints[STATIC] and handle not in held:
                pose = thing.pose.copy()
                pose[2, 3] = max(TABLE[2] + thing.size[2] / 2, pose[2, 3] - 0.1)
                self.place(handle, pose)
        return 1

    # --- objects ---

    def simGetObjectHandle(self, name):
        return self.named(self.ffi.string(name).decode())

    simGetIkGroupHandle = simGetCollectionHandle = lambda self, name: 1

    def simGetObjectType(self, h):
        return self.things[h].kind if h in self.things else -1

    def simGetObjectName(self, h):
        return self.kept_alive("char[]", self.things[h].name.encode()) if h in self.things else self.ffi.NULL

    def simSetObjectName(self, h, name):
        name = self.ffi.string(name).decode()
        if self.named(name) not in (-1, h):
            return -1
        self.things[h].name = name
        return 1

    def simGetObjectParent(self, h):
        return self.things[h].parent

    def simSetObjectParent(self, h, parent, keep):
        self.things[h].parent = parent
        return 1

    def simGetObjectsInTree(self, base, kind, options, count):
        found = [*self.things] if base < 0 else self.tree(base)[options & 1 :]
        found = [h for h in found if kind in (EVERYTHING, self.things[h].kind)]
        count[0] = len(found)
        return self.kept_alive("int[]", found or 1)

    def simRemoveObject(self, h):
        return 1 if self.things.pop(h, None) else -1

    def simRemoveModel(self, h):
        if h not in self.things:
            return -1
        return len([self.things.pop(below) for below in self.tree(h)])

    def simGetModelProperty(self, h):
        return self.things[h].model

    def simSetModelProperty(self, h, value):
        self.things[h].model = value
        return 1

    def simGetObjectPosition(self, h, r, out):
        return written(out, self.seen(h, r)[:3, 3])

    def simGetObjectQuaternion(self, h, r, out):
        return written(out, Rotation.from_matrix(self.seen(h, r)[:3, :3]).as_quat())

    def simGetObjectOrientation(self, h, r, out):
        return written(out, Rotation.from_matrix(self.seen(h, r)[:3, :3]).as_euler("XYZ"))

    def simGetObjectMatrix(self, h, r, out):
        return written(out, self.seen(h, r)[:3].reshape(-1))

    def simSetObjectPosition(self, h, r, to):
        pose = self.seen(h, r)
        pose[:3, 3] = list(to[0:3])
        return self.place(h, self.frame(r) @ pose)

    def simSetObjectQuaternion(self, h, r, to):
        return self.turn(h, r, Rotation.from_quat(list(to[0:4])))

    def simSetObjectOrientation(self, h, r, to):
        return self.turn(h, r, Rotation.from_euler("XYZ", list(to[0:3])))

    def simSetObjectMatrix(self, h, r, to):
        return self.place(h, self.frame(r) @ np.vstack([np.reshape(list(to[0:12]), (3, 4)), [0, 0, 0, 1]]))

    def simGetObjectFloatParameter(self, h, which, out):
        thing = self.things[h]
        sides = [(-1, 1)[i > 2] * thing.size[i % 3] / 2 for i in range(6)]  # min x y z, max x y z
        box = {first + i: side for first in (15, 21) for i, side in enumerate(sides)}  # its own, its model's
        return written(out, [{**thing.floats, **box}[which]])

    def simSetObjectFloatParameter(self, h, which, value):
        self.things[h].floats[which] = value
        return 1

    def simGetObjectInt32Parameter(self, h, which, out):
        out[0] = self.things[h].ints.get(which, 0)
        return 1

    def simSetObjectInt32Parameter(self, h, which, value):
        self.things[h].ints[which] = value
        return 1

    def simGetExtensionString(self, h, index, key):
        return self.ffi.NULL

    def simGetConfigurationTree(self, h):
        name = f"tree{len(self.saved)}".encode()
        kept = {b: (self.things[b].pose, self.things[b].at, self.things[b].target) for b in self.tree(h)}
        self.saved[name] = kept, self.ffi.new("char[]", name)
        return self.saved[name][1]

    def simSetConfigurationTree(self, data):
        for handle, kept in self.saved[self.ffi.string(data)][0].items():
            if handle in self.things:
                thing = self.things[handle]
                thing.pose, thing.at, thing.target = kept[0].copy(), kept[1], kept[2]
        return 1

    def simCreateDummy(self, size, color):
        return self.add(DUMMY, "Dummy")

    def simCreatePureShape(self, kind, options, sizes, mass, precision):
        handle = self.add(SHAPE, "Cuboid", (0, 0, 0), list(sizes[0:3]))
        self.things[handle].ints[STATIC] = int(bool(options & 16))
        return handle

    def simLoadModel(self, path):
        name = Path(self.ffi.string(path).decode()).stem
        base = self.add(DUMMY, name, TABLE)
        self.things[base].model = 0
        for kind, part, place, size in MODELS[name]:
            handle = self.add(kind, part, TABLE + place, size, base)
            self.things[handle].ints[STATIC] = int("stack_blocks" not in part)
        return base

    # --- joints and paths ---

    def simGetJointPosition(self, h, out):
        return written(out, [self.things[h].at])

    def simSetJointPosition(self, h, value):
        self.things[h].at = value
        self.follow()
        return 1

    def simSetJointTargetPosition(self, h, value):
        self.things[h].target = value
        return 1

    def simSetJointTargetVelocity(self, h, value):
        self.things[h].speed = value
        return 1

    def simGetJointInterval(self, h, cyclic, out):
        return written(out, (0.0, 0.04) if "gripper" in self.things[h].name else (-6.0, 12.0))

    def simGenerateIkPath(self, group, n, joints, points, pairs, collisions, options, reserved):
        goal, now = self.solution(), np.array([joint.at for joint in self.joints])
        if goal is None:
            return self.ffi.NULL
        return self.kept_alive("float[]", np.linspace(now, goal, points).reshape(-1).tolist())

    def simGetConfigForTipPose(self, *arguments):
        return 0  # out of reach, for within it a straight path was found

    def simRMLPos(self, dofs, step, flags, now, limits, selection, target, data):
        self.motions[len(self.motions) + 1] = [0.0, target[0], limits[0]]
        return len(self.motions)

    def simRMLStep(self, handle, step, out, data, reserved):
        motion = self.motions[handle]
        motion[0] = min(motion[1], motion[0] + 3 * motion[2] * step)
        written(out, (motion[0], motion[2], 0.0))
        return int(motion[0] >= motion[1])

    # --- sensors ---

    def simCheckProximitySensor(self, sensor, h, out):
        gap = self.things[h].pose[:3, 3] - self.things[sensor].pose[:3, 3]
        return int((np.abs(gap) < 0.03).all())

    def simCheckCollision(self, one, other):
        return 0

    def simGetVisionSensorResolution(self, h, out):
        out[0], out[1] = self.things[h].ints.get(1002, 128), self.things[h].ints.get(1003, 128)
        return 1

    def simGetExplicitHandling(self, h):
        return 1

    def simHandleVisionSensor(self, h, values, counts):
        values[0], counts[0] = self.kept_alive("float[]", 1), self.kept_alive("int[]", 1)
        return 0

    def simGetVisionSensorImage(self, h):
        """The higher in the picture, the brighter; its last row comes first."""
        width, height = (self.things[h].ints[which] for which in (1002, 1003))
        picture = np.broadcast_to(np.linspace(0, 1, height)[:, None, None], (height, width, 3))
        return self.kept_alive("float[]", picture.reshape(-1).tolist())


class Library:
    """The compiled module's ``lib``: what PyRep declares, and nothing else."""

    def __init__(self, ffi: FFI, declared: dict[str, str]):
        self.ffi, self.declared, self.scene, self.errors = ffi, declared, Scene(ffi), []

    def __getattr__(self, name: str):
        if name not in self.declared:
            raise AttributeError(f"PyRep declares no {name}")
        does = getattr(self.scene, name, None) or (lambda *arguments: 1)  # what has nothing to do here
        kind = self.ffi.typeof(self.declared[name])
        if kind.result.kind == "void":
            does = lambda *arguments, do=does: do(*arguments) and None  # noqa: E731
        pointer = self.ffi.callback(kind, does, onerror=lambda *error: self.errors.append(error[1]) or None)

        def call(*arguments):
            given = pointer(*arguments)
            if self.errors:
                raise self.errors.pop()
            return given

        setattr(self, name, call)
        return call


def declarations(path: Path) -> tuple[str, dict[str, str]]:
    """The typedefs of PyRep's ``cffi_build.py``, and the type of each function's pointer by name."""
    [text] = re.findall(r'cdef\("""(.*?)"""\)', path.read_text(), re.S)
    functions = re.findall(r"^([\w* ]+?)\b(sim\w+)\(([^()]*)\);", text, re.M)
    types = "\n".join(re.findall(r"^typedef [\w ]+;", text, re.M))
    return types, {name: f"{result.strip()}(*)({arguments})" for result, name, arguments in functions}


ffi = FFI()
_types, _functions = declarations(Path(os.environ["PYREP_SRC"], "cffi_build", "cffi_build.py"))
ffi.cdef(_types)
lib = Library(ffi, _functions)
