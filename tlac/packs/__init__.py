"""Response packs: answers as JSON Lines that travel between machines. Nothing in a pack can execute."""

from tlac.packs.manifest import Manifest, PackSpec, PromptsRecord, read_manifest
from tlac.packs.reading import read_pack
from tlac.packs.writing import write_pack

__all__ = ["Manifest", "PackSpec", "PromptsRecord", "read_manifest", "read_pack", "write_pack"]
