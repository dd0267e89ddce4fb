"""Repository names on the Hugging Face hub; the prefix ``hub:`` keeps mistyped folders off the network."""

import re

from engine.user_error import UserError

HUB = "hub:"


def repository(place: str) -> str | None:
    """Return ``owner/name`` if ``place`` names a repository, or None if it is a local path."""
    if not place.startswith(HUB):
        return None
    name = place.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{place} is not a name on the Hugging Face hub: write {HUB}owner/name")
    return name


def hint(place: str) -> str:
    """Return the end of an error sentence for a path that may be meant as a name on the hub; else ""."""
    if place.count("/") != 1 or place.startswith((".", "/", "~")):
        return ""
    return f"; a name on the Hugging Face hub is written {HUB}{place}"
