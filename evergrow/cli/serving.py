"""`evergrow serve` and `predict`: the served version started, and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from evergrow.cli.output import Output, OutputOption, show
from evergrow.environment import Environment
from evergrow.errors import RequestError, ServingError, SpecError

URL = "http://127.0.0.1:8080"
Named = Annotated[str | None, typer.Argument(help="Name of the model.", show_default=False)]
FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="The model's document, instead of its name.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(predict)


def serve(
    model: Named = None,
    file: FileOption = None,
    port: Annotated[int, typer.Option(help="HTTP port.", min=1, max=65535)] = 8080,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0 for none.", min=0, max=65535)] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    as_of: Annotated[
        str | None, typer.Option(help="Take this instant for the present; it goes on ticking.", show_default=False)
    ] = None,
    rollout: Annotated[
        bool, typer.Option("--rollout", help="Carry out rollouts: a gateway before a server for each version.")
    ] = False,
) -> None:
    """Serve the champion with KServe's model server until interrupted, and record what it answers.

    `evergrow predictions` shows what was recorded, a minute later. With --rollout a gateway (Envoy) takes the port and
    divides callers among versions as `evergrow rollout` orders it.

    Examples:
      evergrow serve arrival-delay

      evergrow serve -f models/arrival_delay/model.yaml --port 9000 --as-of 2013-10-01

      evergrow serve arrival-delay --rollout
    """
    environment, name = Environment.read(), _name(model, file)
    if rollout:
        _serve_rollouts(environment, name, host, port, grpc_port, as_of)
        return
    command = server_command(environment, name, host, port, grpc_port, as_of)
    sys.stdout.flush()
    subprocess.Popen(shipper_command(environment, name))  # noqa: S603 - as below
    os.execv(command[0], command)  # noqa: S606 - this Python and a module of ours


def shipper_command(environment: Environment, model: str) -> list[str]:
    """The command that ships what the server records, and ends when the process that started it has."""
    command = [sys.executable, "-m", "components.shipper", "--log-dir", str(environment.recorded(model))]
    return [*command, "--until-parent-ends"]


def server_command(
    environment: Environment, model: str, host: str, port: int, grpc_port: int = 0, as_of: str | None = None
) -> list[str]:
    """The command that serves what was deployed last of a model.

    Raises:
        ServingError: nothing was.
    """
    directory = environment.serving(model) / "current"
    if not directory.exists():
        raise ServingError(
            f"{model}: no version is deployed in {environment.home}",
            hint="`evergrow run training` deploys the first version that passes its gate",
        )
    return _command_for(environment, model, directory, host, port, grpc_port, as_of)


def _command_for(
    environment: Environment, model: str, directory: Path, host: str, port: int, grpc_port: int, now: str | None
) -> list[str]:
    command = [sys.executable, "-m", "components.server", "--model-dir", str(directory), "--host", host]
    command += ["--http-port", str(port), "--grpc-port", str(grpc_port)]
    command += ["--log-dir", str(environment.recorded(model))]
    return command + (["--now", now] if now else [])


def _serve_rollouts(
    environment: Environment, model: str, host: str, port: int, grpc_port: int, as_of: str | None
) -> None:
    """Serve in the foreground with rollouts; SIGTERM and SIGINT have it answer what is under way and end."""
    from evergrow import logs
    from evergrow.cli.pipelines import read_as_of
    from evergrow.contracts import instant
    from evergrow.integrations.clocks import OffsetClock
    from evergrow.integrations.envoy_config import Backend, Collector, Listener
    from evergrow.integrations.rollouts_local import RolloutServing

    if grpc_port not in (0, port):
        raise SpecError(
            f"--grpc-port: must be 0 or --port with --rollout, found {grpc_port}",
            hint="the gateway takes HTTP and gRPC on one port",
        )
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: told.append(got))
    logs.configure()
    clock = OffsetClock.at(instant(read_as_of(as_of)) if as_of else None)

    def start(directory: Path, at: Backend) -> list[str]:
        now = clock.now().isoformat() if as_of else None
        command = _command_for(environment, model, directory, at.host, at.http_port, at.grpc_port, now)
        # No load balancer has to learn that it stops: the gateway was told before.
        return [*command, "--drain-seconds", "1"]

    listener = Listener(model=model, host=host, port=port, collector=Collector.read(os.environ))
    shipper = shipper_command(environment, model)
    served = RolloutServing(environment, listener, start, shipper, clock, grpc=grpc_port != 0, tell=_tell)
    served.run(lambda: bool(told))


def _tell(line: str) -> None:
    print(line, flush=True)


def predict(
    values: Annotated[
        list[str] | None, typer.Argument(help="Entity keys and request-time values: name=value.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name of the model.", show_default=False)] = None,
    file: FileOption = None,
    url: Annotated[str, typer.Option(help="Where it is served.")] = URL,
    rows: Annotated[
        str | None, typer.Option("--json", help="A row or a list of rows as JSON; - for standard input.")
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask a served model.

    Examples:
      evergrow predict -m electricity-demand region=VIC slot=17:30 half_hour=2014-11-02T07:30Z

      evergrow predict -m arrival-delay --json '{"carrier": "UA", "tailnum": "N14228", ...}'

      evergrow predict -m arrival-delay --json - -o json < rows.json
    """
    name = _name(model, file)
    instances = read_rows(values or [], rows, lambda: fields(url, name))
    answer = call(f"{url}/v1/models/{name}:predict", {"instances": instances})
    pairs = zip(answer["predictions"], answer["flags"], strict=True)
    show(answer, output, "\n".join(_told(score, flags) for score, flags in pairs))


