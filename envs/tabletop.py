"""A Franka Panda at a table with cubes, in MuJoCo: the embedded manipulation environment.

The Panda is the MJCF that the ``gymnasium-robotics`` wheel carries. One action is an absolute gripper
pose and a gripper bit, as RLBench's ``MoveArmThenGripper(EndEffectorPoseViaPlanning(), Discrete())``
takes it: the arm moves there in a straight line, then the fingers open or close. Cubes are held by
friction alone. Known traits of the asset that this file corrects: its actuators sag (gravity
compensation, higher gains), and its ``end_effector`` site sits 3 cm above the place where the fingers
grip (a site ``tip`` of our own).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.base import TaskEnv
from tasks import Task
from tasks.camera import Camera
from tasks.cube_return import CUBE_HALF, ZONE_HIGH, ZONE_LOW, CubeReturn

JOINTS = tuple(f"robot:panda0_joint{i}" for i in range(1, 8))
FINGERS = ("robot:panda0_finger_joint1", "robot:panda0_finger_joint2")
READY = np.array([0.0, -0.55, 0.0, -2.45, 0.0, 0.33, 0.785])
HOME_TIP = np.array([0.36, 0.0, 0.40])
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # xyzw: the gripper points down, the fingers open along y
TIP_OFFSET = 0.243  # m from link 7 to the middle of the finger pads
RGBA = {"red": "0.85 0.10 0.10 1", "green": "0.10 0.60 0.15 1", "blue": "0.10 0.20 0.85 1"}

CAMERA_DISTANCE, CAMERA_ELEVATION, METRES_PER_PIXEL_64 = 3.0, np.deg2rad(50), 0.0069
IK_STEP, TIP_SPEED, TIMESTEP, CONTROL_PERIOD = 0.03, 0.6, 0.004, 0.012  # m, m/s, s, s
REACHED, TURNED = 2e-3, 2e-2  # m, rad
BLOCKED = 0.01  # m from the target where the tip was held up; 57,600 actions of the expert: 2.6 mm at most
GAINS = [4000.0] * 4 + [800.0] * 3 + [2000.0] * 2  # arm, wrist (N·m/rad), fingers (N/m)
FORCES = [400.0] * 4 + [80.0] * 3 + [70.0] * 2  # N·m, N·m, N


class GraphicsError(RuntimeError):
    """No way to render without a display."""


def panda_folder() -> Path:
    """The folder of the Panda's MJCF inside gymnasium-robotics, found without importing it."""
    spec = importlib.util.find_spec("gymnasium_robotics")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    folder = package / "envs/assets/kitchen_franka/franka_assets"
    if not (folder / "chain.xml").is_file():
        raise FileNotFoundError("the Panda model is missing; pip install 'gymnasium-robotics>=1.4'")
    return folder


def front_camera(size: int) -> Camera:
    """The camera opposite the robot, framed on the cubes' zone at 6.9 mm a pixel (64 px)."""
    centre = np.array([*(ZONE_LOW + ZONE_HIGH) / 2, 0.03])
    back = np.array([np.cos(CAMERA_ELEVATION), 0.0, np.sin(CAMERA_ELEVATION)])
    right = np.array([0.0, 1.0, 0.0])
    rotation = np.column_stack([right, np.cross(back, right), back])
    fovy = 2 * np.rad2deg(np.arctan(METRES_PER_PIXEL_64 * 32 / CAMERA_DISTANCE))
    return Camera(centre + CAMERA_DISTANCE * back, rotation, float(fovy), size, size)


def scene_xml(task: CubeReturn, camera: Camera) -> str:
    """The MJCF of table, cubes, camera and Panda."""
    axes = " ".join(f"{v:.6f}" for v in np.concatenate([camera.rotation[:, 0], camera.rotation[:, 1]]))
    cubes = "".join(
        f'<body name="{name}"><freejoint name="{name}"/>'
        f'<geom type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" density="500"'
        f' rgba="{RGBA[name.split()[0]]}" friction="2 0.05 0.001" condim="6" solref="0.01 1" group="0"/>'
        "</body>"
        for name in task.vocabulary.objects
    )
    return f"""<mujoco model="tabletop">
      <include file="assets.xml"/>
      <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"
        noslip_iterations="5"/>
      <visual><global offwidth="512" offheight="512"/><quality offsamples="0" shadowsize="0"/>
        <headlight ambient="0.45 0.45 0.45" diffuse="0.5 0.5 0.5" specular="0 0 0"/></visual>
      <worldbody>
        <camera name="front" pos="{" ".join(map(str, camera.position))}" xyaxes="{axes}"
          fovy="{camera.fovy}"/>
        <geom name="table" type="box" size="0.6 0.8 0.02" pos="0.5 0 -0.02" rgba="0.82 0.76 0.66 1"
          friction="1 0.02 0.001"/>
        {cubes}
        <include file="chain.xml"/>
      </worldbody>
      <include file="actuator.xml"/>
    </mujoco>"""


