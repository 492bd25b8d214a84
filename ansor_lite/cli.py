"""The two commands: ``tune-model`` tunes and compiles, ``ansor-lite`` does everything else.

This file names options and prints; the work is in the library, whose modules are imported inside
the commands, so that ``--help`` loads neither TVM nor xgboost. Arguments and environment are read
here and nowhere else. Whatever the caller did wrong ends as one line on standard error and exit
code 2; a request to stop ends with 130, after the best so far was written.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ansor_lite import __version__
from ansor_lite.arguments import (
    check_appendable,
    check_readable,
    check_writable,
    parse_shapes,
    read_inputs,
    write_json,
    write_outputs,
)
from ansor_lite.errors import AnsorLiteError, InputError
from ansor_lite.interrupt import stop_on_signals
from ansor_lite.linker import linker_command
from ansor_lite.options import TuningOptions
from ansor_lite.quiet import native_stderr_hidden
from ansor_lite.report.text import BEYOND_PEAK, count_text

if TYPE_CHECKING:
    from ansor_lite.events import Event
    from ansor_lite.measure.peak import Peak
    from ansor_lite.records import Records
    from ansor_lite.report.lines import LineReport
    from ansor_lite.report.live import LiveReport
    from ansor_lite.target import Target

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130
STARTED = time.monotonic()

Model = Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)]
Library = Annotated[Path, typer.Argument(help="Compiled module (.so).", show_default=False)]
Logs = Annotated[list[Path], typer.Argument(help="Tuning logs.", show_default=False)]
Shape = Annotated[
    list[str] | None,
    typer.Option(help="Shape of an input: name=1,3,224,224. May be repeated."),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads, no more than the CPUs that this process may use, the default."),
]
Exact = Annotated[
    bool, typer.Option("--exact", help="No algorithm that changes rounding (Winograd, Strassen).")
]
TargetName = Annotated[str, typer.Option(help="Processor to compile for.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write.", show_default=False)
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show warnings of TVM and the importer.")
]

_SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
tuner = typer.Typer(**_SETTINGS)
app = typer.Typer(**_SETTINGS, help="Compile, run and inspect networks.")
log_app = typer.Typer(**_SETTINGS, help="What is in a tuning log.")
app.add_typer(log_app, name="log")


def tune_model_main() -> None:
    """Entry point of ``tune-model``."""
    sys.exit(run(tuner, "tune-model", sys.argv[1:]))


def main() -> None:
    """Entry point of ``ansor-lite``."""
    sys.exit(run(app, "ansor-lite", sys.argv[1:]))


def run(command: typer.Typer, name: str, arguments: list[str]) -> int:
    """Run a command line; returns its exit code. Only known errors become one line."""
    try:
        code = typer.main.get_command(command).main(arguments, name, standalone_mode=False)
    except InputError as error:
        return _complain(error, BAD_INPUT)
    except AnsorLiteError as error:
        return _complain(error, FAILED)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads on; Python would complain when it flushes at exit
        return FAILED
    except _usage_errors() as error:
        return _complain(_misused(error, name), BAD_INPUT)
    return code if isinstance(code, int) else 0


def _usage_errors() -> type[Exception]:
    """The base class of the errors that the command-line library raises for wrong usage."""
    names = {c.__name__: c for c in typer.BadParameter.__mro__}
    return names["ClickException"]


def _misused(error: Any, name: str) -> str:
    """What was wrong, and the help of the command, or of the one inside it, that says more."""
    context = getattr(error, "ctx", None)
    command = name if context is None else context.command_path
    return f"{error.format_message()} (see {command} --help)"


def _complain(error: object, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ansor-lite {__version__}")
        raise typer.Exit


@contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Keep warnings of TVM and the importer out of sight unless they are asked for."""
    with warnings.catch_warnings(), native_stderr_hidden(not verbose):
        if not verbose:
            warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------- tune-model


