"""`twincar-edge sign`: sign a model file, and make the keys for it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sign")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="KEY", help="Sign with this private key (Ed25519, PEM)."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the signed model here.  [default: MODEL]",
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Make a key pair: the private key in this file, the public one in KEY.pub beside it.",
)
def command(model: Path | None, key: Path | None, output: Path | None, new_key: Path | None) -> None:
    """Sign MODEL with a private key, so that boxes can tell it from others.

    `watch --require-signature KEY.pub` runs only models that are signed with KEY, also on reload. The signature is
    part of the file: sign it last, because `enroll` leaves it out. Keep KEY off the boxes. Needs the extra `sign`;
    nothing is sent anywhere.
    """
    from twincar_edge.errors import InputError
    from twincar_edge.files import sha256, write_bytes
    from twincar_edge.manifest import read_manifest
    from twincar_edge.signatures import make_key_pair, signed

    if new_key is not None:
        if model is not None or key is not None or output is not None:
            raise click.UsageError("--new-key makes keys and signs nothing: give it alone")
        click.echo(f"wrote {new_key} (keep it secret) and {make_key_pair(new_key)}")
        return
    if model is None or key is None:
        raise click.UsageError("give a MODEL and --key KEY, or --new-key KEY")
    read_manifest(model)  # it is a model of ours, and whole
    try:
        data = model.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from error
    target = output or model
    write_bytes(target, signed(data, key, str(model)))
    click.echo(f"signed {target}: sha256 {sha256(target)}")
