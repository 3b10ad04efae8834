"""One page a person can open: what was planned, what happened, and how far from the start it ended.

The page holds everything (pictures, clips, style) and asks the network for nothing.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from planner.map_plot import draw_map
from planner.path_plot import draw_paths
from planner.report_style import STYLE
from planner.video import side_by_side, write_gif, write_mp4
from tasks import Subgoal, Task
from tasks.camera import Camera
from tasks.files import write_text

SEEN = "Both paths on the table, as the camera sees them: what is lifted appears further back."
MAPPED = "From above: the way out, and the way back as it was imagined and as it was executed."


class Interval(NamedTuple):
    """A mean (or share) and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The figures of a run over ``n`` episodes; distances in the task's unit, shares in 0 … 1. None where nothing
    measures what is imagined, or nothing is to be displaced."""

    n: int
    executed: Interval
    imagined: Interval | None
    displaced: float | None
    success: Interval


@dataclass(frozen=True)
class EpisodeReport:
    """One episode, T frames and N things.

    Attributes:
        seed: of its layout.
        instruction: what was asked.
        captions: T texts: the subgoal that each frame carries out (``start`` for the first).
        imagined: ``(T, H, W, 3)`` uint8 decoded imagined frames.
        executed: ``(T, H, W, 3)`` uint8 frames of the env.
        names: of the N things.
        starts: ``(N, 3)``, in the task's unit.
        executed_track: ``(T, N, 3)`` true positions.
        imagined_track: ``(T, N, 3)`` positions read off the imagined frames; NaN where not found; None where
            nothing reads them.
        executed_distances: per waypoint of the plan.
        imagined_distances: the same waypoints, as scored on the imagined track; empty without one.
        displaced: whether everything the plan returns was moved away first; None where nothing is to be.
        success: as the task scores it.
        seconds: wall-clock per part, in the order to show.
        notes: how the decomposer read open words.
        errors: of the env: actions that could not be carried out, and why.
        plan: the subgoals.
        details: further figures of the task's score.
    """

    seed: int
    instruction: str
    captions: tuple[str, ...]
    imagined: np.ndarray
    executed: np.ndarray
    names: tuple[str, ...]
    starts: np.ndarray
    executed_track: np.ndarray
    imagined_track: np.ndarray | None
    executed_distances: Mapping[str, float]
    imagined_distances: Mapping[str, float]
    displaced: bool | None
    success: bool
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    plan: tuple[Subgoal, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)


def write_report(
    run_dir: str | Path,
    header: Mapping[str, str],
    summary: Summary,
    episodes: Sequence[EpisodeReport],
    camera: Camera | None,
    task: Task,
    places: Mapping[str, np.ndarray] | None = None,
    media: int = 4,
    fps: float = 4.0,
    walls: np.ndarray | None = None,
) -> Path:
    """Write ``report.html`` and give its path; beside it ``media/episode_<seed>.mp4``, ``.gif`` and, of an episode
    with an imagined track, ``_paths.png``.

    Args:
        run_dir: folder to write to.
        header: the run's named parts (env, model, memory, …), in order.
        summary: over all episodes.
        episodes: all of them; the first ``media`` get clips, never the best ones.
        camera: that took the executed frames, if it stood still: paths are then drawn as it sees them. Else
            they are drawn on a map.
        task: gives unit, tolerance and name.
        places: named places to draw, ``(2,)`` or ``(3,)``.
        media: how many episodes get clips.
        fps: frames a second of the clips.
        walls: ``(S, 4)`` lines of the map.

    Raises:
        ValueError: no episodes.
    """
    if not episodes or summary.n < 1:
        raise ValueError("a report needs at least one episode")
    run_dir = Path(run_dir)
    shown = []
    for e in episodes[:media]:
        stem = _make_clips(run_dir / "media", e, fps)
        _draw(
            f"{stem}_paths.png", e, task, camera, places or {}, np.zeros((0, 4)) if walls is None else walls
        )
        shown.append((e, stem))
    given = {e.instruction for e in episodes}
    asked = episodes[0].instruction if len(given) == 1 else f"Instructions such as: {task.instruction}"
    body = [
        f"<header><p class=kicker>{escape(task.name)}</p><h1>{_headline(summary, task)}</h1>"
        f"<p class=ask>{escape(asked)}</p></header>",
        _cards(summary, task),
        _parts(header),
        *(_episode(e, stem, task, SEEN if camera else MAPPED) for e, stem in shown),
        _table(episodes, task, {e.seed for e, _ in shown}),
    ]
    title = f"{task.name}: {summary.n} episode{'s' if summary.n != 1 else ''}"
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def length(value: float, unit: str) -> str:
    """A distance for people: millimetres for metres, else the unit itself; a dash for NaN."""
    if not np.isfinite(value):
        return "–"
    return f"{value * 1000:.0f} mm" if unit == "m" else f"{value:.2f} {unit}"


def _make_clips(folder: Path, e: EpisodeReport, fps: float) -> Path:
    stem = folder / f"episode_{e.seed}"
    clip = side_by_side(e.imagined, e.executed, e.captions)
    write_mp4(stem.with_suffix(".mp4"), clip, fps)
    write_gif(stem.with_suffix(".gif"), clip, fps)
    return stem


def _draw(
    path: str,
    e: EpisodeReport,
    task: Task,
    camera: Camera | None,
    places: Mapping[str, np.ndarray],
    walls: np.ndarray,
) -> None:
    executed, imagined = e.executed_track, e.imagined_track
    if imagined is None:  # the task's positions may be no places
        return
    if camera is not None:
        draw_paths(path, camera, e.names, e.starts, executed, imagined, places, task.tolerance)
        return
    explored = task.explored(e.plan) * task.chunk_frames
    marks = task.landmarks(e.starts, e.plan)
    tracks = executed[:, 0, :2], imagined[:, 0, :2]
    draw_map(path, walls, marks, *tracks, explored, task.tolerance, task.unit)


# --- pieces of the page ----------------------------------------------------------------------------


def _headline(s: Summary, task: Task) -> str:
    done = round(s.success.mean * s.n)
    what = "all" if done == s.n and s.n > 1 else f"{done} of {s.n}"
    mean = task.headline.format(figure=length(s.executed.mean, task.unit))
    return f"{what} episode{'s' if s.n != 1 else ''} succeeded, {mean}"


def _cards(s: Summary, task: Task) -> str:
    def interval(v: Interval) -> str:
        if s.n == 1:
            return "one episode gives no interval"
        return f"95% interval {length(v.low, task.unit)} to {length(v.high, task.unit)}"

    share = f"95% interval {s.success.low:.0%} to {s.success.high:.0%}"
    means = task.success_means.format(tolerance=length(task.tolerance, task.unit))
    cards = [
        (kind, f"{kind.capitalize()} {task.figure}", length(v.mean, task.unit), interval(v))
        for kind, v in (("executed", s.executed), ("imagined", s.imagined))
        if v
    ]
    cards.append(("", "Success", f"{s.success.mean:.0%}", f"{means}; {share}"))
    if s.displaced is not None:
        cards.append(("", "Displaced", f"{s.displaced:.0%}", task.displaced_means))
    imagined = (
        "is read off the imagined frames"
        if s.imagined
        else "is not measured: nothing reads it off the frames"
    )
    items = "".join(
        f'<div class="card {kind}"><dt>{name}</dt><dd><strong>{value}</strong><span>{note}</span></dd></div>'
        for kind, name, value, note in cards
    )
    return (
        f'<section aria-label="Summary"><dl class=cards>{items}</dl>'
        f"<p class=note>{escape(task.measured)} "
        f"<b>Executed</b> is the truth in the simulator; <b>imagined</b> {imagined}. "
        f"{s.n} episode{'s' if s.n != 1 else ''}.</p></section>"
    )


def _parts(header: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in header.items())
    return f"<section><h2>What ran</h2><dl class=parts>{rows}</dl></section>"


def _episode(e: EpisodeReport, stem: Path, task: Task, drawn: str) -> str:
    clip = _data(stem.with_suffix(".mp4").read_bytes(), "video/mp4")
    ends = _ends(e, task)
    return (
        f'<section class=episode id="episode-{e.seed}"><h2>Episode {e.seed} {_badge(e, task)}</h2>'
        f"<blockquote>{escape(e.instruction)}</blockquote><p>{escape(' '.join(ends))}</p>"
        f'<div class=media><figure><video src="{clip}" controls loop muted autoplay playsinline '
        f'aria-label="Imagined frames beside executed frames"></video>'
        "<figcaption>What the model imagined, beside what happened in the simulator.</figcaption></figure>"
        f"{_plot(stem, ' '.join(ends), drawn) if e.imagined_track is not None else ''}</div>"
        f"{_strip(e)}{_list('How the instruction was read', e.notes)}"
        f"{_list('Actions that could not be carried out', e.errors)}</section>"
    )


def _plot(stem: Path, said: str, drawn: str) -> str:
    plot = _data(Path(f"{stem}_paths.png").read_bytes(), "image/png")
    return f'<figure><img src="{plot}" alt="{escape(said, quote=True)}"><figcaption>{drawn}</figcaption></figure>'


def _list(title: str, lines: Sequence[str]) -> str:
    """Lines under a title, a repeated one once with how often it came; nothing without lines."""
    times = Counter(lines)
    items = "".join(f"<li>{escape(t)}{f' ({n} times)' if n > 1 else ''}</li>" for t, n in times.items())
    return f"<h3>{title}</h3><ul class=note>{items}</ul>" if items else ""


def _ends(e: EpisodeReport, task: Task) -> list[str]:
    """Where each returned thing ended; says so where the score counts another distance than that. Of a
    waypoint that is no thing, and where nothing is read off the imagined frames, its distance."""

    def said(name: str, track: np.ndarray, counted: float) -> str:
        gap = float(np.linalg.norm(track[-1, e.names.index(name)] - e.starts[e.names.index(name)]))
        where = f"ends {length(gap, task.unit)} from its start" if np.isfinite(gap) else "lost at the end"
        same = abs(counted - gap) <= 0.1 * task.tolerance
        return where if same else f"{where}, counts as {length(counted, task.unit)}"

    ends = []
    for name, counted in e.executed_distances.items():
        if e.imagined_track is None:
            ends.append(f"{name}: {length(counted, task.unit)}.")
            continue
        dreamt = e.imagined_distances[name]
        if name in e.names:
            done = said(name, e.executed_track, counted)
            ends.append(f"{name}: {done} (imagined: {said(name, e.imagined_track, dreamt)}).")
        else:
            ends.append(f"{name}: {length(counted, task.unit)} (imagined: {length(dreamt, task.unit)}).")
    return ends + [f"{name.replace('_', ' ')}: {value:.2f}." for name, value in e.details.items()]


def _strip(e: EpisodeReport) -> str:
    """The first frame and the last one of each subgoal, imagined above executed."""
    last = len(e.captions) - 1
    changes = [t for t in range(1, last + 1) if t == last or e.captions[t + 1] != e.captions[t]]
    chunk = last // len(e.plan) if e.plan else 0  # the captions of two subgoals may be the same
    moments = [0, *(range(chunk, last + 1, chunk) if chunk else changes)]
    cells = "".join(
        f'<li><img class="imagined" src="{_png(e.imagined[t])}" alt="imagined frame {t}">'
        f'<img class="executed" src="{_png(e.executed[t])}" alt="executed frame {t}">'
        f"<span>{escape(e.captions[t])}</span></li>"
        for t in moments
    )
    return (
        '<h3>After each subgoal: <b class="imagined">imagined</b> above <b class="executed">executed</b></h3>'
        f"<ol class=strip>{cells}</ol>"
    )


def _table(episodes: Sequence[EpisodeReport], task: Task, shown: set[int]) -> str:
    parts = list(dict.fromkeys(part for e in episodes for part in e.seconds))
    imagined, moved = (
        any(e.imagined_distances for e in episodes),
        any(e.displaced is not None for e in episodes),
    )
    heads = [
        "seed",
        "instruction",
        *["imagined"] * imagined,
        "executed",
        *["displaced"] * moved,
        "success",
        *(f"{p}, s" for p in parts),
    ]
    rows = []
    for e in episodes:
        seed = f'<a href="#episode-{e.seed}">{e.seed}</a>' if e.seed in shown else str(e.seed)
        cells = [
            f"<th scope=row>{seed}</th><td>{escape(e.instruction)}</td>",
            *(
                f"<td class=n>{length(_mean(d), task.unit)}</td>"
                for d in (*[e.imagined_distances] * imagined, e.executed_distances)
            ),
            *[f"<td>{'yes' if e.displaced else 'no'}</td>"] * moved,
            f"<td>{_badge(e, task)}</td>",
            *(
                f"<td class=n>{e.seconds[p]:.1f}</td>" if p in e.seconds else "<td class=n>–</td>"
                for p in parts
            ),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th scope=col>{escape(h)}</th>" for h in heads)
    return (
        '<section><h2>All episodes</h2><div class=scroll tabindex=0 role=region aria-label="All episodes">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _mean(distances: Mapping[str, float]) -> float:
    return float(np.mean(list(distances.values()))) if distances else float("nan")


def _badge(e: EpisodeReport, task: Task) -> str:
    missed = "missed" if e.displaced is not False else f"missed, {task.not_displaced}"
    kind, text = ("ok", "✓ success") if e.success else ("no", f"✗ {missed}")
    return f'<span class="badge {kind}">{text}</span>'


def _png(frame: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return _data(file.getvalue(), "image/png")


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
