"""`twincar-edge explain`: where the model looked."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.api.explain import explain
from twincar_edge.cli.options import checkpoint_argument
from twincar_edge.images import write_image


@click.command("explain")
@checkpoint_argument(required=False)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="overlay.png", show_default=True, help="The picture."
)
@click.option("--target", help="Look for this class, by name or output index.  [default: the best class]")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Tell what a box with this exported .onnx file tells.  [default: the bundled model, without CHECKPOINT]",
)
@click.option(
    "--class-mapping",
    type=click.Path(path_type=Path),
    help="Class names of CHECKPOINT, where it is a bare state dict.  [default: class_mapping.json beside it]",
)
def command(
    checkpoint: str | None,
    image: Path,
    output: Path,
    target: str | None,
    model: Path | None,
    class_mapping: Path | None,
) -> None:
    """Lay a Grad-CAM++ heat map over IMAGE: what CHECKPOINT based its answer on.

    CHECKPOINT is a .pt, .pth or .safetensors file: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION]. Without one, the
    bundled model explains itself. The first line is the answer: what a box tells, where the exported model is known.
    """
    wanted = int(target) if target is not None and target.isdecimal() else target
    explanation = explain(image, checkpoint, model=model, target=wanted, class_mapping=class_mapping)
    write_image(output, explanation.overlay_bgr)
    click.echo(explanation.prediction.name)
    for guess in explanation.top5:
        click.echo(f"{guess.probability:7.2%}  {guess.name}")
    looked_for = "" if explanation.target == explanation.name else f", evidence for {explanation.target}"
    click.echo(f"-> {output}{looked_for}")
