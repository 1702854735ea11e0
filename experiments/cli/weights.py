"""``weights``: download a pretrained CLIP."""

from typing import Annotated

import typer


def weights_command(
    name: Annotated[str, typer.Argument(help="Name of an open_clip model, such as ViT-B-16")],
    tag: Annotated[str, typer.Argument(help="Pretrained tag, such as openai")],
) -> None:
    """Download a pretrained CLIP from open_clip. No other command downloads anything."""
    from core.clip.backbone import about, fetch, load_clip

    print(f"weights {tag!r} of {name!r}: {about(name, tag)}", flush=True)
    path = fetch(name, tag)
    clip = load_clip(name, tag)
    print(f"{clip.name} is ready, fingerprint {clip.spec.fingerprint}: {path}")
