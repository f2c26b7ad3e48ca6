# The list of public names: what type checkers read, and what __init__.py imports on first use.

from magicap.captioners.load import caption as caption
from magicap.captioners.load import load_captioner as load_captioner
from magicap.captioners.supervised import SupervisedCaptioner as SupervisedCaptioner
from magicap.captioners.with_text import caption_with_text as caption_with_text
from magicap.captioners.zero_shot import Captioner as Captioner
from magicap.decoding.context import DecodingContext as DecodingContext
from magicap.decoding.retrieved import ConsensusCaption as ConsensusCaption
from magicap.decoding.retrieved import NearestCaption as NearestCaption
from magicap.decoding.settings import BeamMagicSearch as BeamMagicSearch
from magicap.decoding.settings import ContrastiveSearch as ContrastiveSearch
from magicap.decoding.settings import Greedy as Greedy
from magicap.decoding.settings import MagicSearch as MagicSearch
from magicap.decoding.settings import Nucleus as Nucleus
from magicap.decoding.settings import TopK as TopK
from magicap.errors import BadData as BadData
from magicap.errors import BadImage as BadImage
from magicap.errors import BadIndex as BadIndex
from magicap.errors import BadModel as BadModel
from magicap.errors import BadSettings as BadSettings
from magicap.errors import ImageNotFound as ImageNotFound
from magicap.errors import MagicapError as MagicapError
from magicap.errors import MetricUnavailable as MetricUnavailable
from magicap.errors import MissingPackage as MissingPackage
from magicap.errors import ModelNotFound as ModelNotFound
from magicap.matching.pictures import MatchSettings as MatchSettings
from magicap.matching.pictures import PictureMatches as PictureMatches
from magicap.matching.pictures import match_pictures as match_pictures
from magicap.models.language_model import LanguageModel as LanguageModel
from magicap.models.scorer import ImageTextScorer as ImageTextScorer
from magicap.ocr.reading import read_text as read_text
from magicap.ocr.settings import OcrSettings as OcrSettings
from magicap.results import Caption as Caption
from magicap.results import Hypothesis as Hypothesis
from magicap.results import Step as Step
from magicap.results import TextLine as TextLine
from magicap.retrieval.caption_memory import CaptionMemory as CaptionMemory
from magicap.retrieval.index import RetrievalIndex as RetrievalIndex
from magicap.retrieval.items import Item as Item
from magicap.retrieval.items import Match as Match
from magicap.runs.batch_captioner import BatchCaptioner as BatchCaptioner
from magicap.supervised.settings import BeamSearch as BeamSearch
from magicap.supervised.settings import Sampling as Sampling

__version__: str