def build_model(task: CubeReturn, camera: Camera):
    """Compile the scene with gravity compensation and gains that hold the arm where it is sent."""
    import mujoco

    panda = panda_folder()
    included = {name: (panda / name).read_bytes() for name in ("assets.xml", "chain.xml", "actuator.xml")}
    meshes = str(panda / "meshes").encode()
    included["assets.xml"] = included["assets.xml"].replace(b"franka_assets/meshes", meshes)
    spec = mujoco.MjSpec.from_string(scene_xml(task, camera), include=included)
    for body in spec.bodies:
        if body.name.startswith("panda0"):
            body.gravcomp = 1.0
    for actuator, gain, force in zip(spec.actuators, GAINS, FORCES, strict=True):
        actuator.gainprm[0], actuator.biasprm[1] = gain, -gain
        actuator.forcerange = [-force, force]
    link7 = spec.body("panda0_link7")
    link7.add_site(name="tip", pos=[0, 0, TIP_OFFSET], euler=[0, 0, -0.785398], size=[0.005] * 3)
    for geom in spec.geoms:
        if geom.name != "table" and geom.parent.name.startswith("panda0"):
            finger = "finger" in geom.parent.name
            geom.rgba = [0.15, 0.15, 0.17, 1.0] if finger else [0.93, 0.93, 0.95, 1.0]
    return spec.compile()


def open_renderer(model, size: int):
    """A mujoco.Renderer of ``size`` × ``size`` px on what :func:`load_mujoco` chose; or GraphicsError."""
    import mujoco

    try:
        return mujoco.Renderer(model, size, size)
    except Exception as error:  # OpenGL back ends raise whatever their loaders raise
        raise no_opengl(error) from None