def _told(score: float, flags: list[str]) -> str:
    return f"{score}" + (f"  made without: {', '.join(flags)}" if flags else "")


def _name(model: str | None, file: Path | None) -> str:
    from evergrow.spec import load

    if (model is None) == (file is None):
        raise SpecError("give either the model's name or its document with -f")
    return model if model is not None else load(file).name  # type: ignore[arg-type]


def read_rows(values: list[str], rows: str | None, fields: Any) -> list[dict[str, Any]]:
    """The rows to be sent, from name=value arguments or from JSON.

    Raises:
        RequestError: both, neither, or not readable.
    """
    if bool(values) == bool(rows):
        raise RequestError("give the row either as name=value arguments or as --json")
    if rows:
        try:
            read = json.loads(sys.stdin.read() if rows == "-" else rows)
        except ValueError as error:
            raise RequestError(f"--json: {error}") from error
        return read if isinstance(read, list) else [read]
    if bad := [value for value in values if "=" not in value]:
        raise RequestError(f"arguments: must be name=value, found {bad[0]!r}")
    types = fields()
    pairs = (value.partition("=") for value in values)
    return [{name: _value(text, types.get(name, "")) for name, _, text in pairs}]


def _value(text: str, datatype: str) -> Any:
    """A value as the field's V2 datatype; what cannot be read so is sent as it is, for the server explains best."""
    if datatype == "BYTES":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def fields(url: str, model: str) -> dict[str, str]:
    """V2 datatype per field of a served model's rows."""
    return {tensor["name"]: tensor["datatype"] for tensor in call(f"{url}/v2/models/{model}")["inputs"]}


def call(url: str, body: Any = None) -> Any:
    """GET, or POST of a JSON body; the answer read.

    Raises:
        RequestError: the server refuses; says what it says.
        ServingError: nobody answers.
    """
    import urllib.error
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RequestError(f"{url}: {error.code}: {_reason(error.read())}") from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ServingError(f"{url}: does not answer: {error}", hint="`evergrow serve <model>` starts it") from error


def _reason(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return str(read.get("error", text)) if isinstance(read, Mapping) else text
