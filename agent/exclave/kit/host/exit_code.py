"""The end of a command: its exit code, and the report of its failure."""

import os
from collections.abc import Callable, Iterable

from exclave.errors import ExclaveError, Fault, bug_lines, bug_object, error_object, find_error
from exclave.kit.host.output import drop_output, failure_lines, print_err, print_json
from exclave.kit.host.packages import missing_package


def run_command(command: Callable[[], int], *, in_json: bool) -> int:
    """Run a command. Returns its exit code, that of its failure, 130 after an interrupt, 141 without a reader.

    A failure is two lines on standard error, or with `in_json` one object on standard output. The text of an unexpected
    exception is left out, since it may hold a secret.
    """
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        drop_output()
        return 141
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as problem:  # a group of exceptions may not be an Exception
        return _report(problem, in_json=in_json)


def _report(problem: BaseException, *, in_json: bool) -> int:
    error = find_error(problem)
    if isinstance(problem, ImportError):
        error = missing_package(problem)
    if error is None:
        _print(bug_lines(problem))
        if in_json:
            print_json(bug_object())
        return Fault.BUG.code
    if in_json:
        print_json(error_object(error.fault.code, error.fault.word, error.message, error.hint))
    else:
        print_error(error)
    return error.fault.code


def print_error(error: ExclaveError) -> None:
    """Print a failure to standard error, for the journal as an error."""
    _print(failure_lines(error.message, error.hint))


def _print(lines: Iterable[str]) -> None:
    if "JOURNAL_STREAM" in os.environ:  # imported only here: scripts run commands often
        from exclave.kit.systemd.journal import is_journal_stream, mark

        if is_journal_stream(2, os.environ):
            lines = mark(lines)
    print_err(*lines)
