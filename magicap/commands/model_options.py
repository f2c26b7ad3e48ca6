"""Which models a command captions with: options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from magicap.commands.options import About, options_of
from magicap.commands.shared import commits_of, no_garbage_collection

if TYPE_CHECKING:
    from magicap.captioners.load import AnyCaptioner


@dataclass(frozen=True)
class ModelOptions:
    """The models of a captioner, in place of its preset's, and where they run."""

    language_model: Annotated[str | None, About("FOLDER|ID")] = None
    """Another language model than the preset's: a folder, or an id of the hub."""

    scorer: Annotated[str | None, About("NAME:TAG|ID|FOLDER")] = None
    """Another scorer than the preset's: open_clip's name and tag or hf-hub:OWNER/NAME, a CLIPModel of
    transformers by OWNER/NAME, or a folder of either."""

    revision: Annotated[list[str] | None, About("OWNER/NAME@COMMIT")] = None
    """Load this commit of a repository of the hub that the captioner is made of; default: the preset's own
    commits."""

    device: Annotated[str | None, About("NAME")] = None
    """Where the models run: cpu, cuda, ...; default: a GPU if there is one."""

    dtype: Annotated[str, About("NAME")] = "float32"
    """Precision of the models: float32, bfloat16, float16; int8: zero-shot captioners, on a processor."""

    def load(self, preset: str, memory: int | None = None) -> AnyCaptioner:
        """A captioner of either kind, as :func:`magicap.load_captioner` and ``Captioner.from_parts`` give it.

        Args:
            preset: a preset's name, a folder or a repository, whose parts are taken where no other is named.
            memory: as of ``Captioner.from_pretrained``.
        """
        commits = commits_of(self.revision)
        with no_garbage_collection():
            from magicap.captioners import load

            if self.language_model is None and self.scorer is None:
                return load.load_captioner(
                    preset, device=self.device, dtype=self.dtype, revision=commits, memory=memory
                )
            from magicap.captioners.zero_shot import Captioner

            return Captioner.from_parts(
                self.language_model,
                self.scorer,
                preset=preset,
                device=self.device,
                dtype=self.dtype,
                memory=memory,
                revision=commits,
            )


@dataclass(frozen=True)
class MemoryOptions:
    """Whether a captioner of two models without a memory samples one."""

    memory: Annotated[int | None, About(exclusive="memory")] = None
    """Captions of the memory that is sampled, once, if the captioner has none; default: 10,000."""

    no_memory: Annotated[bool, About(exclusive="memory")] = False
    """Caption without a memory: plain magic search."""

    @property
    def samples(self) -> int | None:
        """As ``memory`` of ``Captioner.from_pretrained``."""
        return 0 if self.no_memory else self.memory


MODEL_OPTIONS = (*options_of(ModelOptions), *options_of(MemoryOptions))
"""Both, as the commands that caption declare them."""
