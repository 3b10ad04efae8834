"""What one open page has: its episode, and what it asked the worker for."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from planner.play.clips import data_url
from planner.play.saved import opened, save
from planner.play.simulation import Executor
from planner.play.studio import Stage, Studio, shown_actions
from planner.play.take import Step, Take, facts
from planner.play.worker import CancelledError, Job, Worker
from tasks.commands import CommandError, is_users, one_line
from world_model.action_lines import read_action
from world_model.picture import uploaded_picture

Message = dict[str, Any]
MOST_SEED = 2**31 - 1


class Session:
    """One page. Its methods return at once; what they lead to is told in messages.

    Args:
        studio: the parts.
        worker: computes.
        send: takes messages, from any thread.
    """

    def __init__(self, studio: Studio, worker: Worker, send: Callable[[Message], None]):
        self.studio, self.worker, self.send = studio, worker, send
        self.take: Take | None = None
        self.upload: bytes | None = None  # a picture's file, decoded once already
        self.busy = self.closed = False

    # --- what a person asks for ----------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Do what a message of the page asks."""
        kinds = {
            "start": self.start,
            "act": self.act,
            "undo": self.undo,
            "compare": self.compare,
            "save": self.save,
            "open": self.open,
        }
        try:
            kind = str(message.get("type"))
            if kind == "cancel":
                self.cancel()
            elif kind not in kinds:
                raise CommandError("The page sent something this server does not know; reload it.")
            elif self.busy:
                raise CommandError("One thing at a time: wait for it, or cancel it.")
            else:
                kinds[kind](message)
        except Exception as error:
            self.fail(error)
            if not self.busy:
                self.send({"type": "idle"})

    def start(self, message: Message) -> None:
        """A new episode: ``source`` is ``seed`` or ``picture``; ``seed`` counts held-out layouts."""
        task, memory = str(message.get("task")), str(message.get("memory"))
        seed, source = whole(message.get("seed"), "The seed", 0, MOST_SEED), message.get("source")
        by, compare = message.get("simulator"), message.get("compare") is True
        if by not in (None, "expert", "reader"):
            raise CommandError("The simulator follows the expert or the reader.")
        if source not in ("seed", "picture"):
            raise CommandError("An episode starts from a seed, a picture or a saved episode.")
        if source == "picture" and self.upload is None:
            raise CommandError("Choose a picture first.")

        def work(job: Job) -> None:
            self.send({"type": "phase", "phase": "open"})
            choice = message.get("weights") or next(iter(self.studio.weights(task)))
            stage = self.studio.stage(task, memory, str(choice))
            job.check()
            if source == "picture":
                assert self.upload is not None
                picture, _ = uploaded_picture(self.upload, stage.cfg.image_size)
                take = Take(stage, picture, seed, "a picture", None, compare)
            else:
                take = self.from_layout(stage, seed, by, compare)
            self.play(take, job)

        self.submit(work)

    def from_layout(self, stage: Stage, number: int, by: Executor | None, compare: bool) -> Take:
        """A take that begins at a simulator's reset to the ``number``-th held-out layout."""
        seeds = stage.task.heldout_seeds
        if number >= len(seeds):
            raise CommandError(f"The seed is at most {len(seeds) - 1}.")
        simulation = self.studio.simulation(stage, by)
        try:
            first = simulation.begin(seeds[number])
            assert simulation.running is not None
            source = f"layout {number}: {simulation.running.layout.instruction}"
            take = Take(stage, first, seeds[number], source, simulation if by else None, compare)
        except BaseException:
            simulation.close()
            raise
        if not by:
            simulation.close()
        return take

    def act(self, message: Message) -> None:
        """One more chunk, of the action in ``text``."""
        text = read_action(str(message.get("text", "")).encode(), "The action")

        def work(job: Job) -> None:
            take = self.playing()
            step = take.act(text, self.listener(job, take))
            self.send({"type": "chunk", "chunk": self.chunk(step, len(take.steps))})

        self.submit(work)

    def undo(self, message: Message) -> None:
        """Back to where ``chunk`` chunks were done."""

        def work(job: Job) -> None:
            take = self.playing()
            take.undo(whole(message.get("chunk"), "The chunk", 0, len(take.steps)))
            self.send(self.episode())

        self.submit(work)

    def compare(self, message: Message) -> None:
        """Begin or cease to imagine without memory, too: ``on``."""

        def work(job: Job) -> None:
            take = self.playing()
            if message.get("on") is True:
                take.catch_up(self.listener(job, take))
            else:
                take.compare = False
            self.send(self.episode())

        self.submit(work)

    def save(self, message: Message) -> None:
        """Write the episode to the runs folder."""

        def work(job: Job) -> None:
            name = save(self.playing(), self.studio.runs, self.studio.cfg.fps)
            self.send({"type": "saved", "name": name, "folder": str(self.studio.runs / "play" / name)})

        self.submit(work)

    def open(self, message: Message) -> None:
        """Go on with the saved episode of a ``name``."""

        def work(job: Job) -> None:
            self.send({"type": "phase", "phase": "open"})
            self.play(opened(str(message.get("name", "")), self.studio, job.check), job)

        self.submit(work)

    def cancel(self) -> None:
        """Give up on what was asked for; the episode stays as it was before."""
        if self.busy:
            self.worker.cancel(self)

    def close(self) -> None:
        """The page is gone: free what it had before anything else begins, else reloads would pile episodes up."""
        self.closed = True
        self.worker.cancel(self)
        self.worker.submit(None, lambda job: self.let_go(), lambda place: None, first=True)

    # --- how it is done ------------------------------------------------------------------------

    def submit(self, work: Callable[[Job], None]) -> None:
        """Put some work in line, and tell the page what becomes of it."""
        self.busy = True

        def guarded(job: Job) -> None:
            try:
                if not self.closed:
                    job.check()
                    work(job)
            except CancelledError:
                self.send({"type": "cancelled"})
            except Exception as error:
                self.fail(error)
            finally:
                self.busy = False
                self.send({"type": "idle"})

        def told(place: int) -> None:
            self.send({"type": "line", "place": place})

        def dropped() -> None:
            self.busy = False
            self.send({"type": "cancelled"})
            self.send({"type": "idle"})

        self.worker.submit(self, guarded, told, dropped)

    def fail(self, error: Exception) -> None:
        """One clear sentence on the page."""
        self.send({"type": "error", "text": what_failed(error)})

    def playing(self) -> Take:
        """The episode. Raises CommandError."""
        if self.take is None:
            raise CommandError("There is no episode yet; start one.")
        return self.take

    def play(self, take: Take, job: Job) -> None:
        """Put another episode in the place of the one that was played, unless nobody wants it any more."""
        if job.cancelled.is_set():
            take.close()
        job.check()
        self.let_go()
        self.take = take
        self.send(self.episode())

    def let_go(self) -> None:
        """Forget the episode; in the worker's thread."""
        if self.take is not None:
            self.take.close()
        self.take = None
        if self.closed:
            self.upload = None

    def listener(self, job: Job, take: Take) -> Callable[..., None]:
        """Tells the page how far a chunk is; ends it if nobody wants it any more."""
        number = len(take.steps) + 1

        def listen(kind: str, **told: Any) -> None:
            job.check()
            if "picture" in told:
                told["picture"] = data_url(told["picture"])
            self.send({"type": kind, "chunk": number, **told})

        return listen

    # --- what the page shows -------------------------------------------------------------------

    def episode(self) -> Message:
        """All of the episode."""
        take = self.playing()
        return {
            "type": "episode",
            **take.origin(),
            "unmeasured": take.simulation.unmeasured if take.simulation else "",
            "actions": shown_actions(take.stage.task),
            "first": data_url(take.first),
            "chunks": [self.chunk(s, i) for i, s in enumerate(take.steps, 1)],
        }

    def chunk(self, step: Step, number: int) -> Message:
        """One chunk with its pictures."""
        sides = {"with": step.imagined.frames}
        if step.without:
            sides["without"] = step.without.frames
        if step.executed:
            sides["executed"] = step.executed.frames
        shown = {side: [data_url(f) for f in frames] for side, frames in sides.items()}
        return {"number": number, **facts(step), "frames": shown}


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number from a message. Raises CommandError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise CommandError(f"{name} must be a whole number from {low} to {high}.")
    return value


def what_failed(error: Exception) -> str:
    """One clear sentence; a bug also leaves its traceback in the terminal."""
    if is_users(error):
        return sentence(one_line(error))
    traceback.print_exception(error)
    return f"Something went wrong on the server ({type(error).__name__}); its terminal says where."


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
