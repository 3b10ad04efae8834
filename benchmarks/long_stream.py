"""A thousand frames in one stream: time and memory a chunk, and drift from the truth with and without Temp-LoRA.

    python -m benchmarks.long_stream --json benchmarks/results/long_stream_cube_return.json

Each true video is carried out by the expert (or comes from ``--data``); its first frame and its captions go to
``python -m world_model.generate``, one process a stream, once with Temp-LoRA and once without memory. Interrupted,
the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from envs.collect import Recording, record
from envs.expert import expert_actions
from tasks import Episode
from tasks.commands import ROOT, CommandError, compose, factory, one_line
from tasks.cube_return import MIN_GAP, MIN_OUTWARD, CubeReturn
from tasks.dataset import DatasetWriter
from tasks.files import atomic_path, kept_json, write_json, write_text
from tasks.provenance import command_line, commit, processor
from tasks.shipped import weights_folder
from tasks.statistics import mean_interval
from tasks.task import SEEDS_APART
from world_model.autoencoder import FrameAutoencoder
from world_model.data.footage import open_data
from world_model.video_metrics.pixels import Lpips, psnr

BLOCK = 50  # frames of one figure of drift
EARLY, LATE, ALLOWED = (
    slice(4, 15),
    slice(-10, None),
    1.05,
)  # chunks 5 to 15, the last 10, their ratio at most
ROWS = {"temp_lora": "Temp-LoRA", "none": "no memory"}
REFERENCES = {"autoencoded": "the truth, autoencoded", "frozen": "the first frame, autoencoded"}
DECIDE = (
    "task",
    "frames",
    "streams",
    "seed",
    "data",
    "weights",
    "loop_weights",
    "options",
)  # what is measured
BEST = 60.0  # dB that a frame counts at most


# --- the truth ---------------------------------------------------------------------------------


def keep_going(recording: Recording, chunks: int) -> Episode:
    """The expert moves cubes about, at random but for what stands in the way, until there are enough chunks."""
    env, home = recording.env, recording.places
    task = env.task
    assert isinstance(task, CubeReturn)
    rng = np.random.default_rng([recording.layout.seed, 7])
    for _ in range(-(-chunks // 2)):
        moves = possible(task, recording.places, home)
        if not moves:
            raise CommandError(f"layout {recording.layout.seed}: no cube can be moved; give another --seed")
        cube, target = moves[int(rng.integers(len(moves)))]
        put = task.subgoal("put", cube, target) if target else task.subgoal("return", cube)
        for subgoal in (task.subgoal("pick", cube), put):
            recording.carry_out(subgoal.text, expert_actions(task, recording.places, subgoal, home))
    return recording.episode()


def possible(task: CubeReturn, places: Any, home: Any) -> list[tuple[str, str | None]]:
    """Cubes and where each can go: a named place, or None for where it stood at first."""
    found: list[tuple[str, str | None]] = []
    for cube in task.vocabulary.objects:
        ends = {target: task.place(target) for target in task.vocabulary.targets} | {None: home[cube]}
        for target, end in ends.items():
            others = [places[o] for o in task.vocabulary.objects if o != cube]
            free = all(np.linalg.norm((end - o)[:2]) >= MIN_GAP for o in others)
            if free and np.linalg.norm((end - places[cube])[:2]) >= MIN_OUTWARD:
                found.append((cube, target))
    return found


def true_episodes(task_name: str, streams: int, chunks: int, first: int) -> Iterator[Episode]:
    """Held-out layouts from the first-th on, carried on for so many chunks; those in which the arm gets stuck
    are passed over."""
    cfg = compose("collect", [f"task={task_name}"])
    task = hydra.utils.instantiate(cfg.task)
    if not isinstance(task, CubeReturn):
        raise CommandError(
            f"--task {task_name}: its expert has no endless plan; give --data with long episodes"
        )
    env = factory(cfg, "env")(task=task)
    made = 0
    try:
        for layout_seed in task.heldout_seeds[first:]:
            if made == streams:
                return
            episode, _ = record(env, task.layout(layout_seed), partial(keep_going, chunks=chunks))
            if episode is not None:
                made += 1
                yield episode
    finally:
        env.close()


def truth(args: argparse.Namespace, chunk_frames: int) -> list[Episode]:
    """The true videos, cut to ``args.frames``; recorded ones are kept in the run directory."""
    chunks = -(-args.frames // chunk_frames)
    data = args.data
    if data is None:
        path = args.run_dir / "truth"
        if not path.exists():
            config = {"task": args.task, "chunks": chunks, "streams": args.streams, "seed": args.seed}
            cfg = compose("collect", [f"task={args.task}"])
            fps = hydra.utils.get_class(cfg.env._target_).metadata["render_fps"]
            task = hydra.utils.instantiate(cfg.task)
            writer = DatasetWriter(path, fps, task.action_spec.names, config, group=1)
            try:
                first = SEEDS_APART * args.seed
                if writer.saved:
                    first = task.heldout_seeds.index(writer.rows[-1]["seed"]) + 1
                for episode in true_episodes(args.task, args.streams - writer.saved, chunks, first):
                    writer.append(episode)
                writer.finish()
            finally:
                writer.close()
        data = str(path)
    footage = open_data(data, chunk_frames)
    fitting = [i for i in range(len(footage)) if footage.lengths[i] > chunks * chunk_frames - chunk_frames]
    if len(fitting) < args.streams:
        raise CommandError(
            f"{data} has {len(fitting)} videos of {args.frames} frames; --streams {args.streams} asked"
        )
    return [footage[i] for i in fitting[: args.streams]]


# --- the streams -------------------------------------------------------------------------------


def stream_folder(args: argparse.Namespace, row: str, number: int) -> Path:
    """The run directory of one stream."""
    return args.run_dir / row / f"stream_{number}"


def is_finished(args: argparse.Namespace, row: str, number: int, episode: Episode) -> bool:
    """Whether a stream has all its chunks."""
    log, segment = stream_folder(args, row, number) / "chunks.jsonl", episode.segments[0]
    made = len(log.read_text().splitlines()) if log.is_file() else 0
    return made * (segment.stop - segment.start) >= args.frames


def generate(args: argparse.Namespace, row: str, number: int, episode: Episode) -> None:
    """Let the command make one stream, or go on with it. Raises CommandError."""
    given = args.run_dir / "given"
    picture, actions = given / f"start_{number}.png", given / f"actions_{number}.txt"
    if not actions.is_file():
        with atomic_path(picture) as temp:
            Image.fromarray(episode.frames[0]).save(temp, "PNG")
        write_text(actions, "".join(f"{s.caption}\n" for s in episode.segments))
    weights = {"temp_lora": args.loop_weights, "none": args.weights}[row]
    command = [
        sys.executable, "-m", "world_model.generate", f"task={args.task}", f"image={picture}", f"actions={actions}",
        f"frames={args.frames}", f"memory={row}", f"image_size={episode.frames.shape[1]}", f"device={args.device}",
        f"run_dir={stream_folder(args, row, number)}", *([f"weights={weights}"] if weights else []), *args.options,
    ]  # fmt: skip
    print(f"stream {number}, {ROWS[row]}", flush=True)
    if subprocess.run(command, cwd=ROOT).returncode:
        raise CommandError(f"stream {number} with memory={row} stopped; the same command goes on with it")


def flatness(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds and peak memory of the last 10 chunks over those of chunks 5 to 15."""
    out = {}
    for key in ("seconds", "peak_gib"):
        early, late = (float(np.median([r[key] for r in log[part]])) for part in (EARLY, LATE))
        out |= {f"{key}_early": early, f"{key}_late": late, f"{key}_ratio": late / early}
    return out


