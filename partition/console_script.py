"""How our console scripts behave, all three alike.

Exit code 0: done; 1: failed; 2: wrong usage. An error is one sentence on stderr that says what to do next, never a
traceback; with ``--json`` it is one JSON object on stdout as well, so that machines need not read prose.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DONE, FAILED, WRONG_USAGE = 0, 1, 2

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for machines."
)


def verbose_option(function: F) -> F:
    """Add ``--verbose``: steps on stderr; never any content of a request."""

    def set_level(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        logging.basicConfig(
            level=logging.INFO if value else logging.WARNING,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )

    return click.option(
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=set_level,
        help="Log steps on stderr.",
    )(function)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one object on one line of stdout."""
    click.echo(json.dumps(document, ensure_ascii=False))


def run_script(
    command: click.Command,
    expected: tuple[type[Exception], ...],
    arguments: list[str] | None = None,
) -> int:
    """Run a command and turn whatever happens into an exit code.

    Args:
        command: What to run.
        expected: Roots of the errors whose message is a sentence for the user.
        arguments: Of the command line; None: those of this process.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        stopped = command.main(args=words, standalone_mode=False)
        # Outside of click's own mode, `context.exit(code)` comes back as a value.
        return stopped if isinstance(stopped, int) else DONE
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return WRONG_USAGE
    except click.Abort:
        return _fail("stopped", words)
    except click.ClickException as error:
        return _fail(error.format_message(), words)
    except expected as error:
        return _fail(str(error), words)
    except BrokenPipeError:  # the reader of our output went away, `| head` say
        sys.stderr.close()
        return FAILED
    except OSError as error:
        return _fail(
            f"{error.strerror or type(error).__name__}: {error.filename or 'see --verbose'}", words
        )
    except Exception as error:  # the outermost boundary: a bug, whose text might hold content
        logging.getLogger(__name__).debug("unexpected error", exc_info=True)
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = (
            f"{where.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{where.tb_lineno}"
            if where
            else "?"
        )
        return _fail(f"internal error ({type(error).__name__} at {place}); please report it", words)


def _fail(sentence: str, words: list[str]) -> int:
    click.echo(f"error: {sentence}", err=True)
    if "--json" in words:
        print_json({"error": sentence})
    return FAILED
