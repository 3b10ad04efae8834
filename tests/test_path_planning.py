"""path_retrace through the loop: what is explored, what is imagined, what is read off it, what it is compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import invoke
import numpy as np
import pytest
import torch
from tiny import frames, make_memory, make_model, make_text

from envs.doom import DoomEnv
from envs.tabletop import TabletopEnv
from inverse_dynamics.model import InverseDynamics, InverseDynamicsConfig
from planner.action_following import ActionFollowing
from planner.aggregates import aggregate
from planner.baselines import do_nothing, has_row, random_walk, rows_of, true_frames
from planner.decomposer.scripted import ScriptedDecomposer
from planner.expert_episode import Experts, expert_episode
from planner.frechet_column import FrechetColumn
from planner.instruments import (
    imagined_reading_error,
    locating_error,
    next_chunk_error,
    next_chunks,
    reading_error,
)
from planner.locate import CubeLocator
from planner.locate_path import PathLocator
from planner.loop import PlanResult, Running, SeedLostError, explore, reset, run_episodes
from planner.records import load_result, save_result, summary_row
from planner.report import Interval, Summary, write_report
from planner.run import closing_lines, report_of
from tasks import Episode, Segment
from tasks.cube_return import CubeReturn
from tasks.path_retrace import PathRetrace

ROOT = Path(__file__).resolve().parent.parent
TASK = PathRetrace(walks=(5, 6), corners=(2, 3))  # plans of different lengths
SPEC = TASK.action_spec


def reader_of(**named: float) -> InverseDynamics:
    """A real model whose last layer is set so that it reads one and the same action off any frames."""
    config = InverseDynamicsConfig(SPEC, (16, 16), channels=(8, 8, 8), keypoints=4, hidden=16)
    model = InverseDynamics(config).eval().requires_grad_(False)
    told = torch.from_numpy(SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | named))
    keys = torch.tensor([kind == "binary" for kind in SPEC.kinds])
    last = model.head[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.zero_()
    last.bias.copy_(torch.where(keys, 10 * told - 5, told / torch.tensor(SPEC.high)))
    return model


@pytest.fixture(scope="module")
def envs():
    made = [DoomEnv(TASK, image_size=16) for _ in range(2)]
    yield made
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def text():
    return make_text()


def model_of(text, memory=None):
    return make_model(text, memory, chunk_frames=4, context_frames=8, sampling_steps=1, guidance=(1.0, 1.0))


# --- the locator -------------------------------------------------------------------------------


def test_actions_add_up_to_poses():
    forward = SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | {"forward": 1.0})
    aside = SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | {"right": 1.0, "camera_yaw": 90.0 / 2})
    poses = TASK.walked(np.array([1.0, 2.0, 45.0]), np.stack([aside, forward]))
    s = TASK.stride
    np.testing.assert_allclose(poses, [[1, 2, 45], [1, 2 - s, 90], [1 + s, 2 - s, 90]], atol=1e-9)
    both = SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | {"right": 1.0, "forward": 1.0})
    assert np.linalg.norm(TASK.walked(np.zeros(3), both[None])[-1, :2]) == pytest.approx(s)


def test_a_constant_turn_closes_a_circle():
    locator = PathLocator(TASK, reader_of(forward=1.0, camera_yaw=30.0))
    start = np.array([[3.0, -1.0, 90.0]])
    seen = locator.follow(frames(13), start, [TASK.subgoal("return", "agent")] * 3)
    assert seen.track.shape == (13, 1, 3) and seen.released.all() and seen.positions is seen.track
    np.testing.assert_allclose(seen.track[-1, 0], [3, -1, 450], atol=1e-3)
    assert np.linalg.norm(seen.track[6, 0, :2] - start[0, :2]) > 3 * TASK.stride


def test_the_way_out_is_known_and_only_the_way_back_is_added_up():
    """A reader that always errs: what it would have read off the way out must not count."""
    locator, plan = PathLocator(TASK, reader_of(back=1.0, camera_yaw=5.0)), TASK.layout(0).plan
    start, out = TASK.layout(0).starts, 4 * TASK.explored(plan)
    seen, known = locator.follow(frames(out + 5), start, plan), TASK.poses(start[0], plan)[: out + 1]
    np.testing.assert_allclose(seen.track[: out + 1, 0], known)
    step = SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | {"back": 1.0, "camera_yaw": 5.0})
    walked = TASK.walked(known[-1], np.repeat(step[None], 4, 0))
    np.testing.assert_allclose(seen.track[out:, 0], walked, atol=1e-3)
    still_out = locator.follow(frames(6), start, plan)
    np.testing.assert_allclose(still_out.track[:, 0], known[:6])


def test_its_errors_begin_where_the_way_back_does():
    locator, plan = PathLocator(TASK, reader_of(back=1.0)), TASK.layout(0).plan
    true = TASK.poses(TASK.layout(0).starts[0], plan)
    ends = 4 * np.arange(len(plan) + 1)
    segments = tuple(Segment(a, b, s.text) for a, b, s in zip(ends[:-1], ends[1:], plan, strict=True))
    shown = frames(len(true))
    episode = Episode(
        shown,
        np.zeros((len(true) - 1, 10), np.float32),
        segments,
        true[:, None].astype(np.float32),
        ("agent",),
    )
    errors, back = locator.errors(episode, shown), len(plan) - TASK.explored(plan)
    first_walks = next(i for i, m in enumerate(TASK.motions(plan)[-back:]) if m.turn)
    assert len(errors) == back and first_walks > 0
    np.testing.assert_allclose(errors[:first_walks], 0, atol=1e-4)
    assert errors[first_walks] > 3


def test_its_errors_are_distances_where_chunks_end():
    locator = PathLocator(TASK, reader_of(forward=1.0))
    shown, plan = frames(9), (TASK.subgoal("go", "agent", "forward"),) * 2
    track = TASK.walked(np.zeros(3), np.repeat(SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0))[None], 8, 0))
    track[:, 1] = np.arange(9) * 1.0  # it truly walks a block a frame, 0.125 more than is read
    segments = (Segment(0, 4, plan[0].text), Segment(4, 8, plan[1].text))
    episode = Episode(
        shown, np.zeros((8, 10), np.float32), segments, track[:, None].astype(np.float32), ("agent",)
    )
    np.testing.assert_allclose(locator.errors(episode, shown), [0.5, 1.0], atol=1e-5)
    assert locator.chunk_error(episode, segments[1], plan[1], shown[5:]) == pytest.approx(0.5, abs=1e-5)
    assert locator.pixel(episode) is None
    figures = locating_error(locator, [episode], [shown])
    assert figures["median_blocks"] == pytest.approx(0.75, abs=1e-5) and figures["lost"] == 0
    read = reading_error(locator.reader, [episode], [shown])
    assert read["median_degrees"] == pytest.approx(0, abs=1e-4) and read["keys"] == 0


def test_a_locator_for_something_else_is_refused(envs):
    with pytest.raises(ValueError, match="task=cube_return walks none"):
        PathLocator(CubeReturn(), reader_of())
    cubes = InverseDynamics(InverseDynamicsConfig(CubeReturn().action_spec, (16, 16)))
    with pytest.raises(ValueError, match="give the model of this task"):
        PathLocator(TASK, cubes)
    with pytest.raises(ValueError, match="a camera that stands still"):
        CubeLocator.of_parts(CubeReturn(), envs[0], cubes)


# --- the world model ---------------------------------------------------------------------------


def test_a_chunk_that_was_never_imagined_is_remembered_as_one_that_was_observed(text):
    model = model_of(text, make_memory(steps=1))
    rollout, seen = model.start(frames(2), [1, 2]), frames(2, 4, seed=3)
    _, chunk = model.imagine(rollout, ["pick up the red cube"] * 2)
    told, shown = model.remember(rollout, chunk, seen), model.observe(rollout, chunk.subgoals, seen)
    assert torch.equal(told.past, shown.past) and told.index == shown.index == 1
    assert not told.memory.weights.distance(shown.memory.weights).any()
    np.testing.assert_array_equal(shown.frames, seen[:, -1])
    with pytest.raises(ValueError, match="2 episodes but 1 subgoals and 2 clips"):
        model.observe(rollout, chunk.subgoals[:1], seen)


# --- the loop ----------------------------------------------------------------------------------


def test_the_way_out_is_observed_and_the_way_back_imagined(envs, text, tmp_path):
    plans = {seed: TASK.layout(seed).plan for seed in range(1_000_000, 1_000_010)}
    seeds = [1_000_000, next(s for s, p in plans.items() if len(p) != len(plans[1_000_000]))]
    reader, model = reader_of(back=1.0), model_of(text)
    locator = PathLocator(TASK, reader)
    chunks: list[tuple[int, int]] = []
    results = run_episodes(
        envs, seeds, ScriptedDecomposer(), model, reader, locator, on_chunk=lambda *c: chunks.append(c)
    )
    assert chunks[-1] == (sum(len(plans[s]) for s in seeds),) * 2
    for seed, result in zip(seeds, results, strict=True):
        assert result.layout.seed == seed and result.plan == plans[seed]
        out, done = TASK.explored(result.plan) * 4, result.executed
        assert len(done) == len(result.imagined) == 1 + 4 * len(result.plan)
        assert [s.caption for s in done.segments] == [s.text for s in result.plan]
        np.testing.assert_array_equal(result.imagined[: out + 1], done.frames[: out + 1])
        assert (result.imagined[out + 1 :] != done.frames[out + 1 :]).any((1, 2, 3)).all()
        told = TASK.poses(result.layout.starts[0], result.plan)[: out + 1]
        assert np.abs(done.position("agent")[: out + 1] - told).max() < 0.1
        np.testing.assert_array_equal(
            done.actions[out:], np.repeat(done.actions[out : out + 1], len(done) - 1 - out, 0)
        )
        assert SPEC.to_named(done.actions[-1])["back"] == 1
        assert set(result.score.details) == {"ordered_coverage", "path_length", "end_distance"}
        assert result.located.shape == (len(done), 1, 3) and result.seconds["explore"] > 0
    save_result(tmp_path, results[0])
    kept = load_result(tmp_path, seeds[0])
    assert kept is not None and summary_row(kept) == summary_row(results[0])
    total = aggregate([summary_row(r) for r in results])
    assert total["imagined_lost"]["share"] == 0 and total["details"]["path_length"]["n"] == 2
    assert "ordered coverage" in closing_lines(total, TASK)[-1]
    interval = Interval(1.0, 0.5, 1.5)
    summary = Summary(2, interval, interval, 1.0, Interval(0.0, 0.0, 0.8))
    reports = [report_of(r) for r in results]
    page = write_report(tmp_path, {}, summary, reports, None, TASK, media=1, walls=envs[0].walls).read_text()
    assert "from the waypoints on average" in page and "waypoint 1: " in page and "From above" in page
    assert len(list((tmp_path / "media").glob("*_paths.png"))) == 1


def test_a_way_out_that_is_blocked_is_never_scored(envs):
    """Straight on for ever ends at a wall."""
    env, layout = envs[0], TASK.layout(1_000_000)
    frame, info = reset(env, layout)
    straight = (TASK.subgoal("go", "agent", "forward"),) * 12
    running = Running(env, layout, straight, [frame], [info["positions"]])
    with pytest.raises(
        SeedLostError, match="seed 1000000 can't be scored: what is explored first was"
    ) as lost:
        for k in range(12):
            explore(running, k)
    assert lost.value.seed == 1_000_000 and "Blocked" in lost.value.reason
    episode = expert_episode(env, layout)
    wrong = np.repeat(
        SPEC.to_vector(dict.fromkeys(SPEC.names, 0.0) | {"forward": 1.0})[None], len(episode.actions), 0
    )
    with pytest.raises(SeedLostError, match="Blocked"):
        true_frames(env, layout, replace(episode, actions=wrong), reader_of())
    rows, reasons = rows_of(
        lambda x: true_frames(env, x, replace(episode, actions=wrong), reader_of()), [layout]
    )
    assert rows == [] and list(reasons) == [1_000_000]


def test_baselines_begin_where_the_way_out_ends(envs):
    env, layout = envs[0], TASK.layout(1_000_000)
    out, start = TASK.explored(layout.plan), layout.starts[0]
    end = TASK.path(start, layout.plan)[out, :2]
    gaps = np.linalg.norm(TASK.waypoints(start, layout.plan) - end, axis=1)
    still = do_nothing(TASK, layout)
    np.testing.assert_allclose(list(still.distances.values()), gaps, atol=1e-6)
    assert not still.success and still.details["path_length"] == 0
    walked, again = (random_walk(env, layout, 7) for _ in range(2))
    assert walked == again and walked.details["path_length"] > 0 and walked != random_walk(env, layout, 8)
    assert has_row(TASK, "random_walk") and has_row(TASK, "constant_guess")
    cubes = CubeReturn()
    assert (has_row(cubes, "random_walk"), has_row(cubes, "constant_guess")) == (False, True)
    assert has_row(TASK, "do_nothing") and has_row(TASK, "true_frames")
    episode = expert_episode(env, layout)
    idle = true_frames(env, layout, episode, reader_of())
    np.testing.assert_allclose(list(idle.distances.values()), gaps, atol=0.1)


class Brightness:
    """Features that need no weights: frames at 4 × 4 pixels."""

    name, weights_sha256 = "brightness", ""

    def __call__(self, shown: np.ndarray) -> np.ndarray:
        height, width = shown.shape[1] // 4, shown.shape[2] // 4
        return shown.mean(3).reshape(-1, 4, height, 4, width).mean((2, 4)).reshape(-1, 16).astype(np.float32)


def test_the_frechet_column_compares_what_was_imagined(envs):
    env, seeds = envs[0], [1_000_000, 1_000_001, 1_000_002]
    rows = []
    for seed in seeds:
        layout, nothing = TASK.layout(seed), np.empty((0, 1, 3))
        episode, score = expert_episode(env, layout), do_nothing(TASK, layout)
        rows.append(PlanResult(layout, layout.plan, episode.frames, episode, nothing, score, score))
    column = FrechetColumn(Experts(env, seeds), Brightness(), None, resamples=5)
    same = column(rows)
    assert (
        set(same) == {"frames", "steps"} and same["steps"]["metric"] == "Fréchet distance, brightness steps"
    )
    assert same["frames"]["value"] == pytest.approx(0, abs=1e-3)
    explored = []
    for row in rows:
        shown, begin = row.imagined.copy(), 1 + TASK.explored(row.plan) * TASK.chunk_frames
        shown[:begin] //= 2
        explored.append(replace(row, imagined=shown))
    assert column(explored) == same
    darker = [replace(r, imagined=r.imagined // 2) for r in rows]
    assert column(darker)["frames"]["value"] > 1000


def test_only_what_is_imagined_has_to_follow(envs):
    experts = Experts(envs[0], [1_000_000, 1_000_001])
    nothing = np.empty((0, 1, 3))
    column = ActionFollowing(experts, reader_of(back=1.0), lambda shown: shown)
    rows, walks = [], []
    for layout, episode in experts.episodes:
        done, out = episode.actions.copy(), TASK.explored(layout.plan) * TASK.chunk_frames
        walks.append(np.mean([motion.walk != 0 for motion in TASK.motions(layout.plan)[out // 4 :]]))
        done[:out] = 0  # what the explorer did counts nowhere
        score = do_nothing(TASK, layout)
        rows.append(
            PlanResult(
                layout, layout.plan, episode.frames, replace(episode, actions=done), nothing, score, score
            )
        )
    found = column(rows)
    assert found["followed"] == found["returns"] and set(found) == {"followed", "returns"}
    assert found["followed"]["mean"] == 1 and found["followed"]["n"] == 2
    true = column.references()["true"]["followed"]
    assert true["mean"] == pytest.approx(np.mean(walks))  # a reader that always says back


def test_the_next_chunk_is_measured_in_blocks(envs, text):
    layout = TASK.layout(1_000_000)
    episode = expert_episode(envs[0], layout)
    locator = PathLocator(TASK, reader_of(forward=1.0))
    chunks = next_chunks(model_of(text), [episode], [layout.plan], 99, 8)
    figures = next_chunk_error(locator, chunks)
    assert (
        figures["imagined"]["chunks"] == len(chunks) == len(layout.plan)
        and figures["imagined"]["go_median_blocks"] < 0.1
    )
    assert not any(key.endswith("_px") for key in figures["copied"])
    walks, turns = reader_of(forward=1.0), [s.kind == "turn" for s in layout.plan if s.kind != "return"]
    read = imagined_reading_error(walks, chunks)
    assert read["n"] == 4 * len(turns) and read["keys"] == pytest.approx(1 - np.mean(turns))
    assert read["mean_degrees"] == pytest.approx(22.5 * np.mean(turns), abs=1e-3)


def test_next_chunks_are_the_same_one_by_one(envs, text):
    model, layouts = model_of(text), [TASK.layout(s) for s in (1_000_000, 1_000_001)]
    episodes, plans = [expert_episode(envs[0], x) for x in layouts], [x.plan for x in layouts]
    count = len(plans[0]) + 3
    alone, batched = (next_chunks(model, episodes, plans, count, size) for size in (1, 4))
    assert {len(c.past) for c in batched} == {1, model.past_frames}
    assert len(batched) == count and {id(c.episode) for c in batched} == set(map(id, episodes))
    for a, b in zip(alone, batched, strict=True):
        assert a.segment == b.segment and a.subgoal == b.subgoal and (a.past == b.past).all()
        assert np.abs(a.made.astype(int) - b.made).max() <= 1


def test_a_camera_that_moves_is_none(envs):
    table = TabletopEnv()
    assert envs[0].camera is None and len(envs[0].walls) > 4
    assert table.camera.height == 64 and len(table.walls) == 0
    table.close()


# --- the commands ------------------------------------------------------------------------------


def command(module: str, *options: str) -> str:
    return invoke.command(module, "task=path_retrace", *options).stdout


@pytest.mark.long
def test_collect_train_run_and_evaluate_through_the_commands(tmp_path):
    data, model, reader = tmp_path / "data", tmp_path / "model", tmp_path / "reader"
    command("envs.collect", "episodes=3", "workers=1", f"path={data}")
    command(
        "world_model.pretrain", f"data={data}", f"run_dir={model}", "autoencoder.steps=2", "autoencoder.batch_size=4",
        "autoencoder.every=2", "diffusion.steps=2", "diffusion.batch_size=2", "diffusion.every=2",
        "diffusion.held_out_chunks=1", "model.unet.block_out_channels=[8,16]", "model.unet.norm_num_groups=4",
        "model.unet.attention_head_dim=4", "model.autoencoder.block_out_channels=[8,8,16]", "model.sampling_steps=1",
    )  # fmt: skip
    command(
        "inverse_dynamics.train", f"data={data}", f"run_dir={reader}", "steps=2", "batch_size=4", "every=2",
        f"corruption.folder={model}/model/vae", "corrupted_episodes=1",
    )  # fmt: skip
    metrics = json.loads((reader / "metrics.json").read_text())
    assert {"degrees_mean", "binary_accuracy", "binaries_all_right"} <= set(metrics["true"])
    weights = [f"weights={model}/model", f"inverse_dynamics={reader}/model", "batch_size=2"]
    said = command("planner.run", "episodes=2", "media=1", f"run_dir={tmp_path}/run", *weights)
    assert "ordered coverage" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(e["seconds"]["explore"] > 0 and e["details"]["path_length"] >= 0 for e in result["episodes"])
    assert list((tmp_path / "run" / "media").glob("*_paths.png"))
    command(
        "planner.evaluate", "episodes=2", "chunks=2", "resamples=2",
        "rows=[do_nothing,constant_guess,random_walk,true_frames,no_memory]",
        f"run_dir={tmp_path}/table", f"results={tmp_path}/results", f"page={tmp_path}/page.md", *weights,
    )  # fmt: skip
    table = json.loads((tmp_path / "results" / "planning_path_retrace.json").read_text())
    assert list(table["rows"]) == ["do_nothing", "constant_guess", "random_walk", "true_frames", "no_memory"]
    assert all(
        row["executed"]["n"] == 2 and row["details"]["ordered_coverage"] for row in table["rows"].values()
    )
    page = (tmp_path / "page.md").read_text()
    assert "random walk" in page and "blocks" in page and "cube" not in page
