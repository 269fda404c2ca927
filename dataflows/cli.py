"""The command line: arguments in, one call, words out. Nothing is computed here.

Errors go to stderr as one sentence that says what to do; exit 1 the work failed, 2 wrong use, 3 refused to protect
data. Progress goes to stderr, answers to stdout.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from dataflows import arguments, options
from dataflows.no_pandas import do_without_pandas
from dataflows.say import begin, say
from lookback.definition import load
from lookback.errors import LookbackError, UsageError
from state.errors import StateError

MOST_WORKERS = 64
REFUSED = ("bad", "late", "ahead", "repeat")
MOST_LETTERS = 10**9
STOPPED = 130  # exit code of a command that Ctrl-C ended
READ_AT_ONCE = 4096  # entities that `get --entities` reads before it prints them
WrongArguments: Any = (
    typer.BadParameter.__base__
)  # arguments that do not parse at all, a subclass for each reason

app = typer.Typer(
    name="lookback",
    help="Streaming features for fraud and risk models: the same features, as of any moment, from one definition.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """Run the command line and exit."""
    do_without_pandas()
    begin(as_json=False)
    try:
        given = sys.argv[1:]
        code = app(given or ["--help"], prog_name="lookback", standalone_mode=False)
    except WrongArguments as error:
        print(f"lookback: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except (LookbackError, StateError) as error:
        text = str(error)
        say(text if isinstance(error, UsageError) and "\n" in text else f"lookback: {text}", "error")
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    if code == STOPPED:
        print("lookback: stopped", file=sys.stderr)
    raise SystemExit(code or (0 if given else 2))


def _sentence(error: Any) -> str:
    """Return what is wrong with a command line, and where it says how to write it."""
    said = error.format_message().rstrip(".").replace("\n", " ")
    found = re.fullmatch(r"Invalid value for '([^']*)'(?: \(env var: '([^']*)'\))?[^:]*: (.*)", said)
    if found is not None:
        which = f"the variable {found[2]}" if found[2] else found[1]
        said = f"{which}: {found[3][:1].lower() + found[3][1:]}"
    command = error.ctx.command_path if error.ctx is not None else "lookback"
    return f"{said[:1].lower() + said[1:]}; see `{command} --help`"


def _example(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name a command's example, which its help shows last."""
    return app.command(epilog=f"Example:  {text}")


@_example("lookback check features/fraud.yaml")
def check(features: options.Features, as_json: options.AsJson = False) -> None:
    """Check a definition; print what it means: views, materialized features, fingerprints, state an entity."""
    from lookback.definition.describe import describe, describe_json

    definition = load(features)
    if as_json:
        print(json.dumps(describe_json(definition)))
    else:
        print(describe(definition))


@_example("lookback schema > lookback.schema.json")
def schema() -> None:
    """Print the JSON Schema of definition files, for an editor."""
    from lookback.definition import json_schema

    print(json.dumps(json_schema(), indent=2))


@_example("lookback init my-features")
def init(directory: options.Directory = Path()) -> None:
    """Write a starter definition and sample events that check, run and replay take as they are."""
    from lookback.starter.write import write_starter

    definition, _ = write_starter(directory)
    events = directory / "events"
    print(
        f"wrote {definition} and sample events in {events}. Next:\n"
        f"  lookback check {definition}\n"
        f"  lookback run {definition} --source archive:{events} --store lmdb:{directory / 'store'} "
        f"--state {directory / 'state'} --until-end\n"
        f"  lookback get {definition} --store lmdb:{directory / 'store'} card=c7 --at 2024-01-14T23:59:00Z\n"
        f"  lookback replay {definition} --source archive:{events} --from 2024-01-01 --out {directory / 'training'}"
    )


