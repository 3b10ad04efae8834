"""Whether videos follow their actions: true ones do, spoiled ones don't, by readers that were trained."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from test_evaluate_video import Patches, nearly
from tiny import SIDE

from envs.tabletop import TabletopEnv
from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig, to_unit
from planner.action_following import ActionFollowing, doubts
from planner.baselines import do_nothing
from planner.expert_episode import Experts
from planner.imagined_videos import following_table
from planner.loop import PlanResult
from tasks import ActionSpec
from tasks.actions import keys_and_camera
from tasks.cube_return import CubeReturn
from tasks.following import ReadActions, said
from world_model.autoencoder import FrameAutoencoder
from world_model.video_tables import adversaries
from world_model.video_tables.adversaries import ADVERSARIES, REFERENCES, Autoencoded, reference_row
from world_model.video_tables.clips import Clip, Clips
from world_model.video_tables.following import ReadBack
from world_model.video_tables.judge import Judge

SPEC = keys_and_camera(45.0)
WALK = ActionSpec(
    ("forward", "pitch", "yaw"), ("binary", "degrees", "degrees"), (0.0, -45.0, -45.0), (1.0, 45.0, 45.0)
)
MOVES = {  # an action, and the pixels by which it moves a square
    "forward": ((1.0, 0.0, 0.0), (-2, 0)),
    "down": ((0.0, 22.5, 0.0), (2, 0)),
    "left": ((0.0, 0.0, -22.5), (0, -2)),
    "right": ((0.0, 0.0, 22.5), (0, 2)),
    "rest": ((0.0, 0.0, 0.0), (0, 0)),
}
ROOM = range(SIDE - 3)  # where the square's corner may be
CHUNK, CHUNKS = 2, 12


def draw(place: np.ndarray) -> np.ndarray:
    """``(SIDE, SIDE, 3)``: a square of 4 pixels at a place."""
    frame = np.full((SIDE, SIDE, 3), 80, np.uint8)
    frame[place[0] : place[0] + 4, place[1] : place[1] + 4] = [230, 200, 60]
    return frame


def moved(place: np.ndarray, name: str, times: int = 1) -> np.ndarray | None:
    """Where the square gets to, if that is in the room."""
    there = place + times * np.array(MOVES[name][1])
    return there if all(int(x) in ROOM for x in there) else None


def walk(seed: int, start: int) -> Clip:
    """A square that moves as its actions say, another way in each chunk."""
    rng, place = np.random.default_rng([seed, 5]), np.random.default_rng(start).integers(0, len(ROOM), 2)
    frames, told = [draw(place)], []
    for _ in range(CHUNKS):
        name = rng.choice([n for n in MOVES if n != "rest" and moved(place, n, CHUNK) is not None])
        for _ in range(CHUNK):
            place = moved(place, name)
            frames.append(draw(place))
            told.append(MOVES[name][0])
    return Clip(seed, np.stack(frames), ("go",) * CHUNKS, None, np.array(told, np.float32))


@pytest.fixture(scope="module")
def reader() -> InverseDynamics:
    """Trained for seconds to tell how the square moved."""
    torch.manual_seed(0)
    pairs, told = [], []
    for place, name in product(map(np.array, product(ROOM, ROOM)), MOVES):
        if (there := moved(place, name)) is not None:
            pairs.append([draw(place), draw(there)])
            told.append(MOVES[name][0])
    true, actions = torch.from_numpy(np.array(pairs)), torch.tensor(told)
    frames, actions = torch.cat([true, torch.from_numpy(nearly(true.numpy()))]), actions.repeat(2, 1)
    config = InverseDynamicsConfig(WALK, (SIDE, SIDE), channels=(16, 16, 16), keypoints=8, hidden=64)
    model = InverseDynamics(config)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(300):
        drawn = torch.randint(len(frames), (64,))
        loss, _ = model.loss(model(to_unit(frames[drawn])), actions[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def action(name: str) -> np.ndarray:
    """Of Minecraft's keys and camera."""
    given = {"forward": {"forward": 1.0}, "left": {"camera_yaw": -22.5}, "right": {"camera_yaw": 22.5}}
    return SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | given.get(name, {}))


# --- figures -----------------------------------------------------------------------------------


def test_keys_must_all_agree_and_the_camera_nearly():
    told = np.stack([action("forward"), action("left"), action("rest"), action("right")])
    read = told.copy()
    read[0, SPEC.names.index("jump")] = 1
    read[1, SPEC.names.index("camera_yaw")] += 4.9
    read[3, SPEC.names.index("camera_pitch")] -= 5.1
    reading = ReadActions.of(SPEC, read, told)
    assert reading.followed.tolist() == [False, True, True, False] and reading.unit == "degrees"
    assert reading.figures() == {"followed": 0.5}
    assert "all keys" in said(SPEC) and "5°" in said(SPEC)
    with pytest.raises(ValueError, match="expected the same"):
        ReadActions.of(SPEC, read[:3], told)


