"""The `kdtalker` command: hands each subcommand to the folder that owns it, imported only then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

COMMANDS = {
    "serve": ("server.cli:serve", "run the avatar server and its page"),
    "top": ("server.top:top", "the live calls of a server, in the terminal"),
    "drain": ("server.cli:drain", "let this machine's calls finish before it leaves a cluster"),
    "link": ("server.cli:link", "a link that lets a guest in and expires"),
    "present": ("server.present_cli:present", "an avatar speaks, live, to an RTMP server or a WHIP endpoint"),
    "render": ("engines.cli:render", "photo and speech to a video file"),
    "prepare": ("engines.cli:prepare", "check a photo and enrol it"),
    "weights": ("engines.published.cli:weights", "fetch or check the published weights"),
    "train": ("training.__main__:main", "train the embedded profile"),
    "export": ("export.cli:export", "write the networks as ONNX files"),
    "build": ("export.cli:build", "TensorRT engines from those files, on the machine that will run them"),
    "verify": ("export.cli:verify", "compare every network file with torch on this machine"),
    "doctor": ("export.cli:doctor", "what this machine has, and what that allows"),
    "bench": ("benchmarks.cli:bench", "measure latency and throughput"),
}
# Packages that only some commands need, and the extra of pyproject.toml that brings them.
EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "soundfile": "train",
    "huggingface_hub": "kdtalker",
    "playwright": "test",
    "tensorrt": "tensorrt",
    "ray": "cluster",
    "fsspec": "cluster",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: kdtalker COMMAND ...   (kdtalker COMMAND --help for its options)", "", *lines])


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"kdtalker: there is no command '{name}'\n\n{usage()}", file=sys.stderr)
        return 2
    from engines.types import KDTalkerError

    module, function = COMMANDS[name][0].split(":")
    try:
        command: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
        return command(rest)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        remedy = f"pip install '.[{EXTRAS[error.name]}]'"
        print(f"kdtalker {name} needs {error.name}: run `{remedy}` in this environment", file=sys.stderr)
        return 1
    except KDTalkerError as error:
        print(f"kdtalker {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"kdtalker {name}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