@_example(
    "lookback run features/fraud.yaml --source archive:events --store lmdb:store --state state --until-end"
)
def run(
    features: options.Features,
    source: options.Source,
    store: options.Store,
    state: options.JobState,
    workers: options.Workers = 1,
    until_end: options.UntilEnd = False,
    clock: options.RefreshClock = None,
    shards: options.NewShards = None,
    epoch: options.Epoch = "1s",
    cache_bytes: options.CacheBytes = "256MiB",
    dead_letters: options.DeadLetters = None,
    change_log: options.ChangeLog = None,
    start: options.Start = None,
    settings: options.SourceSettings = None,
    accept_loss: options.AcceptLoss = False,
    accept_lost_state: options.AcceptLostState = False,
    metrics: options.Metrics = None,
    log: options.Log = "plain",
    peers: options.Peers = None,
    ordinal: options.Ordinal = 0,
    quiet: options.Quiet = False,
) -> None:
    """Run the live job: keep the features of every event in the online store, exactly once.

    Stop it with Ctrl-C or SIGTERM: the last epoch is committed, and the same command goes on from there.
    """
    from dataflows.board import SHARDS as MOST_SHARDS
    from dataflows.live_job import run as run_job
    from dataflows.live_round import LiveOptions

    begin(as_json=arguments.log_is_json(log))
    arguments.within("--workers", workers, 1, MOST_WORKERS)
    if shards is not None:
        arguments.within("--shards", shards, 1, MOST_SHARDS)
    definition = load(features)
    epoch_ms = arguments.epoch_ms_of(epoch)
    outcome = run_job(
        definition,
        LiveOptions(
            source=source,
            store=store,
            state=state,
            workers=workers,
            shards=shards,
            epoch_ms=epoch_ms,
            cache_bytes=arguments.size_bytes(cache_bytes),
            dead_letters=dead_letters,
            change_log=change_log,
            start_ms=arguments.start_ms(start),
            until_end=until_end,
            source_settings=settings,
            accept_loss=accept_loss,
            accept_lost_state=accept_lost_state,
            clock=arguments.clock(clock),
            quiet=quiet,
            metrics=arguments.metrics(metrics),
            pods=arguments.pods(peers, ordinal, workers, MOST_WORKERS),
        ),
    )
    counts = outcome.counts
    refused = {name: counts[name] for name in REFUSED if counts[name]}
    text = f"{'stopped' if outcome.stopped else 'done'}: {outcome.new_rows:,} new events, {counts['rows']:,} in all"
    if refused:
        text += f"; refused {', '.join(f'{n:,} {name}' for name, n in refused.items())} (see `lookback dead-letters`)"
    if counts["no_key"]:
        text += f"; {counts['no_key']:,} without a view's key"
    say(text)


@_example("lookback replay features/fraud.yaml --source archive:events --from 2024-01-01 --out training")
def replay(
    features: options.Features,
    source: options.Source,
    start: options.RowsFrom,
    out: options.TrainingOut,
    to: options.RowsTo = None,
    part: options.Part = None,
    as_of: options.AsOf = "including",
    clock: options.ReplayClock = "event",
    stream: options.RowsOf = None,
    labels: options.Labels = None,
    workers: options.Workers = 1,
    cache_bytes: options.CacheBytes = "1GiB",
    overwrite: options.Overwrite = False,
    settings: options.SourceSettings = None,
    quiet: options.Quiet = False,
) -> None:
    """Write training rows: each event with its features as of that moment, point-in-time correct."""
    from dataflows.replay_job import ReplayOptions
    from dataflows.replay_job import replay as run_replay

    if as_of not in ("before", "including"):
        raise UsageError(f"--as-of {as_of}: write before or including")
    if clock != "event":
        raise UsageError(f"--clock {clock}: this release replays by the event clock; write event")
    arguments.within("--workers", workers, 1, MOST_WORKERS)
    definition = load(features)
    from_ms = arguments.instant_ms("--from", start)
    to_ms = None if to is None else arguments.instant_ms("--to", to)
    if to_ms is not None and to_ms <= from_ms:
        raise UsageError(f"--to {to} is not after --from {start}: no row lies between them")
    from_ms, to_ms = arguments.part(part, from_ms, to_ms)
    wanted = ReplayOptions(
        source=source,
        out=out,
        from_ms=from_ms,
        to_ms=to_ms,
        including=as_of == "including",
        stream=stream,
        labels=labels,
        workers=workers,
        cache_bytes=arguments.size_bytes(cache_bytes),
        overwrite=overwrite,
        source_settings=settings,
        quiet=quiet,
    )
    done = run_replay(definition, wanted)
    manifest = done.manifest
    text = f"done: {manifest.rows:,} training rows in {out} over {len(manifest.days)} days"
    refused = {name: done.counts[name] for name in REFUSED if done.counts[name]}
    if refused:
        text += f"; refused {', '.join(f'{n:,} {name}' for name, n in refused.items())}"
    print(text, file=sys.stderr)
    for view in done.left_out:
        whose = f"stream {manifest.stream} does" if labels is None else "the labels do"
        print(f"view {view} is left out: {whose} not carry its key", file=sys.stderr)
    if not manifest.rows:
        print(_why_no_rows(done.counts, labels is not None), file=sys.stderr)


