"""What each command can be told: an option's type, its name and the help that is shown of it.

Refuses: reading what was given into what it means (`arguments`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# of several commands
Features = Annotated[
    Path, typer.Argument(metavar="FEATURES.yaml", help="The definition file.", show_default=False)
]
Source = Annotated[
    str,
    typer.Option(help="Where events come from: archive:PATH or kafka://HOST:PORT[,…].", show_default=False),
]
SourceSettings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="YAML file of the settings of the Kafka client and the schema registry.",
        show_default=False,
    ),
]
Store = Annotated[
    str, typer.Option(help="The online store: lmdb:PATH or redis://HOST:PORT.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
Workers = Annotated[int, typer.Option(help="Worker processes, 1 to 64.")]
CacheBytes = Annotated[str, typer.Option(help="Memory for logs, over all workers, such as 256MiB or 1GiB.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz there.", show_default=False),
]
Log = Annotated[
    str, typer.Option(metavar="plain|json", help="What is said on stderr: sentences, or JSON a line.")
]
Peers = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT,…",
        help="The pods of a job on several machines; the workers of each listen at the ports behind.",
        envvar="LOOKBACK_PEERS",
        show_default=False,
    ),
]
Ordinal = Annotated[
    int,
    typer.Option(
        help="This pod's place in --peers, from 0; one beyond gives its shards away.",
        envvar="LOOKBACK_ORDINAL",
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Of a running job: once a second, until it ends.")]

# init
Directory = Annotated[Path, typer.Argument(help="Folder to write to.")]

# run
JobState = Annotated[
    Path, typer.Option(help="Folder of the job's state; the same one goes on.", show_default=False)
]
UntilEnd = Annotated[
    bool, typer.Option(help="Stop where the source ended at start (an archive always does).")
]
RefreshClock = Annotated[
    str | None,
    typer.Option(
        metavar="wall|event",
        help="As of when values are refreshed as rows leave windows; wall on Kafka, event on an archive.",
        show_default=False,
    ),
]
NewShards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        envvar="LOOKBACK_SHARDS",
        help="How many shards a new state has, 1 to 64: few for fresh values, many for many workers; "
        "`reshard` changes it.",
        show_default="32",
    ),
]
Epoch = Annotated[str, typer.Option(help="Time between commits, such as 1s or 200ms.")]
DeadLetters = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|kafka://…/TOPIC",
        help="Where refused events go; the folder STATE/dead-letters if not given.",
        show_default=False,
    ),
]
ChangeLog = Annotated[
    str | None,
    typer.Option(
        metavar="kafka://…/TOPIC",
        help="Send every update there too, as JSON, exactly once; nowhere if not given.",
        envvar="LOOKBACK_CHANGE_LOG",
        show_default=False,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        "--from",
        help="Where the state is new: earliest, latest or an instant to be exact from; reads from earlier.",
        show_default="earliest",
    ),
]
AcceptLoss = Annotated[
    bool, typer.Option(help="Go on where a topic has lost events before they were counted.")
]
AcceptLostState = Annotated[
    bool,
    typer.Option(help="Go on where the store has counted what the state has not: all again where it is new."),
]

# replay
RowsFrom = Annotated[
    str,
    typer.Option(
        "--from",
        help="First instant of the rows: a date, an ISO instant (UTC) or ms.",
        show_default=False,
    ),
]
TrainingOut = Annotated[Path, typer.Option(help="Folder to write; must be new or empty.", show_default=False)]
RowsTo = Annotated[str | None, typer.Option(help="Where the rows end, exclusive.", show_default=False)]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Only part I of N, from 0, cut between days: for N replays at once.",
        show_default=False,
    ),
]
AsOf = Annotated[str, typer.Option(help="before: without the event itself; including: with it.")]
ReplayClock = Annotated[str, typer.Option(help="event: as had every event arrived at its event time.")]
RowsOf = Annotated[
    str | None,
    typer.Option(help="The stream that gives the rows, where there are several.", show_default=False),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Parquet of entity keys, time and label: a row a label instead of an event.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option(help="Replace a finished training output.")]

# get
Entity = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ENTITY=KEY…", help="The entity's key, such as card=c1 merchant=m2.", show_default=False
    ),
]
Entities = Annotated[
    Path | None, typer.Option(help="JSON lines of keys, one read each ('-': stdin).", show_default=False)
]
Service = Annotated[str | None, typer.Option(help="Only the features of this service.", show_default=False)]
At = Annotated[
    str | None,
    typer.Option(help="As of this instant instead of now: ISO (UTC) or ms.", show_default=False),
]
Event = Annotated[
    str | None,
    typer.Option(help="The event being scored, as JSON: it counts in the answer.", show_default=False),
]
EventStream = Annotated[
    str | None,
    typer.Option(help="The stream that --event belongs to, where there are several.", show_default=False),
]

# status
State = Annotated[Path, typer.Option(help="Folder of the job's state.", show_default=False)]

# reshard
OldState = Annotated[
    Path, typer.Argument(metavar="OLD", help="Folder of the job's state.", show_default=False)
]
Shards = Annotated[int, typer.Option(help="How many shards the new state has, 1 to 64.", show_default=False)]
NewState = Annotated[Path, typer.Option(help="Folder of the new state.", show_default=False)]

# lateness
LatenessState = Annotated[Path | None, typer.Option(help="Folder of a live job's state.", show_default=False)]
LatenessSource = Annotated[
    str | None,
    typer.Option(help="Or events to read once: archive:PATH or kafka://HOST:PORT[,…].", show_default=False),
]

# dead-letters
Letters = Annotated[
    str,
    typer.Option(
        "--dead-letters",
        metavar="DIR|kafka://…/TOPIC",
        help="Where a job puts refused events.",
        show_default=False,
    ),
]
LettersAction = Annotated[str, typer.Argument(help="list, show or requeue.")]
LettersAt = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TOPIC/PARTITION@OFFSET…", help="Only the events at these positions.", show_default=False
    ),
]
LettersTopic = Annotated[str | None, typer.Option(help="Only this topic's.", show_default=False)]
LettersReason = Annotated[
    str | None,
    typer.Option(help="Only of this reason: parse, schema, late, ahead or repeat.", show_default=False),
]
LettersLimit = Annotated[int, typer.Option(help="List at most this many; 0 prints the counts alone.")]
RequeueTo = Annotated[
    str | None,
    typer.Option(help="The brokers that requeue sends to: kafka://HOST:PORT[,…].", show_default=False),
]
