#!/usr/bin/env python3
"""The second reader of repository format 1: restores and verifies a repository in a local directory.

It is written from docs/FORMAT.md alone and shares nothing with the program, so it tests the document. Section numbers in comments are
those of that page. It is strict: whatever differs from the page is an error that names the object.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from keys import read_credential
from repository import Repository, Snapshot
from restore import Restorer
from tree import TreeReader
from verify import Verifier
from wire import FormatError

def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Independent reader of yesterdrive repositories in a local directory.")
    parser.add_argument("--repository", required=True, type=Path)
    key = parser.add_mutually_exclusive_group(required=True)
    for option in ("--password-file", "--key-file", "--recovery-file"):
        key.add_argument(option)
    parser.add_argument("--snapshot", default="latest", help="the beginning of an id, or 'latest': the newest that is sealed")
    parser.add_argument("--list", action="store_true", help="list the snapshots")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("restore").add_argument("--to", required=True)
    commands.add_parser("verify")
    return parser.parse_args(arguments)


def describe(snapshot: Snapshot) -> str:
    fields = snapshot.fields
    state = "sealed" if snapshot.sealed else "incomplete"
    return f"{snapshot.id} {state} {fields[5][0]}.{fields[5][1]:09} {fields[7]!r} {fields[8]!r} {fields[14][3]} bytes"


def run(arguments: argparse.Namespace) -> int:
    """0 done, 3 done with notes."""
    repository = Repository.open(arguments.repository, read_credential(arguments))
    notes: list[str] = []
    if arguments.list:
        print("\n".join(map(describe, repository.snapshots())))
    if arguments.command == "restore":
        restorer = Restorer(TreeReader(repository, repository.select(arguments.snapshot)), os.fsencode(arguments.to))
        restorer.run()
        notes = restorer.notes
    elif arguments.command == "verify":
        verifier = Verifier(repository)
        verifier.run()
        notes = verifier.notes
        print(f"{verifier.objects} objects, {verifier.records} records, {len(verifier.problems)} problems")
        if verifier.problems:
            raise FormatError("\n".join(verifier.problems))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 3 if notes else 0


def main() -> int:
    try:
        return run(parse_arguments())
    except (FormatError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
