"""What every command shares: its options, its run directory, its errors in one line.

A command is ``python -m package.module key=value …``; its options stand in ``configs/<command>.yaml``
and in the groups beside it (``task=``, ``env=``, ``model=``, ``memory=``, ``decomposer=``).
"""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.files import sha256_of, write_text
from tasks.heap import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PACKAGES = ("planner", "world_model", "inverse_dynamics", "envs", "tasks")
TARGETED = (
    "task",
    "env",
    "memory",
    "decomposer",
    "locator",
    "model.text",
    "corruption",
    "features",
    "record",
    "reader",
)  # made by their _target_
TEXTS = {  # options that name files, folders and the like, also where they look like numbers
    *("run_dir", "weights", "inverse_dynamics", "instruction", "load_memory", "path", "data", "folder"),
    *("image", "actions", "choose", "results"),
}
INTERRUPTED = 130


class CommandError(RuntimeError):
    """Something the user can put right. One line: what was given, what is expected, what to do."""

    code = 1


class OptionError(CommandError):
    """An option that does not exist, or a value it can't take."""

    code = 2


def fail(message: str) -> NoReturn:
    """Stop the command with one line on stderr and exit code 1."""
    raise CommandError(message)


def version() -> str:
    """The project's version, as ``pyproject.toml`` states it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


# --- options -----------------------------------------------------------------------------------


def compose(command: str, argv: Sequence[str] = ()) -> DictConfig:
    """The options of one command.

    Args:
        command: name of a file in ``configs/``, without ``.yaml``.
        argv: overrides, such as ``["task=cube_return", "episodes=20"]``.

    Returns:
        The composed configuration, its interpolations resolved.

    Raises:
        OptionError: an unknown group option or key, text that is no override, a yaml that can't be read, a part
            without a ``_target_``, or anything but true or false for what is one of them.
    """
    try:
        cfg = _composed(command, argv)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise OptionError(_explain(error, command, argv)) from None
    _check_targets(cfg)
    _check_switches(cfg, command, argv)
    return cfg


def _composed(command: str, argv: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hydra.compose(command, overrides=[_texts_as_text(option) for option in argv])
    OmegaConf.resolve(cfg)
    return cfg


def _texts_as_text(option: str) -> str:
    """``run_dir=2024`` names a folder, not a number."""
    key, _, value = option.partition("=")
    return (
        f"{key}='{value}'"
        if key in TEXTS and re.fullmatch(r"[-+]?[\d_.]+(e[-+]?\d+)?", value, re.I)
        else option
    )


def _check_targets(cfg: DictConfig) -> None:
    """OptionError for a part that names no class: Hydra would hand on its options as they are."""
    memories = OmegaConf.select(cfg, "memories")
    several = [f"memories.{name!s}" for name in memories] if isinstance(memories, DictConfig) else []
    for key in (*TARGETED, *several):
        part = OmegaConf.select(cfg, key)
        if isinstance(part, DictConfig) and not part.get("_target_"):
            have = ", ".join(sorted(str(k) for k in part if k != "_target_")) or "none"
            raise OptionError(
                f"{key} has no _target_; its options are: {have}; expected _target_: module.Class"
            )


def _check_switches(cfg: DictConfig, command: str, argv: Sequence[str]) -> None:
    """OptionError for ``fresh=no``: Hydra reads a word, which Python takes for true."""
    given = [key.lstrip("+") for key in (option.partition("=")[0] for option in argv) if "@" not in key]
    choices = [option for option in argv if (CONFIGS / option.partition("=")[0].split("@")[0]).is_dir()]
    usual = _composed(command, choices) if given else cfg
    for key in given:
        value = OmegaConf.select(cfg, key)
        if isinstance(OmegaConf.select(usual, key), bool) and not isinstance(value, bool):
            raise OptionError(f"{key}={value}: expected true or false")


def _explain(error: Exception, command: str, argv: Sequence[str]) -> str:
    """Hydra's message, cut down to one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if group:
            return f"unknown {group} {option!r}; have: {', '.join(error.options or ['none'])}"
        return f"no options for the command {option!r}: {CONFIGS / option}.yaml is missing"
    if isinstance(error, yaml.YAMLError):
        return f"a yaml of the options can't be read: {one_line(error)}"
    ambiguous = re.search(r"Ambiguous value for argument '(.+?)'\n", str(error))
    if isinstance(error, OverrideParseException) or ambiguous:
        text = ambiguous.group(1) if ambiguous else getattr(error, "override", "")
        return (
            f"can't read the option {text!r}; expected key=value, "
            "and quotes around a value that holds a comma, a bracket or a space"
        )
    named = re.search(r"Could not (?:override|append|delete) '([^']+)'", str(error))
    if named and argv:
        key = named.group(1).split("@")[0]
        parent, _, name = key.rpartition(".")
        try:
            whole = _composed(command, ())
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as broken:
            return _explain(broken, command, ())  # without options: the yaml itself is at fault
        node = OmegaConf.select(whole, parent) if parent else whole
        have = sorted(map(str, node)) if isinstance(node, DictConfig) else []
        return (
            f"unknown option {name!r}{f' in {parent}' if parent else ''}; have: {', '.join(have) or 'none'}"
        )
    return one_line(error)


