"""A repository of the Hugging Face Hub where a folder of weights is expected: ``ORG/NAME`` or ``ORG/NAME@REVISION``.

What is opened of it, and nothing pickled, is downloaded into the Hub's cache (``HF_HOME``), once. A folder of that
name comes first. ``HF_HUB_OFFLINE=1`` asks nobody, ``HF_TOKEN`` opens what is private or gated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tasks.commands import CommandError

HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w][\w./-]*))?")
OPENED = ("*.json", "*merges.txt", "*.safetensors")  # settings, vocabularies, weights
# The same weights again.
VARIANTS = tuple(f"*.{kind}.safetensors" for kind in ("fp16", "bf16", "fp32", "non_ema"))
CACHED = re.compile(r"models--(.+)")  # the folder of a repository in the Hub's cache


class HubError(CommandError):
    """A name that is neither a folder nor a repository that the Hub gives; says what to do."""


def hub_id(name: str) -> tuple[str, str | None] | None:
    """Repository and revision that a name stands for; None if it is a path: of another form, or below a folder
    that is here, such as ``runs/base``."""
    match = HUB_ID.fullmatch(name)
    if match is None or Path(match[1]).parent.is_dir():
        return None
    return match[1], match[2]


def located(name: str) -> Path:
    """The folder of that name; else that of a Hub id, downloaded if need be; else the path as it is, missing.

    Raises:
        HubError: the Hub does not give what the id stands for.
    """
    path = Path(name)
    return path if path.exists() or hub_id(name) is None else _downloaded(name)


@cache  # a command that opens it twice opens the same commit
def _downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download

    found = hub_id(name)
    assert found is not None
    repository, revision = found
    try:
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=[*OPENED], ignore_patterns=[*VARIANTS]
            )
        )
    except Exception as error:  # also whatever the client's network library and the disk raise
        raise HubError(f"{name} is missing here, and {_reason(error, repository)}") from None
    if not any(folder.rglob("*.safetensors")):
        raise HubError(
            f"{name} on the Hub holds no .safetensors file, and pickled weights are not opened; name a revision that "
            f"has them, as {repository}@refs/pr/1, or save them with diffusers' save_pretrained and give the folder"
        )
    return folder


def _reason(error: BaseException, repository: str) -> str:
    """Why the Hub did not give a repository, and what to do."""
    from huggingface_hub import constants, errors

    causes = list(_causes(error))

    def by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    answered = [c.response.status_code for c in causes if isinstance(c, errors.HfHubHTTPError)]
    if by(errors.GatedRepoError):
        return f"the Hub gives {repository} only who accepted its terms; do so on its page, then set HF_TOKEN"
    if by(errors.RepositoryNotFoundError) or 401 in answered:
        return "the Hub has no such repository, or a private one; check the name, or set HF_TOKEN"
    if by(errors.RevisionNotFoundError):
        return f"the Hub's {repository} has no such revision; give a branch, a tag, a commit or refs/pr/N"
    where = f"the Hub's cache ({constants.HF_HUB_CACHE}) does not hold all of it"
    if by(errors.OfflineModeIsEnabled):
        return f"{where}; HF_HUB_OFFLINE forbids to fetch it: unset it, or give a folder"
    if answered:
        return f"{constants.ENDPOINT} answers {answered[0]}; try again later, or give a folder"
    if not isinstance(error, errors.LocalEntryNotFoundError):
        return f"it can't be downloaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return f"{where}; {constants.ENDPOINT} can't be reached: check the network, or give a folder"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those behind it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def hub_name(folder: Path) -> str | None:
    """``ORG/NAME@COMMIT`` of a folder in the Hub's cache, with the first 8 digits and the path below it, or None."""
    for above in (folder, *folder.parents):
        match = CACHED.fullmatch(above.parent.parent.name)
        if match and above.parent.name == "snapshots":
            below = folder.relative_to(above).parts
            return "/".join([f"{match[1].replace('--', '/')}@{above.name[:8]}", *below])
    return None