@tuner.command()
def tune_model(
    model: Model,
    seconds: Annotated[
        float | None, typer.Option("--time", help="Seconds for the whole command.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Programs to measure.")] = None,
    threads: Threads = None,
    log: Annotated[
        Path | None, typer.Option(help="Tuning log to continue [default: MODEL.tune.jsonl].")
    ] = None,
    output: Output = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    exact: Exact = False,
    target: TargetName = "native",
    shape: Shape = None,
    verbose: Verbose = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> int:
    """Tune a network for this CPU and compile it.

    Writes every measurement to the log and the compiled module to the output file. Running the
    command again continues where it ended. Without --time and --trials it ends when little more is
    expected, after 15 minutes at most.
    """
    options = TuningOptions(trials=trials, seconds=seconds, threads=threads, seed=seed, exact=exact)
    shapes = parse_shapes(shape or ())
    output = output or Path(f"{model.stem}.so")
    log = log or Path(f"{model.stem}.tune.jsonl")
    check_readable(model)
    check_writable(output)
    check_appendable(log)
    linker_command()
    with _quiet(verbose):
        return _tune(model, target, options, log, output, shapes)


def _tune(
    model: Path,
    target_name: str,
    options: TuningOptions,
    log: Path,
    output: Path,
    shapes: dict[str, tuple[int, ...]],
) -> int:
    from ansor_lite import target as targets
    from ansor_lite.events import TuningStarted
    from ansor_lite.tune import tune_model

    target = targets.parse(target_name, options.threads)
    targets.require_native(target)
    targets.require_cpus(target.threads)
    report = _report()
    if options.seconds is not None:  # the budget covers starting up as well
        left = options.seconds - (time.monotonic() - STARTED)
        options = options.replace(seconds=max(left, 1e-3))

    def listen(event: Event) -> None:
        if isinstance(event, TuningStarted):
            report.peak_gflops = _peak_gflops(target)
        report(event)

    with stop_on_signals() as stop:
        with report:
            result = tune_model(
                model,
                target=target,
                options=options,
                log=log,
                shapes=shapes,
                on_event=listen,
                stop=stop,
            )
        assert result.module is not None  # tune_model always compiles
        result.module.save(output)
        print(f"wrote {output} and {log}")
        return INTERRUPTED if stop() else 0


def _peak(target: Target) -> Peak | None:
    from ansor_lite.errors import MeasurementError
    from ansor_lite.measure.peak import measure_peak

    try:
        return measure_peak(target)
    except MeasurementError:
        return None  # the table then shows no shares of it


def _peak_gflops(target: Target) -> float | None:
    peak = _peak(target)
    return None if peak is None else peak.gflops


def _report() -> LiveReport | LineReport:
    from ansor_lite.report.lines import LineReport
    from ansor_lite.report.live import LiveReport
    from ansor_lite.report.tables import stdout_console

    console = stdout_console()
    if console.is_terminal:
        return LiveReport(console)
    return LineReport(lambda line: print(line, flush=True))


# ---------------------------------------------------------------------- ansor-lite


@app.callback()
def _app_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def tasks(model: Model, shape: Shape = None, verbose: Verbose = False) -> None:
    """The subgraphs of a network: uses, work, bytes moved, intensity."""
    shapes = parse_shapes(shape or ())
    check_readable(model)
    with _quiet(verbose):
        from ansor_lite.frontend.importer import import_network
        from ansor_lite.graph.plan import plan_network
        from ansor_lite.report.tables import TASK_TITLES, show, stdout_console, task_rows

        graph = plan_network(import_network(model, shapes))
        show(stdout_console(), TASK_TITLES, task_rows(graph))


@app.command(name="compile")
def compile_model(
    model: Model,
    log: Annotated[Path | None, typer.Option(help="Tuning log to replay.")] = None,
    output: Output = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse tasks without a record for this target and threads.")
    ] = False,
    exact: Exact = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a run [default: the CPUs of this process].")
    ] = None,
    target: TargetName = "native",
    shape: Shape = None,
    verbose: Verbose = False,
) -> None:
    """Compile a network with the best programs of a log: no search, no trial."""
    shapes = parse_shapes(shape or ())
    output = output or Path(f"{model.stem}.so")
    log = log or Path(f"{model.stem}.tune.jsonl")
    check_readable(model)
    check_readable(log)
    check_writable(output)
    linker_command()
    with _quiet(verbose):
        import ansor_lite as al

        module = al.compile(
            model,
            log=log,
            target=target,
            threads=threads,
            strict=strict,
            exact=exact,
            shapes=shapes,
            on_event=_print_warning,
        )
        module.save(output)
        print(f"wrote {output}")


