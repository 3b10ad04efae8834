"""A walk through a Doom map, in ViZDoom: the embedded navigation environment.

The engine renders in software and needs no display. Actions are Minecraft's keys and camera, as MineRL takes
them. One step lasts seven of the engine's tics (0.2 s): the camera turns at once, then the agent walks the
task's stride and stands still again; Doom's own walking glides for blocks after a key is let go, so that a
frame would not show what was pressed. Things to pick up, and whatever else stands on the map, are taken away:
a place looks the same when it is seen again.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import tempfile
from contextlib import chdir, contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.base import EpisodeLostError, TaskEnv
from envs.doom_map import BODY, UNITS_PER_BLOCK, read_floor_plan
from tasks import Task
from tasks.path_retrace import AGENT, PathRetrace

WADS = {"my_way_home": ("my_way_home.wad", "MAP01"), "cig_arena": ("cig.wad", "MAP02")}
TICS = 7  # per step, of the engine's 35 a second
LOOK = 4  # the tic after which the velocity is read, and the walk ends as it allows
SETTLE = 12  # tics after a reset until the engine listens and the lights are up
FRICTION = 0.90625  # what is left of a velocity after one tic
THRUST_STEPS, MAX_THRUST = 32, 127  # a delta of 32 adds one map unit a tic; the engine takes 127 at most
SPEEDS = {"sprint": 1.3, "sneak": 0.3}  # of the stride, as in Minecraft
BLOCKED = 0.9  # a step that gets less far than this share was stopped
PROFILE = np.sin(np.pi * np.arange(1, TICS + 1) / TICS)
PROFILE /= PROFILE.sum()  # share of a step's length that each tic walks; nothing in the last
SIZES = {120: "RES_160X120", 240: "RES_320X240", 480: "RES_640X480"}  # rows: what the engine renders


class DoomError(RuntimeError):
    """ViZDoom or a file of its own is missing, or does not do as told; says what to do."""


def load_vizdoom():
    """Import vizdoom; DoomError if it is not there."""
    try:
        import vizdoom
    except ImportError as error:
        raise DoomError(
            f"env=doom needs ViZDoom ({error}); pip install 'vizdoom>=1.3' (task=cube_return runs without it)"
        ) from None
    return vizdoom


def wad_of(map_name: str, given: str | None) -> tuple[Path, str]:
    """The WAD of a map, and the map's name in it; ``given`` is a file, ``:MAP02`` may follow its name.

    Raises:
        DoomError: there is no such file, or no WAD is known for the map.
    """
    if given:
        file, _, lump = str(given).partition(":")
        path, lump = Path(file), lump or "MAP01"
    elif map_name in WADS:
        spec = importlib.util.find_spec("vizdoom")
        folder = Path(spec.origin).parent if spec and spec.origin else Path("vizdoom")
        path, lump = folder / "scenarios" / WADS[map_name][0], WADS[map_name][1]
    else:
        raise DoomError(
            f"map={map_name}: ViZDoom ships none; give its file, env.wad=FILE.wad or FILE.wad:MAP02"
        )
    if not path.is_file():
        raise DoomError(
            f"the WAD {path} of map={map_name} is missing; install vizdoom anew, or give env.wad=FILE"
        )
    return path.resolve(), lump


class DoomEnv(TaskEnv):
    """An agent in a Doom map; positions are its pose: x, y (blocks) and yaw (degrees, unwrapped).

    ``info["map_units"]`` is x, y as the map has them, 32 to a block.
    A walk that a wall stops ends where it was stopped, and ``info["error"]`` says so. ``jump`` and ``attack``
    do nothing on these maps.

    Args:
        task: which map, and which layouts a seed means.
        image_size: side of the square frames, px. The engine renders the smallest 4 : 3 picture with that
            many rows (field of view 90° × 74°), of which the middle square (74° × 74°) is averaged down.
        wad: file of the map; None takes the one that ViZDoom ships.
    """

    task: PathRetrace
    metadata = {"render_modes": ["rgb_array"], "render_fps": 35 // TICS}  # noqa: RUF012 (gymnasium's own type)

    def __init__(
        self,
        task: Task | None = None,
        image_size: int = 64,
        wad: str | None = None,
        render_mode: str | None = "rgb_array",
    ):
        if task is not None and not isinstance(task, PathRetrace):
            raise ValueError(f"env=doom has paths to walk; it can't host task={task.name}")
        self.task = task or PathRetrace()
        if not 1 <= image_size <= max(SIZES):
            raise ValueError(f"image_size={image_size}: expected 1 to {max(SIZES)} px")
        self.viz = load_vizdoom()
        self.name = f"doom (ViZDoom {self.viz.__version__}, {self.task.map})"
        self.names, self.render_mode = (AGENT,), render_mode
        self._wad, self._lump = wad_of(self.task.map, wad)
        self._check_map()
        self.walls = self.task.floor_plan.lines
        self._rows = min(rows for rows in SIZES if rows >= image_size)
        self._average = box_weights(self._rows, image_size)
        self.action_space = self.action_box()
        self.observation_space = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self._keys = {name: i for i, name in enumerate(self.action_spec.names)}
        self._game: Any = None
        self._stop: Any = None
        self._yaw = 0.0
        self._things: tuple[str, ...] = ()

    # --- gymnasium ---------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        layout = self.chosen_layout(seed, options)
        self.task.check_path(layout, BODY / UNITS_PER_BLOCK)
        x, y, yaw = layout.start(AGENT)
        with self._engine() as game:
            game.set_seed(layout.seed % 2**31)
            game.new_episode()
            for name in self._things:
                game.send_game_command(f"remove {name}")
            game.send_game_command(f"warp {x * UNITS_PER_BLOCK:.4f} {y * UNITS_PER_BLOCK:.4f}")
            for _ in range(SETTLE):
                self._tic()
            self._yaw = self._read_yaw()
            self._tic(yaw=float(_wrap(yaw - self._yaw)), show=True)
        self._yaw = float(yaw) + float(_wrap(self._read_yaw() - yaw))
        info = self._info()
        off = np.linalg.norm(info["positions"][0, :2] - (x, y))
        if off > 0.01:
            raise EpisodeLostError(
                f"the engine put the agent {off:.3f} blocks beside the start of seed {layout.seed}"
            )
        return self.render(), {**info, "layout": layout}

    def step(self, action):
        if self._game is None:
            raise RuntimeError("step() before reset()")
        values = self.action_spec.validate(action)
        camera = values[self.action_spec.indices("degrees")]
        limit = max(self.action_spec.high)
        if (np.abs(camera) > limit + 1e-6).any():
            error = (
                f"CameraError: a turn of {camera.round(1).tolist()} degrees in one frame, at most {limit:g}"
            )
            return self.render(), 0.0, False, False, self._info(error)
        pressed = {name for name, i in self._keys.items() if values[i] > 0.5}
        before = self._info()["positions"][0, :2]
        with self._engine():
            told = self._move(pressed, *camera.tolist())
        self._yaw += float(_wrap(self._read_yaw() - self._yaw))
        info = self._info()
        walked = float(np.linalg.norm(info["positions"][0, :2] - before))
        if walked < BLOCKED * told:
            info["error"] = f"BlockedError: a wall ended the step after {walked:.2f} of {told:.2f} blocks"
        return self.render(), 0.0, False, False, info

    def render(self) -> np.ndarray:
        if self._game is None:
            raise RuntimeError("render() before reset()")
        state = self._game.get_state()
        if state is None:
            raise EpisodeLostError(
                f"the map {self.task.map} ended the game; its exits must stay out of reach"
            )
        side = (state.screen_buffer.shape[1] - self._rows) // 2
        square = state.screen_buffer[:, side : side + self._rows].astype(np.float32)
        down = np.tensordot(self._average, square, 1)
        return np.rint(np.einsum("xw,ywc->yxc", self._average, down, optimize=True)).astype(np.uint8)

    def close(self) -> None:
        if self._game is not None:
            self._stop()
            self._game = None

    # --- measuring ---------------------------------------------------------------------------

    def _variable(self, name: str) -> float:
        return float(self._game.get_game_variable(getattr(self.viz.GameVariable, name)))

    def _read_yaw(self) -> float:
        """Doom's angle runs counterclockwise from east; ours clockwise from north."""
        return 90.0 - self._variable("ANGLE")

    def _info(self, error: str | None = None) -> dict[str, Any]:
        units = np.array([self._variable(f"POSITION_{axis}") for axis in "XY"])
        info = {"positions": np.array([[*units / UNITS_PER_BLOCK, self._yaw]]), "map_units": units}
        return {**info, "names": self.names, "error": error}

    # --- moving ------------------------------------------------------------------------------

    def _move(self, pressed: set[str], pitch: float, yaw: float) -> float:
        """Turn, then walk one stride and stand still; returns the length asked for, blocks.

        Thrusts follow a bell over the tics. After ``LOOK`` of them the true velocity is read, and what is
        left of the bell shrinks with it, so that nobody bounces off a wall.
        """
        ahead = ("forward" in pressed) - ("back" in pressed)
        aside = ("right" in pressed) - ("left" in pressed)
        way = np.array([ahead, aside], float)
        speed = SPEEDS["sneak"] if "sneak" in pressed else SPEEDS["sprint"] if "sprint" in pressed else 1.0
        length = self.task.stride * speed if way.any() else 0.0
        way /= max(np.linalg.norm(way), 1.0)
        velocity, scale = np.zeros(2), 1.0
        for tic in range(TICS):
            target = way * length * UNITS_PER_BLOCK * PROFILE[tic] * scale
            delta = np.clip(np.rint((target - velocity) * THRUST_STEPS), -MAX_THRUST, MAX_THRUST)
            down, right = (pitch, yaw) if tic == 0 else (0.0, 0.0)
            self._tic(float(delta[0]), float(delta[1]), down, right, show=tic in (LOOK - 1, TICS - 1))
            velocity = FRICTION * (velocity + delta / THRUST_STEPS)
            if tic == LOOK - 1:
                planned, velocity = float(velocity @ way), self._velocity()
                scale = float(np.clip(velocity @ way / planned, 0.0, 1.0)) if planned else 0.0
        return length

    def _velocity(self) -> np.ndarray:
        """``(2,)`` map units a tic, ahead and to the right."""
        angle = np.deg2rad(self._variable("ANGLE"))
        east, north = self._variable("VELOCITY_X"), self._variable("VELOCITY_Y")
        c, s = np.cos(angle), np.sin(angle)
        return np.array([east * c + north * s, east * s - north * c])

    def _tic(self, ahead=0.0, aside=0.0, pitch=0.0, yaw=0.0, show: bool = False) -> None:
        self._game.set_action([ahead, aside, -pitch, yaw])  # its positive pitch is up
        self._game.advance_action(1, show)

    # --- the engine --------------------------------------------------------------------------

    def _check_map(self) -> None:
        """The task's floor plan and the WAD must show the same walls."""
        there, plan = read_floor_plan(self.task.map, self._wad, self._lump), self.task.floor_plan
        if not (np.array_equal(there.walls, plan.walls) and np.array_equal(there.ledges, plan.ledges)):
            raise DoomError(
                f"{self._wad}:{self._lump} is not the map that tasks/maps/{self.task.map}.json describes; "
                "give the right env.wad, or write its plan (see envs/doom_map.py)"
            )

    @contextmanager
    def _engine(self):
        """The running engine, started at first use; its failures become ours."""
        viz = self.viz
        try:
            if self._game is None:
                self._start()
            yield self._game
        except viz.SignalException as signal:
            self.close()
            raise KeyboardInterrupt(str(signal)) from None
        except (viz.ViZDoomUnexpectedExitException, viz.ViZDoomIsNotRunningException) as error:
            self.close()
            raise EpisodeLostError(
                f"ViZDoom ended by itself ({error}); the next reset starts it again"
            ) from None
        except (viz.FileDoesNotExistException, viz.ViZDoomErrorException) as error:
            self.close()
            raise DoomError(f"ViZDoom can't play {self._wad}:{self._lump} ({error})") from None

    def _start(self) -> None:
        viz, game = self.viz, self.viz.DoomGame()
        game.set_doom_game_path(str(Path(viz.__file__).parent / "freedoom2.wad"))
        game.set_doom_scenario_path(str(self._wad))
        game.set_doom_map(self._lump.lower())
        folder = tempfile.mkdtemp(prefix="doom-")  # the engine keeps files of its own where it starts
        game.set_doom_config_path(str(Path(folder) / "vizdoom.ini"))
        engine = Path(viz.__file__).parent / "vizdoom"
        if engine.is_file() and shutil.which(
            "setpriv"
        ):  # Linux: it must not outlive a Python that was killed
            leash = Path(folder) / "vizdoom.sh"
            leash.write_text(f'#!/bin/sh\nexec setpriv --pdeathsig KILL {shlex.quote(str(engine))} "$@"\n')
            leash.chmod(0o700)
            game.set_vizdoom_path(str(leash))
        game.set_screen_resolution(getattr(viz.ScreenResolution, SIZES[self._rows]))
        game.set_screen_format(viz.ScreenFormat.RGB24)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "screen_flashes"):
            getattr(game, f"set_render_{part}")(False)
        moves = ("MOVE_FORWARD_BACKWARD", "MOVE_LEFT_RIGHT", "LOOK_UP_DOWN", "TURN_LEFT_RIGHT")
        game.set_available_buttons([getattr(viz.Button, f"{move}_DELTA") for move in moves])
        read = ("POSITION_X", "POSITION_Y", "ANGLE", "VELOCITY_X", "VELOCITY_Y")
        game.set_available_game_variables([getattr(viz.GameVariable, name) for name in read])
        game.set_mode(viz.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_objects_info_enabled(True)
        game.add_game_args("+sv_cheats 1 -nomonsters")
        self._stop = Finalize(self, _shut_down, (game, folder), exitpriority=1)  # a worker's end included
        with chdir(folder):
            game.init()
        self._game = game
        game.send_game_command(f"turbo {MAX_THRUST * 2}")
        self._things = tuple(sorted({thing.name for thing in game.get_state().objects} - {"DoomPlayer"}))


def _shut_down(game: Any, folder: str) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)


def _wrap(degrees: float) -> float:
    """To −180 … 180."""
    return (degrees + 180.0) % 360.0 - 180.0


def box_weights(rows: int, size: int) -> np.ndarray:
    """``(size, rows)`` float32: the share of each of ``rows`` pixels in each of ``size`` larger ones."""
    edges = np.arange(size + 1) * rows / size
    low = np.maximum(edges[:-1, None], np.arange(rows))
    high = np.minimum(edges[1:, None], np.arange(1, rows + 1))
    return (np.maximum(high - low, 0.0) * size / rows).astype(np.float32)
