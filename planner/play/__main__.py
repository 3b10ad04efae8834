"""A local page on which a person steers an episode by words, and sees what memory does.

python -m planner.play
python -m planner.play task=path_retrace weights=FOLDER inverse_dynamics=FOLDER port=8000
"""

from __future__ import annotations

import socket
import webbrowser

from omegaconf import DictConfig

from tasks.commands import CommandError, OptionError, integer, main


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections, to be answered later. Raises CommandError."""
    if not host:
        raise CommandError("host= is empty; give host=127.0.0.1, or host=0.0.0.0 for every address")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise CommandError(
            f"host={host} port={port} can't be listened on ({error.strerror}); give another port=, or port=0"
        ) from None
    return listener


def run(cfg: DictConfig) -> None:
    integer(cfg, "port", 0)
    for key in ("fps", "chunks", "tabs", "models", "upload_megabytes", "image_size"):
        integer(cfg, key, 1)
    if cfg.port > 65535:
        raise OptionError(f"port={cfg.port}: expected 0 to 65535")
    try:
        import uvicorn

        from planner.play.server import Play, application
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise CommandError(
            f"{error.name} is missing; pip install 'slowfast-vgen-planning[play]', or -e '.[play]' here"
        ) from None
    from planner.play.studio import Studio

    play = Play(Studio(cfg))
    listener = listening(str(cfg.host), cfg.port)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    print(
        f"task  {cfg.task.name}\nruns  {play.studio.runs.resolve()}\nopen  {address}   (Ctrl-C ends)",
        flush=True,
    )
    if cfg.browser:
        webbrowser.open(address)
    config = uvicorn.Config(
        application(play, str(cfg.host)),
        log_level="warning",
        ws_max_size=2**16,
        ws_ping_timeout=300,
        timeout_graceful_shutdown=2,
    )
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        print("closed")


if __name__ == "__main__":
    main("play", run)
