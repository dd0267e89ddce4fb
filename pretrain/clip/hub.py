"""Asking the model hub without waiting for it: copies on this machine first, then one short question."""

from collections.abc import Iterator
from contextlib import contextmanager

HUB_SECONDS = 10
"""How long the hub may take to answer before it counts as out of reach."""


@contextmanager
def local_copies_only(only: bool = True) -> Iterator[None]:
    """Within it, the hub's libraries look at their copies on this machine and miss the rest at once.

    They would otherwise try an unreachable hub for most of a minute per file.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or only
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers(name: str = "openai/clip-vit-base-patch32") -> bool:
    """Whether the hub can be reached and may be asked; ``name`` is a repository to ask for."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except OfflineModeIsEnabled:
        return False
    except HfHubHTTPError as error:  # it answered, be it with a no; a gateway's 5xx is no answer
        return error.response is not None and error.response.status_code < 500
    except Exception:  # no network, no name server, a proxy that refuses
        return False
    return True
