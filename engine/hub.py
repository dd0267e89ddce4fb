"""Names of repositories on the Hugging Face hub, which begin with ``hub:``: a mistyped folder asks nobody."""

import re

from engine.user_error import UserError

HUB = "hub:"


def repository(place: str) -> str | None:
    """``owner/name`` where a place names a repository, None where it names something on this machine."""
    if not place.startswith(HUB):
        return None
    name = place.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{place} is no name on the Hugging Face hub: write {HUB}owner/name")
    return name


def hint(place: str) -> str:
    """The way out for what may be meant as a name on the hub, to end a sentence with; else ""."""
    if place.count("/") != 1 or place.startswith((".", "/", "~")):
        return ""
    return f"; a name on the Hugging Face hub is written {HUB}{place}"
