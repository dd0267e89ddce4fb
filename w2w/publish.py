"""Upload a trained converter to the Hugging Face hub: ``python -m w2w.publish FOLDER owner/name``.

FOLDER is an export: its weights, its model card (README.md: training speech, consent, scores) and their
companion files are uploaded to a private repository, with a checksum of every file. ``--onnx live.onnx`` adds
a streaming step exported as one file. Loading it as ``hub:owner/name`` verifies the checksums.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, RepoCard

from engine.arguments import Arguments
from engine.hub import HUB, repository
from engine.user_error import UserError, exits_cleanly

CARD, SUMS = "README.md", "SHA256SUMS"
PARTS = ("config.json", "model.safetensors", "voice.safetensors", "words/*", "vocoder/*")
"""Patterns of the files that a converter may consist of."""
ABOUT: dict[str, Any] = {
    "library_name": "timbre",
    "pipeline_tag": "audio-to-audio",
    "tags": ["voice-conversion"],
}


class Published(ModelHubMixin, **ABOUT):
    """An exported folder, with its card, that can be uploaded to the hub and downloaded from it.

    ``push_to_hub("owner/name", private=True)`` and ``from_pretrained("owner/name")`` are the mixin's.
    """

    def __init__(self, folder: str | Path, onnx: str | Path | None = None) -> None:
        self.folder, self.onnx = Path(folder), Path(onnx) if onnx else None

    def _save_pretrained(self, save_directory: Path) -> None:
        if not (self.folder / "model.safetensors").is_file():
            raise UserError(
                f"{self.folder} is no exported converter: export its run by `timbre export` first"
            )
        if not (self.folder / CARD).is_file():
            raise UserError(
                f"{self.folder} has no {CARD}: write a card first, with its training speech, consent,"
                " scores and known failures"
            )
        for file in (file for part in PARTS for file in self.folder.glob(part) if file.is_file()):
            copy = save_directory / file.relative_to(self.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        if self.onnx is not None:
            shutil.copyfile(self.onnx, save_directory / self.onnx.name)
        card = RepoCard((self.folder / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=True)
        metadata = self._hub_mixin_info.model_card_data.to_dict() | card.data.to_dict()
        for name, value in metadata.items():
            card.data[name] = value
        card.save(save_directory / CARD)
        write_sums(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "Published":
        return cls(download(model_id, local_files_only=bool(options.get("local_files_only"))))


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files, in the format of ``sha256sum --check``."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, name: str) -> None:
    """Raise if a file differs from the published one; a repository without checksums is accepted."""
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        expected, _, inside = line.partition("  ")
        file = folder / inside
        if file.is_file() and digest(file) != expected:
            raise UserError(
                f"{HUB}{name}: {inside} is not what was published (another checksum): remove {folder} and"
                " fetch it again"
            )


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def download(name: str, *, local_files_only: bool = False) -> Path:
    """Download a repository's converter, card and checksums, unless cached; return the local folder."""
    from huggingface_hub import hf_hub_download, snapshot_download

    hf_hub_download(name, "config.json", local_files_only=local_files_only)
    folder = Path(hf_hub_download(name, "model.safetensors", local_files_only=local_files_only)).parent
    try:  # a voice, a tie to words and a vocoder are optional
        snapshot_download(name, allow_patterns=[*PARTS, CARD, SUMS], local_files_only=local_files_only)
    except Exception as error:  # the hub's errors have no common base class
        if not local_files_only:
            raise error
    check_sums(folder, name)
    return folder


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("w2w.publish", __doc__)
    parser.add_argument("folder", type=Path, help="folder of the exported converter")
    parser.add_argument("name", help="owner/name of the repository")
    parser.add_argument("--onnx", type=Path, help="a streaming step exported as one file, to add")
    parser.add_argument("--public", action="store_true", help="make the repository public (default: private)")
    args = parser.parse_args(argv)
    name = repository(args.name if args.name.startswith(HUB) else HUB + args.name)
    if args.onnx is not None and not args.onnx.is_file():
        raise UserError(f"there is no file {args.onnx}: make it by `timbre export --format onnx`")
    where = Published(args.folder, args.onnx).push_to_hub(str(name), private=not args.public)
    print(f"published: {where}\nuse it by --checkpoint {HUB}{name}")


if __name__ == "__main__":
    main()