def test_a_gripper_is_read_in_millimetres():
    spec = CubeReturn().action_spec
    told = np.tile(np.array([0.5, 0, 0.1, 1, 0, 0, 0, 1], np.float32), (4, 1))
    read = told.copy()
    read[:, 3:7] = [0, 1, 0, 0]  # not compared
    read[0, 1], read[1, 7], read[2, 0] = 0.03, 0, 0.51
    figures = ReadActions.of(spec, read, told).figures()
    assert figures == {"followed": 0.5, "position_mm": pytest.approx(5, abs=0.01), "gripper": 0.75}
    assert "20 mm" in said(spec)


# --- the video tables --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(reader):
    """Clips, their judge and the videos through an autoencoder."""
    truth, others = [walk(s, s) for s in range(6)], [walk(s, s) for s in range(50, 56)]
    clips = Clips(truth, others, {i: walk(100 + i, i) for i in range(6)})
    judge = Judge(clips, Patches(), resamples=1, read_back=ReadBack(reader, "reader", "version"))
    return clips, judge, Autoencoded(clips, nearly)


def test_what_does_not_follow_its_actions_is_near_the_floor(bench):
    clips, judge, blurred = bench
    rows = {n: reference_row(n, clips, judge, None, blurred) for n in (*REFERENCES, *ADVERSARIES)}
    share = {n: row["figures"]["followed"]["value"] for n, row in rows.items()}
    assert share["truth"] > 0.95 and share["autoencoded"] > 0.9
    assert share["other_layouts"] < 0.5 and share["frozen"] < 0.1
    assert max(share["shuffled"], share["wrong_action"]) < share["other_layouts"] + 0.2
    assert share["cut_injected"] < share["autoencoded"] - 0.1  # two thirds of its frames are as they were
    assert not [d for d in adversaries.doubts(rows) if d.metric == "followed"]
    model = {**rows["wrong_action"], "label": "no memory", "kind": "model"}
    doubted = {d.adversary for d in adversaries.doubts({**rows, "model": model}) if d.metric == "followed"}
    assert "wrong_action" in doubted and "cut_injected" not in doubted
    blind = {**rows["autoencoded"], "figures": rows["cut_injected"]["figures"]}
    assert "cut_injected" in {
        d.adversary for d in adversaries.doubts({**rows, "autoencoded": blind}) if d.metric == "followed"
    }


def test_a_frozen_video_of_next_chunks_follows_nothing_where_chunks_meet(bench):
    clips, judge, _ = bench
    clip = clips.truth[0]
    frozen = np.repeat(clip.frames[:-1:CHUNK], CHUNK, axis=0)
    read_back = judge.read_back
    assert read_back.figures(clip, frozen, CHUNK)["followed"] == 0
    true = read_back.figures(clip, clip.frames[1:], CHUNK)["followed"]
    assert true == read_back.figures(clip, clip.frames[1:])["followed"] > 0.9
    later = clip.frames[
        1:
    ].copy()  # a chunk that goes on from the true frames, however far off the one before it
    later[:CHUNK] = later[0]
    chunks = Judge(clips, Patches(), resamples=1, read_back=read_back)
    record = chunks.measure({0: later}, chunk_frames=CHUNK)["clips"][0]
    assert record["followed"] == pytest.approx(true - (CHUNK - 1) / (CHUNK * CHUNKS), abs=0.05)


def test_what_cannot_be_read_is_said(reader):
    read_back, clip = ReadBack(reader, "reader", "version"), walk(0, 0)
    assert read_back.misfit([clip]) == ""
    assert "have no actions, reader reads 3" in read_back.misfit([replace(clip, actions=None)])
    assert read_back.misfit([clip], WALK.names) == ""
    assert "actions are forward, yaw, pitch, reader reads forward, pitch" in read_back.misfit(
        [clip], ("forward", "yaw", "pitch")
    )
    assert "actions of [2] numbers" in read_back.misfit([replace(clip, actions=clip.actions[:, :2])])
    larger = replace(clip, frames=clip.frames.repeat(2, 1).repeat(2, 2))
    assert "expected frames" in read_back.misfit([larger])


# --- the planning table ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experts():
    env = TabletopEnv(CubeReturn())
    yield Experts(env, [1_000_000, 1_000_002])
    env.close()


