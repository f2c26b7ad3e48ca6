"""The model card of a captioner that goes to the hub: metadata for the hub, how to use it, its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicap.version import __version__

if TYPE_CHECKING:
    from magicap.metrics.suite import Report


@dataclass(frozen=True)
class HubCard:
    """What only the captioner's maker knows of it. See https://huggingface.co/docs/hub/model-cards."""

    description: str = ""
    """What it captions well, and what not; Markdown."""

    license: str | None = None
    """Its identifier on the hub, e.g. ``apache-2.0``."""

    base_models: Sequence[str] = ()
    """Repositories that its parts were trained from."""

    datasets: Sequence[str] = ()
    """Repositories or names of the data that it learned from."""

    language: str = "en"
    """Code of the language of its captions."""

    report: Report | None = None
    """What :func:`magicap.evaluate` gave; stands in the card with the signature of each figure."""

    def text(self, repository: str, provenance: str) -> str:
        """The card of a captioner.

        Args:
            repository: OWNER/NAME.
            provenance: fingerprint and decoding, for people.
        """
        from huggingface_hub import ModelCardData

        data = ModelCardData(
            language=self.language,
            license=self.license,
            library_name="magicap",
            pipeline_tag="image-to-text",
            tags=["image-captioning"],
            base_model=list(self.base_models) or None,
            datasets=list(self.datasets) or None,
        )
        name = repository.partition("/")[2]
        parts = [
            f"---\n{data.to_yaml()}\n---",
            f"# {name}",
            self.description.strip(),
            "```python\n"
            "from magicap import load_captioner\n\n"
            f'captioner = load_captioner("{repository}")\n'
            'print(captioner.caption("photo.jpg"))\n'
            "```",
            f"```bash\nmagicap caption photo.jpg --preset {repository}\n```",
            f"Written by magicap {__version__}. {provenance}",
            self._figures(),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _figures(self) -> str:
        if self.report is None:
            return ""
        rows = []
        for score in self.report.scores.values():
            signature = ", ".join(f"{name} {value}" for name, value in score.signature.items())
            rows.append(f"| {score.name} | {score.text} | {signature} |")
        return "\n".join(["| figure | value | measured with |", "|---|--:|---|", *rows])
