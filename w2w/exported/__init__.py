"""A converter's step as a graph: exported to a file, or run in place of the network.

What it takes is imported when it is first used, for few converters are exported.
"""

from typing import Any


def open_engine(network: Any, name: str, chunk_hops: int) -> Any:
    """What runs a network's steps, which will mostly be ``chunk_hops`` hops long: see ``opened``."""
    from w2w.exported.opened import open_engine

    return open_engine(network, name, chunk_hops)
