"""Plans and executes episodes, and reports what was imagined and what happened.

    python -m planner.run task=cube_return episodes=20 seed=0 memory=temp_lora

The same command resumes after the last finished batch; a finished run prints its result again. With other
weights behind the same options it is another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from planner.aggregates import aggregate
from planner.decomposer.scripted import ScriptedDecomposer
from planner.figures import bounds, interval
from planner.instruments import locating_error
from planner.locator import Locator
from planner.loop import PlanResult, SeedLostError, run_episodes
from planner.parts import Parts, assemble, versions
from planner.records import (
    LEFT_OUT,
    has_result,
    leave_out,
    left_out,
    load_result,
    save_result,
    summary_row,
)
from planner.report import EpisodeReport, Interval, Summary, write_report
from tasks import Episode, Task
from tasks.commands import CommandError, OptionError, RunDir, integer, main
from tasks.files import read_json, write_json
from tasks.process import Stages, peak_megabytes
from tasks.task import held_out_seeds
from world_model.memory.base import AnyMemory
from world_model.memory.shuffled import Shuffled
from world_model.peak_memory import PeakMemory, peak_so_far
from world_model.sampling import sampling_options

READ_OFF = "imagined places"  # of a run's header


def run_batches(
    parts: Parts,
    cfg: DictConfig,
    seeds: Sequence[int],
    folder: Path,
    load_memory: Path | None = None,
    save_memory: Path | None = None,
) -> list[PlanResult]:
    """Run what is not finished yet, in batches; every finished batch is on disk. Memories are loaded and
    saved as :func:`planner.loop.run_episodes` does. A seed whose episode is lost is written down (see
    :func:`planner.records.left_out`), and the others of its batch begin again without it. Where episodes read each
    other's memory, a batch that is not finished begins again as a whole.

    Raises:
        CommandError: every seed is left out.
    """
    lost = left_out(folder, seeds)
    with tqdm(total=len(seeds), unit="episode") as bar:
        for at in range(0, len(seeds), cfg.batch_size):
            whole = seeds[at : at + cfg.batch_size]
            batch = unfinished(folder, [s for s in whole if s not in lost], parts.world_model.memory)
            bar.update(len(whole) - len(batch))
            while batch:
                try:
                    results = _run_batch(parts, cfg, batch, bar, load_memory, save_memory)
                except SeedLostError as error:
                    leave_out(folder, error.seed, error.reason)
                    bar.write(f"seed {error.seed} left out: {error.reason}")
                    batch = [s for s in batch if s != error.seed]
                    bar.update()
                    continue
                for result in results:
                    save_result(folder, result)
                    bar.write(episode_line(result, parts.task))
                bar.update(len(batch))
                break
    finished = [r for s in seeds if (r := load_result(folder, s)) is not None]
    if not finished:
        reason = list(left_out(folder, seeds).values())[-1]
        raise CommandError(
            f"no episode of {len(seeds)} is left to score; the last: {reason}; {folder / LEFT_OUT} names them all, "
            "delete it to try them again"
        )
    return finished


def unfinished(folder: Path, batch: Sequence[int], memory: AnyMemory) -> list[int]:
    """The seeds of a batch that are still to run: all of them where episodes read each other's memory."""
    missing = [seed for seed in batch if not has_result(folder, seed)]
    return list(batch) if missing and isinstance(memory, Shuffled) else missing


def _run_batch(
    parts: Parts,
    cfg: DictConfig,
    batch: Sequence[int],
    bar: tqdm,
    load_memory: Path | None,
    save_memory: Path | None,
) -> list[PlanResult]:
    def on_chunk(done: int, total: int) -> None:
        bar.set_postfix_str(f"chunk {done} of {total}")

    with PeakMemory(parts.world_model.device) as peak:
        results = run_episodes(
            parts.envs[: len(batch)],
            batch,
            parts.decomposer,
            parts.world_model,
            parts.inverse_dynamics,
            parts.locator,
            cfg.condition_on,
            cfg.instruction,
            on_chunk,
            load_memory,
            save_memory,
        )
    return [replace(r, peak_mb=round(peak.megabytes, 1)) for r in results]


def episode_line(result: PlanResult, task: Task) -> str:
    score = result.score
    ends = ", ".join(
        f"{name} {d:.3f} {task.unit}"
        + ("" if score.displaced.get(name, True) else f" ({task.not_displaced})")
        for name, d in score.distances.items()
    )
    imagined = result.imagined_score
    dreamt = f"; imagined {imagined.distance:.3f} {task.unit}" if imagined else ""
    errors = f"; {len(result.errors)} actions refused" if result.errors else ""
    return f"seed {result.layout.seed}: {'success' if score.success else 'missed'}: {ends}{dreamt}{errors}"


