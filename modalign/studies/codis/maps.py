"""The places that the model looks at, and its use of codewords."""

import math
from collections.abc import Sequence

import torch

from modalign.data import shapes
from modalign.metrics import pointing_game
from modalign.models.codis import Towers, grad_cam
from modalign.studies._seen import as_seen
from modalign.studies.codis.pairs import ready, scenes
from modalign.studies.codis.pretraining import Run


def pointing(run: Run, *, moved: bool = False) -> dict[str, float]:
    """Do Grad-CAM maps of single words lie on what the words name? On test scenes of the world.

    Of each object whose description is its own, the map of the last word of its name, "star" in
    "a large red star", is compared with the visible part of the object.

    Args:
        run: pretrained.
        moved: compare maps with the scenes :func:`modalign.studies._seen.as_seen`. An object that
            leaves the picture so is left out.

    Returns:
        ``pointing``, the mean of the pointing game in percent, and ``pointing_by_chance``, that of
        constant maps: the part of the picture that the object fills.
    """
    pairs = run.splits["test"].to(run.model.itm_head.weight.device)
    drawn = scenes(run.setting.seed, "test", len(pairs.pixels))
    resolution, patch = run.setting.resolution, run.model.config.patch
    seen = [as_seen(scene, resolution, patch) if moved else scene for scene in drawn]
    masks = torch.from_numpy(shapes.render_images(seen, resolution).masks)
    maps, shown = [], []
    for rows in torch.arange(len(drawn)).split(128):
        here = rows.to(pairs.pixels.device)
        batch = {
            "pixel_values": pairs.pixels[here],
            "input_ids": pairs.input_ids[here],
            "attention_mask": pairs.attention_mask[here],
        }
        cams = grad_cam(run.model, ready(batch)).cpu()
        for i, cam in zip(rows.tolist(), cams, strict=True):
            tokens = [run.tokenizer.id_to_token(int(each)) for each in pairs.input_ids[i]]
            length = int(pairs.attention_mask[i].sum())
            for k, place in named_objects(drawn[i], tokens[:length]):
                if masks[i, k].any():
                    maps.append(cam[place])
                    shown.append(masks[i, k])
    side = math.isqrt(maps[0].numel())
    stacked, mask = torch.stack(maps).unflatten(1, (side, side)), torch.stack(shown)
    return {
        "pointing": 100 * pointing_game(stacked, mask).mean().item(),
        "pointing_by_chance": 100 * mask.double().mean().item(),
    }


def named_objects(scene: shapes.Scene, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Which object each name of a caption of :func:`captions` is of, and where its last word is.

    >>> named_objects(scenes(0, "train", 1)[0], ["[CLS]", "a", "star", ",", "a", "x", "and", "y"])
    [(0, 2), (1, 5), (2, 7)]
    """
    ends = [i - 1 for i, token in enumerate(tokens) if token in (",", "and")] + [len(tokens) - 1]
    described = [shapes.Description.of(o) for o in scene.objects]
    places = dict(zip(dict.fromkeys(described), ends, strict=True))
    return [(k, places[d]) for k, d in enumerate(described) if described.count(d) == 1]


@torch.no_grad()
def codewords(run: Run) -> dict[str, float]:
    """How many codewords are used, and how sparse a plan is.

    Returns:
        ``codewords_used``, the exponential of the entropy of the nearest codewords of the test
        pictures, K if all are used alike; ``plan_entries`` of the plan of a batch, those above
        a hundredth of 1 / max(N, K); and their bounds, ``vertex_bound``, N + K - 1,
        and ``paper_bound``, 2 max(N, K) - 1.
    """
    model, pairs = run.model, run.splits["test"].to(run.model.itm_head.weight.device)
    images = ready({"pixel_values": pairs.pixels})["pixel_values"]
    teacher = model.teacher.module
    assert isinstance(teacher, Towers)
    z = torch.cat([teacher.see(each)[1] for each in images.split(256)])
    k, n = model.config.prototypes, min(run.setting.batch_size, len(z))
    shares = torch.bincount(model.codebook.similarity(z).argmax(1), minlength=k) / len(z)
    plan = model.codebook.plan(z[:n])
    return {
        "codewords_used": torch.special.entr(shares).sum().exp().item(),
        "plan_entries": float((plan > 0.01 / max(n, k)).sum()),
        "vertex_bound": float(n + k - 1),
        "paper_bound": float(2 * max(n, k) - 1),
    }
