"""One page of a comparison that needs nothing else: figures, plots, every caption, every signature."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from math import isfinite
from string import Template
from typing import Any

from magicap.errors import BadSettings, MagicapError
from magicap.evaluation.comparison import CERTAIN, Comparison, Estimate, System
from magicap.evaluation.plots import COLOURS, Plot, histograms, metric_plots
from magicap.metrics.score import Score
from magicap.metrics.suite import FIGURES, figure_of
from magicap.pages import escaped, replace_surrogates, small_jpeg, why_unreadable

Picture = Callable[[str], bytes | None]


def html_report(
    comparison: Comparison, picture: Picture | None = None, *, grid: bool = True, thumbnail: int = 160
) -> str:
    """The comparison as one HTML page that loads nothing; the same comparison gives the same page.

    Args:
        picture: the encoded picture of a name; None or a KeyError where there is none. Without it, the page
            shows no pictures.
        grid: whether to show every image's captions, references and picture. Without it the page holds none
            of them, for data that may not be passed on.
        thumbnail: long side of the pictures, in pixels.

    Raises:
        BadSettings: a thumbnail without pixels.
        MissingPackage: matplotlib is not installed.
    """
    if thumbnail < 1:
        raise BadSettings(f"thumbnail: expected a long side of at least 1 pixel, found {thumbnail}")
    script = _asset("report.js")
    hidden = set() if grid else _texts(comparison)
    return Template(_asset("report.html")).substitute(
        title=escaped(comparison.title.strip() or "Comparison"),
        style=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_facts(comparison),
        captions_link='<a href="#captions">Captions</a>' if grid else "",
        table=_table(comparison),
        confidence=f"{100 * comparison.confidence:g} %",
        against=escaped(comparison.against),
        neutral=", ".join(sorted(name for name, figure in FIGURES.items() if not figure.higher_is_better)),
        certain=CERTAIN,
        absent=_absent(comparison.absent),
        plots=_plots(comparison),
        grid=Template(_asset("report_grid.html")).substitute(note=_grid_note(comparison)) if grid else "",
        signatures="\n".join(_signatures(comparison, system, hidden) for system in comparison.systems),
        data=_data(comparison, picture, thumbnail) if grid else "",
    )


def _asset(name: str) -> str:
    return resources.files("magicap.evaluation").joinpath(name).read_text(encoding="utf-8")


def _facts(comparison: Comparison) -> str:
    """What holds for the whole page, and the entries that all signatures share."""
    facts = {
        "images": f"{len(comparison.images):,}",
        **_common(comparison),
        "intervals": f"{100 * comparison.confidence:g} %",
        "resamples": f"{comparison.resamples:,}",
        "seed": str(comparison.seed),
        "compared against": comparison.against,
    }
    texts = ((escaped(name), escaped(value)) for name, value in facts.items())
    return "\n".join(f"<div><dt>{name}</dt><dd><bdi>{value}</bdi></dd></div>" for name, value in texts)


def _common(comparison: Comparison) -> dict[str, str]:
    """Entries that stand in every signature, and alike."""
    signatures = [
        estimate.score.signature for row in comparison.estimates.values() for estimate in row.values()
    ]
    hidden = _texts(comparison)
    return {
        key: value
        for key, value in (signatures[0] if signatures else {}).items()
        if key not in ("metric", "n") and value not in hidden
        if all(signature.get(key) == value for signature in signatures)
    }


def _texts(comparison: Comparison) -> set[str]:
    """Every caption and reference."""
    captions = {text for system in comparison.systems for text in system.captions}
    return captions | {text for texts in comparison.references for text in texts}


def _table(comparison: Comparison) -> str:
    metrics = comparison.metrics
    best = {metric: _best(comparison, metric) for metric in metrics}
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escaped(name)}</button></th>'
        for name in ["system", *metrics]
    )
    rows = "\n".join(_row(comparison, i, best) for i in range(len(comparison.systems)))
    return f'<table class="figures">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def _row(comparison: Comparison, i: int, best: Mapping[str, float | None]) -> str:
    system = comparison.systems[i]
    tags = (["baseline"] if system.baseline else []) + (
        ["compared against"] if system.name == comparison.against else []
    )
    swatch = f'<span class="swatch" style="--colour: var(--s{i % COLOURS})"></span>'
    label = f"{swatch}<bdi>{escaped(system.name)}</bdi>"
    label += "".join(f' <span class="tag">{tag}</span>' for tag in tags)
    cells = "".join(_cell(comparison, system, *column) for column in best.items())
    kind = ' class="baseline"' if system.baseline else ""
    return f'<tr{kind}><th scope="row" data-value="{escaped(system.name)}">{label}</th>{cells}</tr>'


def _best(comparison: Comparison, metric: str) -> float | None:
    """The highest value, where higher is better and there is another to be better than."""
    values = [row[metric].score.value for row in comparison.estimates.values() if metric in row]
    values = [value for value in values if isfinite(value)]
    if not figure_of(metric).higher_is_better or len(values) < 2 or min(values) == max(values):
        return None
    return max(values)


def _cell(comparison: Comparison, system: System, metric: str, best: float | None) -> str:
    estimate = comparison.estimates[system.name].get(metric)
    if estimate is None:
        return "<td>–</td>"
    score = estimate.score
    text = f'<b title="highest">{score.text}</b>' if score.value == best else score.text
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        low, high = (score.scaled(end) for end in (estimate.low, estimate.high))
        interval = f"<small>{low:.2f} to {high:.2f}</small>"
    value = f"{score.value!r}" if isfinite(score.value) else ""
    difference = _difference(comparison, system, metric, estimate)
    caveats = "".join(f"<small>{escaped(caveat)}</small>" for caveat in score.caveats)
    return f'<td data-value="{value}">{text}{interval}{difference}{caveats}</td>'


def _difference(comparison: Comparison, system: System, metric: str, estimate: Estimate) -> str:
    """The difference from the system compared against, marked where it is more than chance."""
    difference = estimate.difference
    if difference is None or not isfinite(difference) or system.name == comparison.against:
        return ""
    rated = figure_of(metric).higher_is_better
    side = ("better", "worse") if rated else ("higher", "lower")
    word, sign = (side[0], "▲") if difference > 0 else (side[1], "▼")
    scaled = estimate.score.scaled(difference)
    sentence = f"{metric} of {system.name}: {scaled:+.2f} from {comparison.against}"
    if estimate.p_value is None:
        return f'<small title="{escaped(sentence)}, not tested">{scaled:+.2f}</small>'
    p = f"p = {estimate.p_value:.2g}" if estimate.p_value >= 0.001 else "p &lt; 0.001"
    if estimate.difference_low is not None and estimate.difference_high is not None:
        low, high = (estimate.score.scaled(x) for x in (estimate.difference_low, estimate.difference_high))
        sentence += f" ({100 * comparison.confidence:g} % interval {low:+.2f} to {high:+.2f})"
    certain = estimate.p_value < CERTAIN and difference != 0
    sentence += f", {word}" if certain else ", within chance"
    kind = "" if not certain else f' class="{word if rated else "apart"}"'
    mark = f'{sign}<span class="unseen"> {word} by</span> ' if certain else ""
    return f'<small{kind} title="{escaped(sentence)}, {p}">{mark}{scaled:+.2f}, {p}</small>'


def _absent(absent: Mapping[str, str]) -> str:
    items = "".join(f"<li><b>{escaped(name)}</b>: {escaped(reason)}</li>" for name, reason in absent.items())
    return f'<h3>Not measured</h3>\n<ul class="note">{items}</ul>' if items else ""


def _plots(comparison: Comparison) -> str:
    kinds = {"plots": metric_plots(comparison), "plots wide": histograms(comparison)}
    groups = [
        f'<div class="{kind}">{"".join(map(_figure, plots))}</div>' for kind, plots in kinds.items() if plots
    ]
    return "\n".join(groups) or '<p class="note">Nothing to draw.</p>'


def _figure(plot: Plot) -> str:
    note = f'<p class="note">{escaped(plot.note)}</p>' if plot.note else ""
    return f"<figure><figcaption><h3>{escaped(plot.title)}</h3></figcaption>{plot.svg}{note}</figure>"


def _grid_note(comparison: Comparison) -> str:
    note = 'Words <span class="new">underlined</span> in a caption stand in none of the image\'s references.'
    if lead := _lead(_by_image(comparison)):
        note = (
            f"Beside each caption stands its {escaped(lead)}, with the other figures on hover. “Disagree "
            f"most” puts images first on which the systems shown lie furthest apart. {note}"
        )
    return note


def _lead(metrics: Iterable[str]) -> str | None:
    """What captions are sorted by: CIDEr-D, or else the first metric of which more is better."""
    rated = [name for name in metrics if figure_of(name).higher_is_better]
    return "CIDEr-D" if "CIDEr-D" in rated else next(iter(rated), None)


def _by_image(comparison: Comparison) -> dict[str, Score]:
    """A score of each metric that has one for every image."""
    rows = comparison.estimates.values()
    scores = {
        name: estimate.score
        for row in rows
        for name, estimate in row.items()
        if estimate.score.per_image is not None
    }
    return {name: scores[name] for name in comparison.metrics if name in scores}


def _signatures(comparison: Comparison, system: System, hidden: set[str]) -> str:
    lines = []
    for name, estimate in comparison.estimates[system.name].items():
        # A constant baseline's signature holds the caption that it repeats.
        entries = {k: "(left out)" if v in hidden else v for k, v in estimate.score.signature.items()}
        lines.append(f"{name} {estimate.score.text}  " + "|".join(f"{k}:{v}" for k, v in entries.items()))
    return (
        f'<details class="signature"><summary><bdi>{escaped(system.name)}</bdi></summary>'
        f'<pre tabindex="0">{escaped(chr(10).join(lines))}</pre>'
        '<button type="button" class="copy">Copy</button></details>'
    )


def _data(comparison: Comparison, picture: Picture | None, thumbnail: int) -> str:
    """All captions, for the script. Nothing in it can end the element that holds it."""
    metrics = _by_image(comparison)
    data = {
        "images": list(comparison.images),
        "references": [list(texts) for texts in comparison.references],
        "pictures": picture and [_thumbnail(picture, name, thumbnail) for name in comparison.images],
        "systems": [
            {
                "name": system.name,
                "baseline": system.baseline,
                "colour": i % COLOURS,
                "captions": list(system.captions),
                "figures": {
                    name: _numbers(estimate.score)
                    for name, estimate in comparison.estimates[system.name].items()
                },
            }
            for i, system in enumerate(comparison.systems)
        ],
        "metrics": [{"name": name, "decimals": int(score.percent)} for name, score in metrics.items()],
        "lead": _lead(metrics),
    }
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for sign in "<\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="data">{replace_surrogates(text)}</script>'


def _numbers(score: Score) -> list[float | None]:
    """Of each image, as printed; None for what is no number."""
    if score.per_image is None:
        return []
    numbers = [score.scaled(float(number)) for number in score.per_image]
    return [round(number, 1) if isfinite(number) else None for number in numbers]


def _thumbnail(picture: Picture, name: str, side: int) -> dict[str, Any]:
    """A small JPEG and its size, or why there is none. Reasons name no paths: pages are passed on."""
    try:
        encoded = picture(name)
        if encoded is None:
            return {"why": "no picture"}
        jpeg, size = small_jpeg(encoded, side)
    except KeyError:
        return {"why": "no picture of that name"}
    except (MagicapError, OSError) as error:
        return {"why": why_unreadable(error)}
    return {"jpeg": jpeg, "size": size}
