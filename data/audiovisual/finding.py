"""Finding the scenes of a folder, a manifest, VGGSound or a dataset."""

from pathlib import Path

from data.audiovisual import hub, layouts
from data.audiovisual.scenes import Layout, Scene
from engine.user_error import UserError


def scenes_from(
    path: str | Path, layout: Layout = "auto", *, split: str | None = None, out: str | Path | None = None
) -> list[Scene]:
    """Find the scenes of a folder, a manifest, VGGSound's csv or a dataset (``layout`` "hub").

    Scenes that lack a sound or a picture are left out, counted and named in one warning; the layouts are told
    in ``data.audiovisual.layouts``. ``split`` keeps only those of a split. ``out`` is where sounds and
    pictures stored inside a dataset are written (``runs/scenes/NAME`` by default).
    """
    path = Path(path)
    match layouts.layout_of(path) if layout == "auto" else layout:
        case "videos":
            scenes = layouts.from_videos(path)
        case "vggsound":
            scenes = layouts.from_vggsound(path)
        case "pairs":
            scenes = layouts.from_pairs(path)
        case "hub":
            scenes = hub.from_dataset(str(path), Path(out) if out else Path("runs/scenes") / path.name)
        case unknown:
            known = "auto, videos, vggsound, pairs, hub"
            raise UserError(f"there is no layout {unknown!r} of scenes; choose one of {known}")
    if split is None:
        return scenes
    kept = [scene for scene in scenes if scene.split == split]
    if not kept:
        splits = ", ".join(sorted({scene.split for scene in scenes if scene.split})) or "none"
        raise UserError(f"{path} holds no scene of the split {split!r} (it has: {splits})")
    return kept