@_example("lookback get features/fraud.yaml --store lmdb:store card=c7 --service fraud_v1")
def get(
    features: options.Features,
    entity: options.Entity = None,
    store: options.Store = "",
    entities: options.Entities = None,
    service: options.Service = None,
    at: options.At = None,
    event: options.Event = None,
    stream: options.EventStream = None,
    as_json: options.AsJson = False,
) -> None:
    """Read an entity's features, as of now or of an instant. Works whether or not the job runs."""
    from dataflows.show import answers, reading_table
    from lookback.client import Client, EntityError

    if not store:
        raise UsageError("name the online store: --store lmdb:PATH or redis://HOST:PORT")
    if bool(entity) == (entities is not None):
        raise UsageError("name one entity, such as card=c1, or a file of them with --entities")
    if entities is not None and event is not None:
        raise UsageError("--event scores one entity: give its key, such as card=c1, instead of --entities")
    if stream is not None and event is None:
        raise UsageError(f"--stream {stream} says whose --event it is: give that event too, or leave it out")
    with Client(features, store) as client:
        if entities is not None:
            text = sys.stdin.read() if str(entities) == "-" else arguments.text_of(entities)
            lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
            keys = [arguments.json_object(line, f"{entities}:{n}") for n, line in lines]
            for start in range(0, len(keys), READ_AT_ONCE):
                try:
                    found = client.get_many(keys[start : start + READ_AT_ONCE], service=service, at=at)
                except EntityError as error:
                    raise UsageError(f"{entities}:{lines[start + error.index][0]}: {error}") from None
                for reading in found:
                    print(reading.to_json())
            return
        row = None if event is None else arguments.json_object(event, "--event")
        key = arguments.entity_key(entity or [], client.definition)
        wanted = None if service is not None else arguments.askable(client.definition, key, row)
        reading = client.get(key, service=service, features=wanted, at=at, event=row, stream=stream)
        if as_json:
            print(reading.to_json())
        else:
            answers().print(reading_table(reading))


@_example("lookback status --state state")
def status(state: options.State, watch: options.Watch = False, as_json: options.AsJson = False) -> None:
    """Say how far a job is: offsets, watermarks, epochs, refused events. Works while the job runs."""
    from dataflows.show import answers, status_of, status_table

    if watch:
        from dataflows.telemetry.watch import watch as go_on

        go_on(state, as_json=as_json)
        return
    found = status_of(state)
    if as_json:
        print(json.dumps(found))
    else:
        answers().print(status_table(found))


@_example("lookback reshard state --shards 64 --out state-64")
def reshard(
    old: options.OldState,
    shards: options.Shards,
    out: options.NewState,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a state of another number of shards from that of a stopped job, which is left as it is.

    Every record is copied and read back. Killed, the same command goes on. Then start the job with the new --state.
    """
    from dataflows import reshard as job

    found = job.run(old, shards, out, quiet=quiet)
    if as_json:
        print(json.dumps(found))
    else:
        print(job.sentence(found), file=sys.stderr)


@_example("lookback lateness features/fraud.yaml --state state")
def lateness(
    features: options.Features,
    state: options.LatenessState = None,
    source: options.LatenessSource = None,
    settings: options.SourceSettings = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say how far behind events come, and which lateness would keep 99, 99.9 and 100 % of them.

    Of a live job, whether or not it runs, or of a source.
    """
    from dataflows import lateness_report
    from dataflows.show import answers

    if (state is None) == (source is None):
        raise UsageError("name a job's state with --state, or events to read with --source, one of the two")
    definition = load(features)
    if state is not None:
        if settings is not None:
            raise UsageError(f"--settings {settings}: a state needs no client; leave it out")
        found = lateness_report.of_state(definition, state)
    else:
        found = lateness_report.of_source(definition, source or "", settings, quiet=quiet)
    if as_json:
        print(json.dumps(lateness_report.as_json(found)))
    else:
        answers().print(lateness_report.tables(found))


@_example("lookback dead-letters list --dead-letters state/dead-letters --reason late --limit 5")
def dead_letters(
    where: options.Letters,
    action: options.LettersAction = "list",
    positions: options.LettersAt = None,
    topic: options.LettersTopic = None,
    reason: options.LettersReason = None,
    limit: options.LettersLimit = 20,
    source: options.RequeueTo = None,
    settings: options.SourceSettings = None,
    as_json: options.AsJson = False,
) -> None:
    """List refused events with position, reason and raw bytes, and count them; show or requeue some of them."""
    from dataflows import letters

    arguments.within("--limit", limit, 0, MOST_LETTERS)
    wanted = letters.Wanted.of(positions or [], topic, reason)
    found = letters.letters_at(where, settings)
    if action == "list":
        letters.list_letters(found, wanted, limit, as_json=as_json)
    elif action == "show":
        letters.show_letters(found, wanted, as_json=as_json)
    elif action == "requeue":
        if source is None:
            raise UsageError("name the brokers to send to: --source kafka://HOST:PORT")
        sent = letters.requeue(found, wanted, source, settings)
        print(f"sent {sent:,} events again to {source}", file=sys.stderr)
    else:
        raise UsageError(f"dead-letters {action}: write list, show or requeue")


def _why_no_rows(counts: dict[str, int], labelled: bool) -> str:
    if counts["rows"] == counts["bad"] and not labelled:
        return "every event was refused as bad: `lookback run` lists them with their reasons as dead letters"
    what = "label" if labelled else "event"
    return f"no {what} lies in the time asked for: look at --from and --to, and at the unit of the event time"


if __name__ == "__main__":
    main()