class TabletopEnv(TaskEnv):
    """Panda, table and the cubes of ``cube_return``; actions and positions in the robot's base frame.

    Args:
        task: which cubes stand on the table and which layouts a seed means.
        image_size: side of the square frames, px. Frames are rendered at twice the side and averaged,
            so that an edge between two pixels shows.
    """

    camera: Camera
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium's own type)

    def __init__(self, task: Task | None = None, image_size: int = 64, render_mode: str | None = "rgb_array"):
        self.task = task or CubeReturn()
        if not isinstance(self.task, CubeReturn):
            raise ValueError(f"env=tabletop has cubes and a gripper; it can't host task={self.task.name}")
        mujoco = load_mujoco()
        self.name = f"tabletop (MuJoCo {mujoco.__version__})"
        self.render_mode = render_mode
        self.camera = front_camera(image_size)
        self.model = build_model(self.task, self.camera)
        self.data, self._scratch = mujoco.MjData(self.model), mujoco.MjData(self.model)
        self.names = (*self.task.vocabulary.objects, "gripper")
        self.action_space = self.action_box()
        self.observation_space = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self._arm = np.array([self.model.joint(j).qposadr[0] for j in JOINTS])
        self._arm_dof = np.array([self.model.joint(j).dofadr[0] for j in JOINTS])
        self._limits = np.array([self.model.joint(j).range for j in JOINTS])
        self._tip = self.model.site("tip").id
        self._renderer: Any = None
        self._ready: np.ndarray | None = None

    # --- gymnasium ---------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        import mujoco

        super().reset(seed=seed)
        layout = self.chosen_layout(seed, options)
        mujoco.mj_resetData(self.model, self.data)
        arm = self._ready_pose()
        self.data.qpos[self._arm] = arm
        for finger in FINGERS:
            self.data.joint(finger).qpos[0] = 0.04
        for name, start in zip(layout.names, layout.starts, strict=True):
            self.data.joint(name).qpos[:] = [*start, 1, 0, 0, 0]
        self.data.ctrl[:7], self.data.ctrl[7:] = arm, 0.04
        mujoco.mj_forward(self.model, self.data)
        self._run(0.1)
        return self.render(), {**self._info(), "layout": layout}

    def step(self, action):
        target = self.action_spec.validate(action)
        low, high = (
            np.array(bound[:3], np.float32) for bound in (self.action_spec.low, self.action_spec.high)
        )
        error = None
        if (target[:3] < low - 1e-6).any() or (target[:3] > high + 1e-6).any():
            where, box = target[:3].round(3).tolist(), f"{low.tolist()}..{high.tolist()}"
            error = f"OutOfWorkspaceError: {where} m is outside {box}"
        else:
            path = self._path(target[:3], target[3:7])
            if path is None:
                error = f"OutOfReachError: the arm can't take the pose {target[:7].round(3).tolist()}"
            else:
                self._follow(*path)
                self._grip(0.04 if target[7] > 0.5 else 0.0)
                error = self._blocked(target[:3])
        return self.render(), 0.0, False, False, self._info(error)

    def render(self) -> np.ndarray:
        import mujoco

        size = self.camera.height
        if self._renderer is None:
            self._renderer = open_renderer(self.model, 2 * size)
            self._option = mujoco.MjvOption()
            self._option.geomgroup[:] = [1, 0, 0, 1, 0, 0]
            nameless = np.array([self.model.geom(g).name == "" for g in range(self.model.ngeom)])
            shown = nameless & (self.model.geom_group == 0) & (self.model.geom_contype == 0)
            self.model.geom_group[shown] = 5  # hide: the collision meshes are 30 times quicker to draw
            for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_HAZE"):
                self._renderer.scene.flags[getattr(mujoco.mjtRndFlag, flag)] = 0
        self._renderer.update_scene(self.data, "front", self._option)
        large = self._renderer.render().reshape(size, 2, size, 2, 3)
        return (large.astype(np.uint16).sum((1, 3)) + 2 >> 2).astype(np.uint8)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # --- measuring ---------------------------------------------------------------------------

    def tip(self) -> np.ndarray:
        return self.data.site_xpos[self._tip].copy()

    def _info(self, error: str | None = None) -> dict[str, Any]:
        cubes = [self.data.body(n).xpos for n in self.task.vocabulary.objects]
        return {"positions": np.array([*cubes, self.tip()]), "names": self.names, "error": error}

    # --- moving ------------------------------------------------------------------------------

    def _blocked(self, position: np.ndarray) -> str | None:
        """Why the tip is not where it was sent, if it is not."""
        off = float(np.linalg.norm(self.tip() - position))
        if off <= BLOCKED:
            return None
        where = f"{position.round(3).tolist()} m"
        return f"BlockedError: the tip stopped {1000 * off:.0f} mm from {where}, something is in its way"

    def _run(self, seconds: float) -> None:
        import mujoco

        mujoco.mj_step(self.model, self.data, nstep=max(1, round(seconds / TIMESTEP)))

    def _ready_pose(self) -> np.ndarray:
        """The arm at reset: hand behind and above the zone, out of the picture's middle."""
        if self._ready is None:
            solved = self._solve(READY, HOME_TIP, DOWN)
            if solved is None:
                raise RuntimeError("the Panda can't take its ready pose; is the MJCF another one?")
            self._ready = solved
        return self._ready

    def _solve(self, arm: np.ndarray, position: np.ndarray, quat_xyzw: np.ndarray) -> np.ndarray | None:
        """Damped least squares from ``arm`` (7,) to a tip pose; None if it does not get there."""
        import mujoco

        data, model = self._scratch, self.model
        goal, now, rotation = np.roll(quat_xyzw, 1), np.empty(4), np.empty(3)
        jac = np.empty((6, model.nv))
        q = arm.copy()
        for _ in range(60):
            data.qpos[self._arm] = q
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mju_mat2Quat(now, data.site_xmat[self._tip])
            mujoco.mju_subQuat(rotation, goal, now)
            rotation[:] = data.site_xmat[self._tip].reshape(3, 3) @ rotation
            error = np.concatenate([position - data.site_xpos[self._tip], rotation])
            if np.linalg.norm(error[:3]) < 2e-4 and np.linalg.norm(error[3:]) < 2e-3:
                return q
            mujoco.mj_jacSite(model, data, jac[:3], jac[3:], self._tip)
            J = jac[:, self._arm_dof]
            inverse = J.T @ np.linalg.inv(J @ J.T + 1e-4 * np.eye(6))
            posture = 0.1 * (READY - q)  # in the null space: keeps the elbow up and off its limits
            q = q + np.clip(inverse @ (error - J @ posture) + posture, -0.3, 0.3)
            q = np.clip(q, self._limits[:, 0], self._limits[:, 1])
        close = np.linalg.norm(error[:3]) < REACHED and np.linalg.norm(error[3:]) < TURNED
        return q if close else None

    def _path(self, position: np.ndarray, quat_xyzw: np.ndarray) -> tuple[list[np.ndarray], float] | None:
        """Joint targets every 3 cm of the straight line to a pose, and the line's length, m."""
        import mujoco

        start = self.tip()
        length = float(np.linalg.norm(position - start))
        count = max(1, int(np.ceil(length / IK_STEP)))
        first, turn = np.empty(4), np.empty(3)
        mujoco.mju_mat2Quat(first, self.data.site_xmat[self._tip])
        mujoco.mju_subQuat(turn, np.roll(quat_xyzw, 1), first)
        q, path = self.data.ctrl[:7].copy(), []
        for k in range(1, count + 1):
            quat = first.copy()
            mujoco.mju_quatIntegrate(quat, turn, k / count)
            solved = self._solve(q, start + (position - start) * k / count, np.roll(quat, -1))
            if solved is None:
                return None
            q = solved
            path.append(q)
        return path, length

    def _follow(self, path: list[np.ndarray], length: float) -> None:
        """Send the joints along the path with a smooth start and stop, then wait until they are there."""
        knots = np.array([self.data.ctrl[:7], *path])
        steps = max(10, int(length / TIP_SPEED / CONTROL_PERIOD))
        for s in np.linspace(0.0, 1.0, steps + 1)[1:]:
            at = (3 - 2 * s) * s**2 * len(path)
            k = min(int(at), len(path) - 1)
            self.data.ctrl[:7] = knots[k] + (at - k) * (knots[k + 1] - knots[k])
            self._run(CONTROL_PERIOD)
        for _ in range(20):
            self._run(0.02)
            late = np.abs(self.data.qpos[self._arm] - path[-1]).max()
            if late < 1e-3 and np.abs(self.data.qvel[self._arm_dof]).max() < 2e-2:
                break

    def _grip(self, opening: float) -> None:
        """Open to 0.04 m a finger or close, then let everything settle."""
        changed = abs(self.data.ctrl[7] - opening) > 1e-6
        self.data.ctrl[7:] = opening
        self._run(0.3 if changed else 0.02)