def as_row(experts: Experts, reader: InverseDynamics, spoil) -> list[PlanResult]:
    """Episodes in which was executed what a reader sees in spoiled true frames."""
    rows = []
    for layout, episode in experts.episodes:
        shown = spoil(episode.frames)
        done = replace(episode, actions=reader.actions(shown[None])[0])
        score = do_nothing(experts.env.task, layout)
        rows.append(PlanResult(layout, layout.plan, shown, done, None, score, None))
    return rows


def test_rows_of_the_planning_table_stand_between_floor_and_ceiling(experts, root):
    shipped = root / "weights/cube_return"
    reader = InverseDynamics.from_pretrained(shipped / "inverse_dynamics")
    autoencoder = FrameAutoencoder.from_pretrained(shipped / "world_model/vae")
    column = ActionFollowing(experts, reader, lambda x: autoencoder.decode(autoencoder.encode(x)))
    found = column.references()
    share = {name: figures["followed"]["mean"] for name, figures in found.items()}
    assert min(share["true"], share["autoencoded"]) > 0.9
    assert max(share[n] for n in ("another_layout", "frozen", "shuffled")) < 0.3
    assert share["frozen"] < share["cut_injected"] < share["autoencoded"] - 0.1
    assert found["true"]["position_mm"]["mean"] < 10 < 100 < found["frozen"]["position_mm"]["mean"]
    assert found["true"]["gripper"]["mean"] > 0.95 > 0.7 > found["frozen"]["gripper"]["mean"]
    same = column(as_row(experts, reader, lambda frames: frames))
    assert same == found["true"] and same["told"]["n"] == same["returns"]["n"] == 2

    def forgets(frames: np.ndarray) -> np.ndarray:
        """The last chunk, which returns the cube, stands still."""
        return np.concatenate([frames[:-4], frames[-5:-4].repeat(4, 0)])

    lost = column(as_row(experts, reader, forgets))
    assert lost["told"] == same["told"] and lost["returns"]["mean"] == 0
    assert lost["followed"]["mean"] == pytest.approx(0.75 * same["told"]["mean"])


def test_an_episode_of_another_plan_is_left_out(experts, root):
    reader = InverseDynamics.from_pretrained(root / "weights/cube_return/inverse_dynamics")
    column = ActionFollowing(experts, reader, lambda x: x)
    rows = as_row(experts, reader, lambda frames: frames)
    other = CubeReturn().layout(1_000_001).plan
    assert column([rows[0], replace(rows[1], plan=other)])["followed"]["n"] == 1
    assert column([replace(rows[1], plan=other)]) == {}


def share_of(mean: float, name: str = "told") -> dict[str, dict[str, float]]:
    """Figures of a video whose share has an interval of 0.1 to either side; of all steps it says nothing."""
    around = {"low": mean - 0.1, "high": mean + 0.1, "n": 9}
    return {"followed": {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 9}, name: {"mean": mean, **around}}


def test_rows_and_readers_that_are_not_above_the_floor_are_named():
    references = {
        "true": share_of(0.95), "autoencoded": share_of(0.9), "another_layout": share_of(0.1),
        "frozen": share_of(0.0), "shuffled": share_of(0.05), "cut_injected": share_of(0.6),
    }  # fmt: skip
    result = {
        "followed": {"means": "as told", "references": references},
        "rows": {"full": {"followed": share_of(0.4)}, "no_memory": {"followed": {}}, "do_nothing": {}},
    }
    assert doubts(references, {"full": share_of(0.4)}) == []  # cuts are no bar of a row
    page = following_table(result)
    assert "The ceilings and every row are above" in page and "\n- " not in page
    result["rows"]["full"] = {"followed": share_of(0.28)}
    result["rows"]["shuffled"] = {"followed": share_of(0.26)}  # a row of the same name as a reference
    page = following_table(result)
    lines = [line for line in page.splitlines() if line.startswith("- ")]
    assert [line.partition(":")[0] for line in lines] == ["- **Temp-LoRA + slow-fast loop**", "- control"]
    assert "where the caption tells not above *floor: another layout's*" in lines[0]
    assert "(28% [18%, 38%] against 10% [0%, 20%])" in lines[0] and "every row" not in page
    asleep = {**references, "true": share_of(0.15), "cut_injected": share_of(0.9)}
    blind = [(d.video, d.beside) for d in doubts(asleep, {})]
    low = [("true", n) for n in ("another_layout", "frozen", "shuffled")]
    assert blind == [*low, ("autoencoded", "cut_injected")]
    assert "reader can't be trusted here**: ceiling: the simulator's own" in following_table(
        {**result, "followed": {"means": "as told", "references": asleep}}
    )
    way_back = {n: share_of(0.9 if n == "true" else 0.1, "returns") for n in ("true", "frozen")}
    assert doubts(way_back, {})[0].share == "followed"
