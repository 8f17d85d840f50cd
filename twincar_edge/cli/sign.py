"""`twincar-edge sign`: sign a model file, or create a key pair."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.written import print_written


@click.command("sign", cls=Command)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="KEY", help="Sign with this private key (Ed25519, PEM)."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the signed model to this file.  [default: MODEL]",
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Create a key pair: write the private key to this file, and the public key to KEY.pub next to it.",
)
def command(model: Path | None, key: Path | None, output: Path | None, new_key: Path | None) -> None:
    """Sign MODEL with a private key, so that boxes can verify its origin.

    `watch --require-signature KEY.pub` runs only models signed with KEY, also after a reload. The signature is part of
    the file: sign last, because `enroll` drops it. Keep KEY off the boxes. Needs the extra `sign`; works offline.
    """
    from twincar_edge.errors import InputError
    from twincar_edge.files import check_not_read, sha256, write_bytes
    from twincar_edge.manifest import read_manifest
    from twincar_edge.signatures import make_key_pair, signed

    if new_key is not None:
        if model is not None or key is not None or output is not None:
            raise click.UsageError("--new-key only creates keys: give it without MODEL, --key and --output")
        public = make_key_pair(new_key)
        print_written(new_key, about="the private key; keep it secret")
        print_written(public, about="the public key")
        return
    if model is None or key is None:
        raise click.UsageError("give a MODEL and --key KEY, or --new-key KEY")
    read_manifest(model)  # raises unless it is one of our models and undamaged
    try:
        data = model.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from error
    target = output or model
    check_not_read([target], [key])
    write_bytes(target, signed(data, key, str(model)))
    print_written(target, about=f"signed, sha256 {sha256(target)}")