# --- OpenGL ----------------------------------------------------------------------------------

EGL_PLATFORM_DEVICE_EXT = 0x313F  # of the extension EGL_EXT_platform_device
MOST_DEVICES = 16


def no_opengl(cause: object) -> GraphicsError:
    """The error that names what to install."""
    return GraphicsError(
        f"no OpenGL for rendering without a display (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {cause}); "
        "on Debian/Ubuntu: apt-get install libegl1 libgl1 libgles2 (EGL) or libosmesa6 (OSMesa)"
    )


def load_mujoco():
    """Import mujoco on the OpenGL of :func:`choose_gl`; one imported before is bound to it anew."""
    late = "mujoco" in sys.modules and "MUJOCO_GL" not in os.environ
    choose_gl()
    try:
        import mujoco

        if late:
            importlib.reload(sys.modules[mujoco.Renderer.__module__].gl_context)
    except ModuleNotFoundError as error:
        raise GraphicsError(f"{error}; pip install 'mujoco>=3.3'") from None
    except (AttributeError, ImportError, OSError, RuntimeError) as error:  # from its OpenGL loaders
        raise no_opengl(error) from None
    return mujoco


def choose_gl() -> None:
    """Pick EGL, else OSMesa, else the display, unless ``MUJOCO_GL`` did; other systems have their own.

    A ``PYOPENGL_PLATFORM`` that asks for one of the first two leaves MuJoCo no other, so it is taken.

    Raises:
        GraphicsError: there is none.
    """
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return
    asked = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if asked in ("egl", "osmesa"):
        os.environ["MUJOCO_GL"] = asked
    elif egl_devices():
        os.environ["MUJOCO_GL"] = "egl"
    elif find_library("OSMesa"):
        os.environ["MUJOCO_GL"] = "osmesa"
    elif not os.environ.get("DISPLAY"):
        raise no_opengl("neither an EGL with a device nor an OSMesa was found")


def egl_devices() -> int:
    """How many of EGL's devices can be drawn on: 0 without libEGL, or with no driver that starts."""
    library = find_library("EGL")
    if not library:
        return 0
    try:
        egl = ctypes.CDLL(library)
    except OSError:
        return 0
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    query, display = (egl.eglGetProcAddress(n) for n in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display:
        return 0
    listed = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)
    shown = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display)
    found, count = (pointer * MOST_DEVICES)(), ctypes.c_int(0)
    if not listed(MOST_DEVICES, found, ctypes.byref(count)):
        return 0
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    screens = [shown(EGL_PLATFORM_DEVICE_EXT, device, None) for device in found[: count.value]]
    return sum(bool(screen and egl.eglInitialize(screen, None, None)) for screen in screens)
