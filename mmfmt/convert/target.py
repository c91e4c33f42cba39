"""Where a conversion goes: a folder, or a repo on the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mmfmt.hub import HubRepo, target_sizes


@dataclass(frozen=True)
class PushTarget(HubRepo):
    """A repo on the Hub that files are pushed to. It need not exist yet."""

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return target_sizes(self.repo_id)
