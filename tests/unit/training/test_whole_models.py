"""A whole model of a library on its way: measured, fine-tuned, embedded, classified, searched and written back."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.support.fg_clip import choose_patches, save_fg_clip
from tests.support.library_models import KINDS, SIZE_PX, TOKENS, pin, save_library_model
from tests.support.open_clip_models import open_clip, pin_open_clip, save_open_clip_model
from tests.support.search_client import build_client, search, wait_until_ready
from tests.support.search_project import INDEX, build_index, write_calibrations
from tests.support.training import FIT, caption, drawn, settings, write_set
from tests.support.weights import draw_pictures
from tuwen import cli
from tuwen.core.params import Params, Start
from tuwen.data.augment.stored_views import augment
from tuwen.model.dual_encoder import load_model
from tuwen.model.stored_model import copy_model
from tuwen.model.weights.export import export_model
from tuwen.retrieval.embed import embed_set
from tuwen.retrieval.retriever import load_retriever
from tuwen.training import recipes

CLEAN, AUGMENTED = Path("data/clean"), Path("data/augmented")
FINETUNED = "models/finetuned"
SETS = {"train": range(8), "valid": range(20, 26), "test": range(30, 34)}
CLASSES = sorted(["大熊猫", "竹林", "红色"])  # words that every small tokenizer tells apart
CAPTIONS = [caption(number) for number in SETS["test"]]


@torch.inference_mode()
def embed_by_open_clip(folder: Path, pictures: list[Any], captions: list[str]) -> tuple[Any, Any]:
    place = f"local-dir:{folder}"
    model, preprocess = open_clip.create_model_from_pretrained(place)
    pixels = torch.stack([preprocess(picture) for picture in pictures])
    ids = open_clip.get_tokenizer(place)(captions)
    return model.encode_image(pixels, normalize=True).numpy(), model.encode_text(ids, normalize=True).numpy()


@torch.inference_mode()
def embed_by_transformers(
    folder: Path, pictures: list[Any], captions: list[str], is_fg_clip: bool = False
) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
    words = tokenizer(captions, padding=padding, max_length=TOKENS, truncation=True, return_tensors="pt")
    prepare, images = AutoImageProcessor.from_pretrained(folder, backend="pil"), []
    for picture in pictures:
        patches = {"max_num_patches": choose_patches(picture)} if is_fg_clip else {}
        output = model(**words, **prepare(picture, return_tensors="pt", **patches))
        images.append(output.image_embeds.numpy())
    return np.concatenate(images), output.text_embeds.numpy()


class Whole(NamedTuple):
    """How a small model of a kind is made, named as a start, and written back."""

    save: Callable[[Path], Any]
    pin: Callable[[Path], Start]
    library: str
    form: str
    embed: Callable[[Path, list[Any], list[str]], tuple[Any, Any]]  # by the library, of a folder
    size_px: int = SIZE_PX


def make_whole(kind: str) -> Whole:
    by_transformers = (pin, "transformers", "hugging_face")
    if kind == "fgclip2":
        return Whole(save_fg_clip, *by_transformers, partial(embed_by_transformers, is_fg_clip=True))
    if kind in KINDS:
        return Whole(partial(save_library_model, kind), *by_transformers, embed_by_transformers)
    name = kind.removeprefix("open_clip_hub ")
    by_open_clip = (pin_open_clip, "open_clip", "open_clip", embed_by_open_clip)
    return Whole(partial(save_open_clip_model, name), *by_open_clip, 224 if name == "siglip2" else SIZE_PX)


class Project(NamedTuple):
    """A checkout in which such a model was fine-tuned and has embedded its sets."""

    root: Path
    kind: str
    whole: Whole
    params: Params


@pytest.fixture(scope="module", params=[*KINDS, "fgclip2", "open_clip_hub clip", "open_clip_hub siglip2"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    root, whole = tmp_path_factory.mktemp("whole"), make_whole(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        whole.save(Path("theirs"))
        params = settings(
            model=None,
            corpus={},
            image={"size_px": whole.size_px},
            text={"max_tokens": TOKENS},
            augment={"mode": "online"},
            baseline={"start": whole.pin(Path("theirs")).model_dump(), "fit": None, "policy": None},
            finetune={"fit": FIT | {"batch_size": 4, "epochs": 1, "warmup_steps": 0}},
        )
        for one, numbers in (*SETS.items(), ("corpus", ())):
            write_set(Path("data"), one, {"": numbers} if numbers else {})
        augment(CLEAN, AUGMENTED, params.augment, params.image)
        folders, log = (Path("models/baseline"), Path(FINETUNED)), (lambda *_: None)
        recipes.make_baseline(CLEAN, folders[0], params, Path(".cache/b"), log)
        recipes.make_finetuned(CLEAN, AUGMENTED, *folders, params, Path(".cache/f"), log)
        copy_model(folders[1], Path("models/final"))
        for folder in (*folders, Path("models/final")):
            embed_set(folder, CLEAN / "test", Path("embeddings") / folder.name / "test", params.embed)
    return Project(root, request.param, whole, params)


def read_vectors(project: Project, model: str, side: str = "images") -> Any:
    return np.load(project.root / "embeddings" / model / "test" / f"{side}.npy")


def test_it_is_measured_trained_on_fresh_views_and_embeds_by_its_own_rule(project: Project) -> None:
    folders = [project.root / "models" / name for name in ("baseline", "finetuned")]
    before, after = (json.loads((folder / "training.json").read_text()) for folder in folders)
    assert before["captions"]["train"]["captions"] == 8
    assert (after["pairs"], after["steps"]) == (8, 2)
    assert f"by {project.whole.library}" in (folders[0] / "README.md").read_text(encoding="utf-8")
    states = [load_model(folder).state_dict() for folder in folders]
    moved = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert {"image_tower", "text_tower", "log_scale"} <= {name.partition(".")[0] for name in moved}
    assert ("logit_bias" in moved) == ("siglip" in project.kind or project.kind == "fgclip2")
    assert np.abs(read_vectors(project, "baseline") - read_vectors(project, "finetuned")).max() > 1e-3
    assert np.array_equal(read_vectors(project, "final"), read_vectors(project, "finetuned"))
    asked = load_retriever(project.root / "models/final").encode_texts(CAPTIONS)
    assert np.abs(asked - read_vectors(project, "final", "texts")).max() < 1e-6


def test_what_was_trained_is_written_back_and_its_library_computes_the_same(project: Project) -> None:
    out = project.root / "back"
    export_model(project.whole.form, project.root / FINETUNED, out)
    retriever, pictures = load_retriever(project.root / FINETUNED), draw_pictures()
    images, texts = project.whole.embed(out, pictures, [one.lower() for one in CAPTIONS])
    assert np.abs(retriever.encode_texts(CAPTIONS) - texts).max() < 1e-5
    assert np.abs(retriever.encode_images(pictures) - images).max() < 1e-5


def test_it_classifies_pictures_by_the_nearest_prompt(project: Project) -> None:
    folder, template = project.root / "分类", "一张{}的图片"
    truth = np.arange(12) % len(CLASSES)
    files = [folder / CLASSES[label] / f"{number:02d}.png" for number, label in enumerate(truth)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn(number))
    (project.root / "templates.txt").write_text(template, encoding="utf-8")
    words = ["--model", project.root / FINETUNED, "--folder", folder]
    words += ["--templates", project.root / "templates.txt", "--out", project.root / "classes.json"]
    done = CliRunner().invoke(cli.app, ["classify", *map(str, words)])
    assert done.exit_code == 0, done.output
    report = json.loads((project.root / "classes.json").read_text(encoding="utf-8"))

    retriever = load_retriever(project.root / FINETUNED)
    prompts = retriever.encode_texts([template.replace("{}", label) for label in CLASSES])
    nearest = (retriever.encode_images(files) @ prompts.T).argmax(axis=1)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (truth, nearest), 1)
    assert report["classes"] == CLASSES
    assert report["confusion"] == confusion.tolist()


def test_the_service_answers_words_from_its_index(project: Project) -> None:
    write_calibrations(project.root)
    build_index(
        project.root, INDEX.model_copy(update={"sets": ["test"], "licences": []}), embed=project.params.embed
    )
    with build_client(project.root, model=str(project.root / FINETUNED)) as client:
        wait_until_ready(client)
        answers = search(client, text=CAPTIONS[2], k=4)["answers"]
    cosines = read_vectors(project, "finetuned") @ read_vectors(project, "finetuned", "texts")[2]
    assert [answer["id"] for answer in answers] == [str(30 + row) for row in np.argsort(-cosines)]
    assert [answer["score"] for answer in answers] == pytest.approx(np.sort(cosines)[::-1], abs=1e-4)
