"""TaskRes against values computed by hand."""

import torch

from tests.helpers.tiny_clip import CLASSES, batch, make_method, shared_tiny_clip

TEMPLATES = ("a photo of a {}.", "one {}")


def raw_mean(clip):
    """The mean over templates of the texts, as the towers give them."""
    views = [[t.format(n.replace("_", " ")) for n in CLASSES.names] for t in TEMPLATES]
    return (clip.encode_texts(views[0]) + clip.encode_texts(views[1])) / 2


def test_the_residual_is_scaled_and_added_to_the_raw_text():
    """A residual of 3 |b| / alpha across b, with |b| kept: (1, 3) in their plane."""
    clip = shared_tiny_clip()
    method = make_method("TaskRes", clip, alpha=0.25, templates=TEMPLATES)
    base = raw_mean(clip)
    torch.testing.assert_close(method.class_texts(), base / base.norm(dim=-1, keepdim=True))
    first = base[2] / base[2].norm()
    across = base[4] - (base[4] @ first) * first
    across /= across.norm()
    with torch.no_grad():
        method.residual[2] = 3 * base[2].norm() / 0.25 * across
    moved = method.class_texts()
    found = torch.stack([moved[2] @ first, moved[2] @ across])
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0]) / 10**0.5)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(moved[others], (base / base.norm(dim=-1, keepdim=True))[others])


def test_the_residual_starts_at_zero():
    method = make_method("TaskRes", shared_tiny_clip())
    assert method.residual.shape == (5, 32) and not method.residual.detach().any()
    zero_shot = make_method("ZeroShot", shared_tiny_clip())
    torch.testing.assert_close(method(batch()).logits(), zero_shot(batch()).logits())