def closing_lines(total: dict[str, Any], task: Task) -> list[str]:
    """What the command says last."""
    moved, success, details = total["displaced"], total["success"], total.get("details", {})
    figures = [
        f"{kind} {m['mean']:.3f} {task.unit} {bounds(m)}"
        for kind in ("executed", "imagined")
        if (m := total[kind])
    ]
    lines = [
        f"{task.figure}  {'   '.join(figures)}   n={total['executed']['n']}",
        (f"displaced {moved['share']:.0%} of {moved['n']}   " if moved else "")
        + f"success {interval(success, 'share', '.0%')} of {success['n']} episodes",
    ]
    said = [f"{k.replace('_', ' ')} {interval(v)}" for k, v in details.items()]
    return [*lines, "   ".join(said)] if said else lines


def read_off_line(locator: Locator, episodes: Sequence[Episode]) -> str:
    """How far off an imagined place may be that is read off frames: what the locator makes of executed frames, whose
    truth is known."""
    error = locating_error(locator, episodes, [e.frames for e in episodes])
    return (
        f"read off frames; on the executed ones {error[f'median_{locator.unit}']:.1f} {locator.unit} off (median), "
        f"{error['lost']:.0%} of {error['n']} not found"
    )


def left_out_line(lost: Mapping[Any, str], scored: int) -> str:
    """How many episodes are in no figure, and why, for people."""
    reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in lost.items())
    return f"left out  {len(lost)} of {len(lost) + scored} episodes, which are in no figure: {reasons}"


def planned_by(rows: Sequence[Mapping[str, Any]], decomposer: str) -> dict[str, str]:
    """Who made how many of the plans, for a header; empty where the decomposer that it names made them all."""
    makers = Counter(str(row["planned_by"]) for row in rows)
    if set(makers) <= {decomposer, ""}:
        return {}
    return {"plans": ", ".join(f"{count} of {len(rows)} by {maker}" for maker, count in makers.most_common())}


def cost_line(cost: dict[str, Any]) -> str:
    """Where the time of a run went, from the start of its process, and how much memory it took."""
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in cost["seconds"].items())
    gpu = f", {cost['gpu_peak_mb']:.0f} MB of the GPU's" if "gpu_peak_mb" in cost else ""
    return (
        f"took {sum(cost['seconds'].values()):.0f} s: {stages}; peak memory {cost['peak_mb']:.0f} MB{gpu}; "
        f"episodes in this process: {cost['episodes']}"
    )


def cost_of(stages: Stages, parts: Parts, episodes: int) -> dict[str, Any]:
    """Seconds per stage and peak memory of the process that ran the last ``episodes`` episodes."""
    cost = {"seconds": dict(stages.seconds), "peak_mb": round(peak_megabytes(), 1), "episodes": episodes}
    device = parts.world_model.device
    if device.type == "cuda":
        cost["gpu_peak_mb"] = round(peak_so_far(device), 1)
    return cost


def report_of(result: PlanResult) -> EpisodeReport:
    """One episode as the report shows it; imagined positions of the gripper are not read off."""
    e, plan = result.executed, result.plan
    chunk = (len(e) - 1) // len(plan)
    names = result.layout.names
    return EpisodeReport(
        seed=result.layout.seed,
        instruction=result.layout.instruction,
        captions=("start", *(s.text for s in plan for _ in range(chunk))),
        imagined=result.imagined,
        executed=e.frames,
        names=names,
        starts=result.layout.starts,
        executed_track=np.stack([e.position(n) for n in names], 1),
        imagined_track=result.located,
        executed_distances=result.score.distances,
        imagined_distances=result.imagined_score.distances if result.imagined_score else {},
        displaced=all(result.score.displaced.values()) if result.score.displaced else None,
        success=result.score.success,
        seconds=result.seconds,
        notes=result.notes,
        errors=result.errors,
        plan=plan,
        details=result.score.details,
    )