def _print_warning(event: object) -> None:
    from ansor_lite.events import TuningWarning

    if isinstance(event, TuningWarning):
        print(f"warning: {event.message}")


@app.command()
def bench(
    module: Library,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(help="Timed runs.")] = 50,
    profile: Annotated[bool, typer.Option("--profile", help="Also time every kernel.")] = False,
    verbose: Verbose = False,
) -> None:
    """Time a compiled module on random inputs."""
    if repeats < 1:
        raise InputError(f"--repeats must be at least 1, not {repeats}")
    _check_threads(threads)
    check_readable(module)
    with _quiet(verbose):
        import ansor_lite as al
        from ansor_lite import target as targets
        from ansor_lite.report import tables

        loaded = al.load(module, threads, _print_warning)
        print(tables.latency_text(loaded.bench(repeats)))
        if profile:
            target = targets.parse(loaded.manifest.target, loaded.manifest.threads)
            rows = tables.profile_rows(loaded.profile(), _peak(target))
            tables.show(tables.stdout_console(), tables.PROFILE_TITLES, rows)
            if any(row[tables.PROFILE_TITLES.index("of peak")].endswith("*") for row in rows):
                print(BEYOND_PEAK)
            print(tables.overhead_text(loaded.overhead(repeats)))


@app.command(name="run")
def run_module(
    module: Library,
    input: Annotated[
        list[str] | None, typer.Option(help="An input array: name=file.npy. May be repeated.")
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Folder for the output arrays.")] = Path("."),
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Run a compiled module once; every output becomes a .npy file."""
    _check_threads(threads)
    check_readable(module)
    arrays = read_inputs(input or ())
    with _quiet(verbose):
        import ansor_lite as al

        loaded = al.load(module, threads, _print_warning)
        for path in write_outputs(loaded.run(arrays), output_dir):
            print(f"wrote {path}")


def _check_threads(threads: int | None) -> None:
    TuningOptions(threads=threads)


# ---------------------------------------------------------------------- ansor-lite log


@log_app.command()
def best(files: Logs, output: Output = None) -> None:
    """The fastest program of every task, target and thread count; -o writes them as JSON."""
    from ansor_lite.records import Records, best_rows, read
    from ansor_lite.report import tables

    logs = [read(file) for file in files]
    rows = best_rows(Records(tuple(record for log in logs for record in log)))
    if output is not None:
        write_json([dataclasses.asdict(row) for row in rows], output)
        print(f"wrote {output}")
        return
    if rows:
        tables.show(tables.stdout_console(), tables.BEST_TITLES, map(tables.best_cells, rows))
    else:
        print("no records")
    for log in logs:
        _print_warnings(log.warnings)


@log_app.command()
def merge(files: Logs, output: Output = None) -> None:
    """All records of several logs in one, each once."""
    from ansor_lite import records

    _combine(records.merge, files, output)


@log_app.command()
def distill(files: Logs, output: Output = None) -> None:
    """Only the records that a compilation needs: the best of every task."""
    from ansor_lite import records

    _combine(records.distill, files, output)


def _combine(
    action: Callable[[list[Path], Path], Records], files: list[Path], output: Path | None
) -> None:
    if output is None:
        raise InputError("name the log to write: -o OUT")
    check_writable(output)
    print(f"wrote {count_text(len(action(files, output)), 'record')} to {output}")


def _print_warnings(texts: Iterable[str]) -> None:
    for text in texts:
        print(f"warning: {text}")


if __name__ == "__main__":
    main()
