"""The groups of params.yaml that are about data: sources, gates, split, views. root.py joins them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _ordered(bounds: list[float]) -> list[float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first number must not be above the second")
    return bounds


Pair = Field(min_length=2, max_length=2)
Range = Annotated[list[Positive], Pair, AfterValidator(_ordered)]
ShareRange = Annotated[list[Annotated[Positive, Field(le=1)]], Pair, AfterValidator(_ordered)]


class Strict(BaseModel):
    """No unknown keys, no coercion of strings to numbers, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SampleSource(Strict):
    """Emoji art with Chinese names and keywords, out of pinned wheels."""

    kind: Literal["sample"]
    root: str  # the list of wheel hashes
    art: Annotated[list[Literal["openmoji", "noto", "twemoji"]], Field(min_length=1)]
    concepts: Count | None = None  # how many concepts to take, null for all
    picture_px: Count = 144  # side at which SVG drawings are rendered


class ContestSource(Strict):
    """The contest's attachments 1 to 3: labelled pairs and both tasks."""

    kind: Literal["contest"]
    root: str  # the folder that holds them, at any depth


class TableSource(Strict):
    """Any CSV, TSV, JSONL or Parquet file with a picture column and caption columns."""

    kind: Literal["table"]
    root: str  # the folder that the picture paths start from
    file: str  # the table, relative to `root`
    image: str  # column with a path relative to `root`, or with the encoded bytes (Parquet)
    captions: Annotated[list[str], Field(min_length=1)]  # columns; in Parquet and JSONL a cell may hold a list
    image_id: str | None = None  # column; null: the path, or the sha256 of the bytes
    group: str | None = None  # column: pictures of one group stay in one split
    category: str | None = None  # column
    split: str | None = None  # column with train, valid or test


class ChineseClipSource(Strict):
    """Chinese-CLIP's form: {split}_imgs.tsv (base64) and {split}_texts.jsonl. MUGE, Flickr30k-CN, COCO-CN."""

    kind: Literal["chinese_clip"]
    root: str


class ZeroSource(Strict):
    """R2D2's form: json lists of pictures and captions. Zero's ICR, IQR, ICM, IQM, Flickr30k-CNA."""

    kind: Literal["zero"]
    root: str


class WebdatasetSource(Strict):
    """Tars with jpg, png or webp beside txt or json of the same key."""

    kind: Literal["webdataset"]
    root: str  # a folder of tars, or a CSV list of shards: address,size,sha256,pairs
    caption: str = "caption"  # key of the caption in json members


Source = Annotated[
    SampleSource | ContestSource | TableSource | ChineseClipSource | ZeroSource | WebdatasetSource,
    Field(discriminator="kind"),
]
Corpus = dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], Source]


class Validate(Strict):
    """Thresholds of the data-quality gates."""

    min_side_px: Count  # smaller pictures are quarantined
    max_pixels: Count  # larger pictures are quarantined before they are decoded
    max_aspect: Annotated[float, Field(ge=1)]  # long side / short side; more is a warning
    max_chars: Count  # longer captions are quarantined
    max_pictures_per_caption: Count  # a caption on more pictures is a warning
    max_quarantined_share: Share  # critical: more bad rows than this stops the stage
    max_group_share: Share  # critical: a split group with more of the labelled pictures
    max_drift: Share  # Kolmogorov-Smirnov distance between labelled and task sets; more is a warning
    full_doctor_pairs: Count  # of a corpus that stays where it is: of more pairs, a sample is measured
    doctor_share: Annotated[float, Field(gt=0, le=1)]  # of the pairs of such a corpus


class Split(Strict):
    """Shares of the labelled groups; the rest is train."""

    seed: int
    valid: SplitShare
    test: SplitShare
    official: bool  # keep the source's own train, valid and test where it names them


class Pairs(Strict):
    """What the baseline thinks of the labelled pairs."""

    min_cosine: Annotated[float, Field(ge=-1, le=1)]  # a pair below it is doubtful
    lowest: Count  # doubtful pairs that the report shows


class Policy(Strict):
    """How a view differs from its original."""

    crop_scale: ShareRange  # share of the area that a crop keeps
    crop_ratio: Range  # width / height of a crop, relative to the picture's own
    flip: bool  # mirror half of the views
    flip_captions: Literal["keep", "swap"]  # where a caption says 左 or 右: no flip, or both swapped
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]  # largest turn either way
    zoom: Range  # scale of the picture on its white ground before the crop
    colour: Share  # strength of the change in brightness, contrast and saturation
    grey: Share  # share of views without colour
    outline: Share  # share of views whose edges are drawn over in black, as in a comic
    text: list[Literal["shuffle_list", "drop_from_list"]]  # on captions that are lists joined by 、


class NoParaphrase(Strict):
    """Captions as they are."""

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
    """Ready paraphrases: a CSV with the columns caption, paraphrase."""

    kind: Literal["file"]
    path: str
    sha256: Sha256  # of the file, so that a change of it is seen


class OpenccParaphrase(Strict):
    """Words of Taiwan in simplified characters, by OpenCC."""

    kind: Literal["opencc"]


class Synonyms(Strict):
    """Words replaced by synonyms."""

    kind: Literal["synonyms"]
    share: Share  # of the words that have one


Paraphrase = Annotated[
    NoParaphrase | Marian | ParaphraseFile | OpenccParaphrase | Synonyms, Field(discriminator="kind")
]


class Augment(Strict):
    """Views for fine-tuning."""

    seed: int
    mode: Literal["stored", "online"]  # views on disk, the same in every epoch, or fresh ones in each
    splits: Annotated[list[Literal["train", "valid", "test"]], Field(min_length=1)]  # selection uses train alone
    views: Count  # per pair; view 0 is the picture rule alone
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    policy: Policy
    paraphrase: Paraphrase  # of half of the views but view 0