def publish(
    run_dir: RunDir,
    parts: Parts,
    cfg: DictConfig,
    results: list[PlanResult],
    stages: Stages,
    ran: int,
    lost: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Write the report and then ``result.json``, which says that the run is finished; returns the latter.

    Args:
        stages: of this process until now; the report is its last.
        ran: how many of the episodes this process ran; an interrupted one ran the others.
        lost: seeds that are left out, and why.
    """
    rows = [summary_row(r) for r in results]
    total = aggregate(rows)

    def mean(value: dict[str, float]) -> Interval:
        return Interval(value["mean"], value["low"], value["high"])

    summary = Summary(
        n=len(rows),
        executed=mean(total["executed"]),
        imagined=mean(total["imagined"]) if total["imagined"] else None,
        displaced=total["displaced"]["share"] if total["displaced"] else None,
        success=Interval(*(total["success"][k] for k in ("share", "low", "high"))),
    )
    reports = [report_of(r) for r in results]
    header = parts.header | planned_by(rows, parts.header.get("decomposer", ""))
    if parts.locator:
        header[READ_OFF] = read_off_line(parts.locator, [r.executed for r in results])
    missing = {"left out": left_out_line(lost, len(rows)).removeprefix("left out  ")} if lost else {}
    write_report(
        run_dir.path,
        header | missing | {"cost": cost_line(cost_of(stages, parts, ran))},
        summary,
        reports,
        parts.envs[0].camera,
        parts.task,
        parts.task.places,
        cfg.media,
        walls=parts.envs[0].walls,
    )
    stages.end("report")
    written = {
        "parts": header,
        "summary": total,
        "left_out": {str(seed): reason for seed, reason in (lost or {}).items()},
        "cost": cost_of(stages, parts, ran),
        "episodes": rows,
    }
    write_json(run_dir / "result.json", written)
    return written


def last_words(written: dict[str, Any], task: Task, run_dir: RunDir) -> str:
    """What the command says of a finished run, from its ``result.json``."""
    lines = closing_lines(written["summary"], task)
    if lost := written.get("left_out"):
        lines.append(left_out_line(lost, len(written["episodes"])))
    lines += [f"{key}  {said}" for key in (READ_OFF, "plans") if (said := written["parts"].get(key))]
    return "\n".join([*lines, cost_line(written["cost"]), f"report: {run_dir / 'report.html'}"])


def opened(cfg: DictConfig, envs: int) -> Parts:
    """The parts of a run, and its header, printed; whatever is wrong with the memory that it starts from is said."""
    parts = assemble(cfg, envs)
    if cfg.load_memory:
        parts.world_model.memory.load_episode(cfg.load_memory)
        parts.header["starts from memory"] = str(cfg.load_memory)
    print("\n".join(f"{k:>16}  {v}" for k, v in parts.header.items()))
    return parts


def check_instruction(cfg: DictConfig) -> None:
    """Before anything is opened: whether a given instruction is words, and can be read where reading costs nothing.

    Raises:
        OptionError: it is no text.
        PlanError: the scripted decomposer can't read it.
    """
    if cfg.instruction is None:
        return
    if not (isinstance(cfg.instruction, str) and cfg.instruction.strip()):
        raise OptionError(f"instruction={cfg.instruction}: expected words, or null for each layout's own")
    decomposer = hydra.utils.instantiate(cfg.decomposer)
    if isinstance(decomposer, ScriptedDecomposer):
        task = hydra.utils.instantiate(cfg.task)
        task.check_plan(decomposer.decompose(task, cfg.instruction).subgoals)


def run(cfg: DictConfig) -> None:
    episodes, count = integer(cfg, "episodes", 1), integer(cfg, "batch_size", 1)
    integer(cfg, "seed", 0), integer(cfg, "media", 0)
    if cfg.condition_on not in ("imagined", "observed"):
        raise OptionError(f"condition_on={cfg.condition_on}: expected imagined or observed")
    check_instruction(cfg)
    sampling_options(cfg)
    stages = Stages()
    stages.end("start")  # the interpreter and all imports
    # the locator is the task's
    run_dir = RunDir.open("run", cfg, ignore=("device", "locator"), versions=versions(cfg))
    finished = run_dir / "result.json"
    if finished.is_file():
        stored = read_json(finished)
        print("\n".join(f"{k:>16}  {v}" for k, v in stored["parts"].items()))
        said = last_words(stored, hydra.utils.instantiate(cfg.task), run_dir)
        print(f"finished already (fresh=true runs it again)\n{said}")
        return
    with run_dir.withdrawn_on_error():
        seeds = held_out_seeds(hydra.utils.instantiate(cfg.task).heldout_seeds, cfg.seed, episodes)
        parts = opened(cfg, min(count, episodes))
        start = Path(cfg.load_memory) if cfg.load_memory else None
        save = run_dir / "memory" if cfg.save_memory else None
        stages.end("load")
        there = sum(has_result(run_dir / "episodes", s) for s in seeds)
        results = run_batches(parts, cfg, seeds, run_dir / "episodes", start, save)
    stages.end("episodes")
    lost = left_out(run_dir / "episodes", seeds)
    written = publish(run_dir, parts, cfg, results, stages, len(results) - there, lost)
    for env in parts.envs:
        env.close()
    print(last_words(written, parts.task, run_dir))


if __name__ == "__main__":
    main("run", run)
