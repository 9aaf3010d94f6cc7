"""`cloister model metadata`: what a model inside an attested enclave takes and gives."""

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from cloister.api import Client
from cloister.command import caller
from cloister.command.output import Context


def _tensors(entries: Any) -> list[str]:
    if not isinstance(entries, list):
        return []
    return [f"  {entry.get('name')}  {entry.get('datatype')} {entry.get('shape')}" for entry in entries if isinstance(entry, dict)]


def _text(metadata: Mapping[str, Any], ready: bool) -> str:
    lines = [
        f"{metadata.get('name')}, versions {', '.join(map(str, metadata.get('versions', [])))}: {'ready' if ready else 'NOT READY'}",
        "inputs",
        *_tensors(metadata.get("inputs")),
        "outputs",
        *_tensors(metadata.get("outputs")),
    ]
    card = metadata.get("parameters")
    if isinstance(card, dict):
        lines += ["card", *(f"  {name}: {value}" for name, value in card.items())]
    return "\n".join(lines)


def run(args: argparse.Namespace, context: Context) -> None:
    """Ask and show."""

    async def ask(client: Client) -> tuple[dict[str, Any], bool]:
        metadata = await client.metadata(args.model, args.version, timeout=args.timeout)
        return metadata, await client.ready(args.model, args.version, timeout=args.timeout)

    metadata, ready = asyncio.run(caller.connected(args, context, ask))
    context.show(_text(metadata, ready), {"accepted": True, "ready": ready, "metadata": metadata})


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to `cloister model`."""
    verb = verbs.add_parser("metadata", help="ask an attested enclave what a model takes and gives")
    caller.add_arguments(verb)
    verb.add_argument("model", metavar="MODEL")
    verb.add_argument("--version", metavar="V", help="of the model (default: the manifest's last)")
    verb.set_defaults(run=run)