def blocks(values: np.ndarray) -> list[float]:
    """Means of each ``BLOCK`` frames; a rest of less than half is left out."""
    return [float(values[k : k + BLOCK].mean()) for k in range(0, len(values) - BLOCK // 2 + 1, BLOCK)]


def drift(made: np.ndarray, true: np.ndarray, lpips: Lpips | None) -> dict[str, list[float]]:
    """PSNR and, if it can be had, LPIPS of each block; ``(T, H, W, 3)`` uint8 both."""
    out = {"psnr": blocks(np.minimum(psnr([made], [true])[0], BEST))}
    return out | ({"lpips": blocks(lpips([made], [true])[0])} if lpips is not None else {})


def measured_stream(
    args: argparse.Namespace,
    row: str,
    number: int,
    episode: Episode,
    vae: FrameAutoencoder,
    lpips: Lpips | None,
) -> dict[str, Any]:
    """Figures of one stream; of a reference without time and memory."""
    true = episode.frames[1 : args.frames + 1]
    if row in REFERENCES:
        shown = true if row == "autoencoded" else episode.frames[:1]
        made = np.broadcast_to(vae.decode(vae.encode(shown)), true.shape)
        return {"drift": drift(np.ascontiguousarray(made), true, lpips)}
    folder = stream_folder(args, row, number)
    files = sorted((folder / "latents").glob("chunk_*.safetensors"))
    latents = torch.cat([load_file(f)["latents"] for f in files])[: len(true)]
    log = [json.loads(line) for line in (folder / "chunks.jsonl").read_text().splitlines()]
    timing = {
        "flat": flatness(log),
        "seconds": [r["seconds"] for r in log],
        "peak_gib": [r["peak_gib"] for r in log],
    }
    return {"drift": drift(vae.decode(latents), true, lpips), **timing}


# --- what comes out ----------------------------------------------------------------------------


def summary(streams: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Drift of each row a block with 95% intervals over streams, that with memory less that without, and how
    flat time and memory are in the worst stream."""
    metrics = list(streams["temp_lora"][0]["drift"])
    out: dict[str, Any] = {"drift": {}, "difference": {}, "flat": {}}
    for metric in metrics:
        values = {row: np.array([s["drift"][metric] for s in found]) for row, found in streams.items()}
        out["drift"][metric] = {r: [mean_interval(list(v), 1000) for v in x.T] for r, x in values.items()}
        apart = (values["temp_lora"] - values["none"]).T
        out["difference"][metric] = [mean_interval(list(v), 1000) for v in apart]
    for row in ROWS:
        worst = {
            f"{k}_ratio": max(s["flat"][f"{k}_ratio"] for s in streams[row]) for k in ("seconds", "peak_gib")
        }
        late = float(np.median([s["flat"]["seconds_late"] for s in streams[row]]))
        out["flat"][row] = {**worst, "seconds_late": late, "holds": max(worst.values()) <= ALLOWED}
    return out


def draw(path: Path, found: dict[str, Any], names: dict[str, str]) -> None:
    """Drift over time with intervals, a panel a metric."""
    metrics = list(found["drift"])
    figure = Figure(figsize=(7 * len(metrics), 4), dpi=110, layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for row, label in names.items():
            values = found["drift"][metric][row]
            x = BLOCK * (np.arange(len(values)) + 0.5)
            axes.plot(x, [v["mean"] for v in values], "-" if row in ROWS else ":", label=label)
            axes.fill_between(x, [v["low"] for v in values], [v["high"] for v in values], alpha=0.2)
        axes.set_xlabel("frame")
        axes.set_ylabel("PSNR, dB" if metric == "psnr" else "LPIPS")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_path(path) as temp:
        figure.savefig(temp, format="png")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All streams, their figures, and what they were measured on; json-able."""
    if args.weights and not args.loop_weights:
        raise CommandError(
            f"--weights {args.weights}: give --loop-weights, too; the shipped ones began with the shipped base"
        )
    chunk_frames = hydra.utils.instantiate(compose("collect", [f"task={args.task}"]).task).chunk_frames
    if args.frames < 25 * chunk_frames:
        raise CommandError(
            f"--frames {args.frames}: at least {25 * chunk_frames}, for chunks 5 to 15 and the last 10"
        )
    folder = weights_folder(args.weights, args.task, "world_model")
    vae, left_out = FrameAutoencoder.from_pretrained(folder / "vae"), []
    lpips = None
    try:
        lpips = Lpips("alex", args.lpips)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        left_out.append(f"LPIPS: {error}")
    args.run_dir.mkdir(parents=True, exist_ok=True)
    asked = {k: str(getattr(args, k)) for k in DECIDE}
    if kept_json(args.run_dir / "asked.json", lambda: asked) != asked:
        raise CommandError(f"--run-dir {args.run_dir} belongs to other options; give another one")
    episodes = truth(args, chunk_frames)
    streams: dict[str, list[dict[str, Any]]] = {row: [] for row in (*ROWS, *REFERENCES)}
    for number, episode in enumerate(episodes):
        for row in ROWS:
            if not is_finished(args, row, number, episode):
                generate(args, row, number, episode)
        for row, records in streams.items():
            records.append(measured_stream(args, row, number, episode, vae, lpips))
    return {
        "task": args.task, "frames": args.frames, "block": BLOCK, **summary(streams), "streams": streams,
        "left_out": left_out, "commit": commit(), "hardware": f"{processor()}, {args.device}",
        "command": command_line("benchmarks.long_stream"),
    }  # fmt: skip


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Long streams: time, memory and drift.")
    parser.add_argument("--task", default="cube_return")
    parser.add_argument("--frames", type=int, default=1000, help="of each stream (default 1000)")
    parser.add_argument("--streams", type=int, default=5, help="true videos (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="which held-out layouts")
    parser.add_argument("--data", help="a dataset of long enough episodes, instead of recording some")
    parser.add_argument("--weights", help="the base, with --loop-weights; by default the shipped one")
    parser.add_argument("--loop-weights", help="those with Temp-LoRA; by default the shipped ones")
    parser.add_argument("--lpips", help="torchvision's alexnet file; by default torch's hub cache")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--run-dir", type=Path, help="by default runs/long_stream/TASK")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "options", nargs="*", help="key=value options of world_model.generate for every stream"
    )
    args = parser.parse_args(argv)
    if args.streams < 2:
        parser.error("--streams must be at least 2, for intervals")
    args.run_dir = (args.run_dir or ROOT / "runs/long_stream" / args.task).resolve()
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write json, plot and, if asked, a copy of the json."""
    args = parsed(argv)
    try:
        figures = measure(args)
    except (CommandError, ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")
    draw(args.run_dir / "drift.png", figures, ROWS | REFERENCES)
    for file in filter(None, (args.run_dir / "result.json", args.json)):
        write_json(file, figures)
    for row, flat in figures["flat"].items():
        print(f"{ROWS[row]:12} {flat['seconds_late']:.2f} s a chunk; late over early, worst stream: time "
              f"{flat['seconds_ratio']:.3f}, memory {flat['peak_gib_ratio']:.3f}")  # fmt: skip
    for metric, values in figures["difference"].items():
        ends = [f"{v['mean']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]" for v in (values[0], values[-1])]
        print(f"{metric}, Temp-LoRA less none: first {BLOCK} frames {ends[0]}, last {ends[1]}")
    print(args.run_dir / "result.json")


if __name__ == "__main__":
    main()
