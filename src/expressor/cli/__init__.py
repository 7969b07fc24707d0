"""The command ``expressor``: verbs over the same classes and functions that Python users call."""

import importlib
import os
import sys
from collections.abc import Sequence

# Verb -> what it does; each stands in the module of its name, as the function ``main(arguments)``.
VERBS = {
    "demo": "train on the shipped tissue, write predictions and a report",
    "fit": "fit a system on data and save it",
    "predict": "annotate data with a saved model",
    "impute": "restore what was not measured of bulk profiles",
    "report": "write the HTML report and the figures of a run folder",
    "bench": "run a benchmark task and print its table",
    "systems": "list the systems, or show one card",
    "equations": "list a system's equations: number, function, fidelity, tests",
    "describe": "print the methods paragraph and references of a saved model",
    "datasets": "list the data sets, or fetch one into the cache",
    "doctor": "tell what is installed and what works on this machine",
}


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10} {what}" for verb, what in VERBS.items())
    return f"usage: expressor VERB ...\n\n{verbs}\n\n`expressor VERB --help` says more.\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words after ``expressor``; those of the process by default.

    Returns
    -------
    0 when all went well, 2 for an error of use or data (told in one line on the error stream), 130 when interrupted.
    ``EXPRESSOR_DEBUG=1`` shows the whole traceback instead.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except KeyboardInterrupt:
        sys.stderr.write("expressor: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone, as after `| head`; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        sys.stdout.flush()
        return 0
    from expressor.core.errors import ExpressorError, check_choice

    if words[0] in ("-V", "--version", "version"):
        import expressor

        sys.stdout.write(f"expressor {expressor.__version__}\n")
        return 0
    try:
        check_choice(words[0], VERBS, name="verb")
        importlib.import_module(f"expressor.cli.{words[0]}").main(words[1:])
        return 0
    except ExpressorError as error:
        if os.environ.get("EXPRESSOR_DEBUG"):
            raise
        sys.stderr.write(f"expressor: {error}\n")
        return 2