def factory(cfg: DictConfig, key: str) -> partial[Any]:
    """A part that is made later, as often as needed: what its node says, by ``_partial_: true``.

    Raises:
        OptionError: its class does not take one of the options.
    """
    part = hydra.utils.instantiate(cfg[key])
    taken = inspect.signature(hydra.utils.get_class(cfg[key]._target_)).parameters
    given = [str(name) for name in cfg[key] if not str(name).startswith("_")]
    if unknown := [name for name in given if name not in taken]:
        raise OptionError(f"unknown option {unknown[0]!r} in {key}; have: {', '.join(sorted(taken))}")
    return cast("partial[Any]", part)


def task_words(cfg: DictConfig) -> str:
    """The options that name a command's task: ``task=cube_return``, or ``task=rlbench task.name=reach_target`` where
    one yaml is of many tasks."""
    files = {path.stem: path for path in sorted((CONFIGS / "task").glob("*.yaml"))}
    if cfg.task.name in files:
        return f"task={cfg.task.name}"
    of_many = (
        k for k, p in files.items() if OmegaConf.select(OmegaConf.load(p), "_target_") == cfg.task._target_
    )
    return f"task={next(of_many, cfg.task.name)} task.name={cfg.task.name}"


def integer(cfg: DictConfig, key: str, minimum: int) -> int:
    """An option that must be an integer ≥ ``minimum``; OptionError otherwise."""
    value = OmegaConf.select(cfg, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise OptionError(f"{key}={value}: expected an integer, at least {minimum}")
    return value


def number(cfg: DictConfig, key: str, minimum: float = 0.0, maximum: float = math.inf) -> float:
    """An option that must be a number from ``minimum`` to ``maximum``; OptionError otherwise."""
    value = OmegaConf.select(cfg, key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= maximum:
        most = "" if maximum == math.inf else f" and at most {maximum:g}"
        raise OptionError(f"{key}={value}: expected a number, at least {minimum:g}{most}")
    return float(value)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain dicts, lists and numbers."""
    out = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(out, dict)
    return {str(k): v for k, v in out.items()}


# --- entry points ------------------------------------------------------------------------------


def main(
    command: str, function: Callable[[DictConfig], object], argv: Sequence[str] | None = None
) -> NoReturn:
    """Run a command and leave the process: 0, 1 after an error, 2 after a bad option, 130 after Ctrl-C.

    Errors that a user can put right become one line on stderr; ``HYDRA_FULL_ERROR=1`` shows where they
    come from. Anything else is a bug and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    goes_on = "the same command goes on from here"
    if any(o.partition("=")[0].lstrip("+") == "fresh" for o in argv):
        goes_on = "run_dir=… as printed above, without fresh=true, goes on from here"
    try:
        if {"-h", "--help"} & set(argv):
            print(_usage(command, function))
        else:
            function(compose(command, argv))
    except KeyboardInterrupt:
        print(f"interrupted; {goes_on}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        cause = _cause(error)
        if os.environ.get("HYDRA_FULL_ERROR") or not _is_users(cause, error):
            raise
        print(f"error: {one_line(cause)}", file=sys.stderr)
        sys.exit(getattr(cause, "code", 1) if isinstance(cause, CommandError) else 1)
    sys.exit(0)


def _usage(command: str, function: Callable) -> str:
    groups = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir())
    choices = [f"  {g}: {', '.join(sorted(p.stem for p in (CONFIGS / g).glob('*.yaml')))}" for g in groups]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = module.name if module else function.__module__
    options = OmegaConf.to_yaml(compose(command)).strip().replace("\n", "\n  ")
    return f"python -m {name} key=value …\n\ngroups:\n" + "\n".join(choices) + f"\n\noptions:\n  {options}"


def _cause(error: Exception) -> BaseException:
    """What a user has to put right, from under Hydra's wrapping; OptionError for a ``_target_`` that isn't."""
    if not isinstance(error, InstantiationException):
        return error
    text = one_line(error)
    named = re.match(r"(?:Error locating target|Expected a callable target, got) '(.*?)'(?:,| of type)", text)
    if not named:
        return error.__cause__ or error
    key = text.partition("full_key: ")[2] or "the option"
    why: BaseException | None = error.__cause__
    while why is not None and why.__cause__ is not None:
        why = why.__cause__
    reason = one_line(why) if why else "it is no class or function"
    return OptionError(f"{key}._target_={named.group(1)} can't be made ({reason}); expected module.Class")


def is_users(error: Exception) -> bool:
    """Whether an exception tells a user what to put right, so that :func:`one_line` of it suffices."""
    return _is_users(_cause(error), error)


def _is_users(cause: BaseException, error: Exception) -> bool:
    """Whether an exception speaks to the user: ours, or one that names a bad value or file."""
    ours = type(cause).__module__.split(".")[0] in (*PACKAGES, "__main__")
    known = isinstance(cause, (ValueError, OSError, InstantiationException, OmegaConfBaseException))
    return ours or known or (cause is not error and isinstance(cause, TypeError))


def one_line(error: BaseException) -> str:
    """An exception's text without line breaks, its type in front if the text alone says too little."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text if len(text.split()) > 1 else f"{type(error).__name__} {text}".strip()


# --- run directories ---------------------------------------------------------------------------


class RunDir:
    """The directory of one run; the same command finds it again and resumes.

    It lies at ``run_dir``, or else at ``runs/<command>/<task>-<8 hex digits of the configuration's
    sha256>``. ``fresh=true`` takes the next free name beside it (``-2``, ``-3``, …). ``config.yaml`` in
    it holds the resolved configuration.

    Attributes:
        path: the directory; it exists.
        resumed: whether it was there before.
    """

    def __init__(self, path: Path, resumed: bool):
        self.path, self.resumed = path, resumed

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def open(
        cls,
        command: str,
        cfg: DictConfig,
        ignore: Sequence[str] = (),
        versions: Mapping[str, str] | None = None,
    ) -> RunDir:
        """Make or find the directory of a run.

        Args:
            command: its name under ``runs/``.
            cfg: resolved options; ``run_dir`` (path or null), ``fresh`` (bool) and ``task.name`` are read.
            ignore: further top-level options that don't change what the run computes.
            versions: of files that the run reads, by what they are; with another one it is another run.

        Raises:
            CommandError: the directory belongs to another configuration, or is none of ours.
        """
        config = {k: v for k, v in plain(cfg).items() if k not in {"run_dir", "fresh", *ignore}}
        if versions:
            config["versions"] = dict(versions)
        digest = sha256_of(config)[:8]
        name = OmegaConf.select(cfg, "task.name") or "run"
        path = Path(cfg.get("run_dir") or Path("runs") / command / f"{name}-{digest}")
        if cfg.get("fresh"):
            base, number = path, 2
            while path.exists():
                path, number = base.with_name(f"{base.name}-{number}"), number + 1
            print(f"run_dir={path}", flush=True)
        resumed = _check_owner(path, config)
        if not resumed:
            write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        return cls(path, resumed)

    @contextmanager
    def withdrawn_on_error(self) -> Iterator[None]:
        """Removes the directory, if it was made just now, where what follows fails while nothing but the configuration
        lies in it. One that was there before stays."""
        try:
            yield
        except BaseException:
            if not self.resumed:
                with suppress(OSError):
                    if [p.name for p in self.path.iterdir()] == ["config.yaml"]:
                        (self.path / "config.yaml").unlink()
                        self.path.rmdir()
            raise


def _check_owner(path: Path, config: dict[str, Any]) -> bool:
    """Whether ``path`` already holds this configuration's run; CommandError if it holds something else."""
    if not path.exists():
        return False
    if not path.is_dir():
        fail(f"run_dir={path} is a file; give a directory")
    if not (path / "config.yaml").is_file():
        if any(not p.name.endswith(".tmp") for p in path.iterdir()):
            fail(
                f"run_dir={path} holds files but no config.yaml, so it is no run directory; give another one"
            )
        return False
    stored: Any = None
    with suppress(OmegaConfBaseException, ValueError):
        stored = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    if not isinstance(stored, dict):
        fail(f"{path}/config.yaml can't be read; delete {path} or give another run_dir")
    differ = differences(stored, config)
    if differ:
        fail(f"run_dir={path} belongs to another configuration ({differ}); give another one, or fresh=true")
    return True


def differences(stored: dict, given: dict) -> str:
    """Where two configurations differ, for an error line: ``steps: 10 there, 20 here``; empty if nowhere."""
    a, b = _flat(stored), _flat(given)
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k, "nothing") != b.get(k, "nothing")]
    shown = [f"{k}: {a.get(k, 'nothing')} there, {b.get(k, 'nothing')} here" for k in keys[:3]]
    return "; ".join(shown) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _flat(config: dict, prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
