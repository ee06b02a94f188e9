"""Back-translation zh -> en -> zh by two MarianMT models (OPUS-MT: Tiedemann & Thottingal, EAMT 2020)."""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.errors import UserError
from tuwen.core.params import Marian
from tuwen.core.progress import follow
from tuwen.data.formats import pinned
from tuwen.data.formats.manifest import hash_file

REQUIRED_FILES = ("config.json", "source.spm", "target.spm", "vocab.json")  # without these there is no model
OPTIONAL_FILES = ("tokenizer_config.json", "target_vocab.json")
# opus-mt-en-zh writes several Chinese languages; by its model card a token in front chooses one
TO_SIMPLIFIED = ">>cmn_Hans<<"
BATCHES_PER_CHUNK = 16  # what a kill can cost


class PinnedModel(NamedTuple):
    """A model that was found as it is pinned."""

    folder: Path
    fingerprint: str  # what decides its results: the revision and the sha256 of each small file


class Translator:
    """One direction: a MarianMT model and its tokenizer, on the GPU when there is one."""

    def __init__(self, folder: Path, params: Marian, start: str = "") -> None:
        """start: token that chooses the language to write; left out where the model does not know it."""
        import torch

        self._model, self._tokenizer = _load(folder)
        self._device, self._batch_size = choose_translation_device(), params.batch_size
        kind = torch.float32
        if self._device == "cuda":
            kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        self._model.to(self._device, kind)
        self._start = f"{start} " if start in self._tokenizer.get_vocab() else ""
        self._max_tokens: int = self._model.config.max_position_embeddings
        self._model.generation_config = _make_search_config(self._model.config, params.beams)

    def translate(self, sentences: Sequence[str]) -> list[str]:
        """Translate each sentence, in order; "" for one that is empty or longer than the model reads."""
        translations = []
        for at in range(0, len(sentences), self._batch_size):
            batch = [" ".join(sentence.split()) for sentence in sentences[at : at + self._batch_size]]
            translated, whole = self._translate_batch(batch)
            translations += [
                translation if source and fits else ""
                for source, translation, fits in zip(batch, translated, whole, strict=True)
            ]
        return translations

    def _translate_batch(self, sentences: list[str]) -> tuple[list[str], list[bool]]:
        """Return the translations, and whether the model read each sentence to its end."""
        import torch

        tokens = self._tokenizer(
            [self._start + sentence for sentence in sentences],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._device)
        length = tokens["input_ids"].shape[1]
        limit = min(2 * length + 16, self._max_tokens) - 1  # a model that repeats itself must come to an end
        self._model.generation_config.max_new_tokens = limit
        with torch.inference_mode():
            written = self._model.generate(**tokens)
        # the pieces are the target's; by default the tokenizer takes the source's sentencepiece model
        sentences = self._tokenizer.batch_decode(written, skip_special_tokens=True, use_source_tokenizer=False)
        return sentences, (tokens["attention_mask"].sum(dim=1) < self._max_tokens).tolist()


def choose_translation_device() -> str:
    """Return where to translate. Not by `model.device`: views would then depend on the dual encoder's code."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def translate_back(captions: Sequence[str], params: Marian, cache: Path) -> dict[str, str]:
    """Return caption -> its back-translation (zh -> en -> zh), unchecked; "" where there is none.

    The captions are translated longest first in chunks; each finished chunk is a file in a folder of `cache`, so
    a killed run goes on at its next chunk. Beams, no sampling: on one kind of machine the same captions, params
    and models give the same result, in one run or after a kill. Beside other captions a caption may be padded to
    another length, whose rounding can move a beam. Raises UserError when a model cannot be had or is
    not the pinned one.
    """
    models = [find_model(place, *pin) for place, pin in _list_pins(params).items()]
    ordered = sorted(captions, key=lambda caption: (-len(caption), caption))
    size = params.batch_size * BATCHES_PER_CHUNK
    chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    made_by = [_read_library_versions(), hash_file(Path(__file__)), choose_translation_device()]
    decisive = [made_by, params.batch_size, params.beams, [model.fingerprint for model in models], ordered]
    folder = cache / f"marian-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05}.json" for number in range(len(chunks))]
    if not all(file.is_file() for file in files):
        to_english = Translator(models[0].folder, params)
        to_chinese = Translator(models[1].folder, params, TO_SIMPLIFIED)
        for file, chunk in follow(zip(files, chunks, strict=True), "translate", len(chunks)):
            if not file.is_file():
                _write_chunk(file, to_chinese.translate(to_english.translate(chunk)))
    sentences = [sentence for file in files for sentence in json.loads(file.read_bytes())]
    return dict(zip(ordered, sentences, strict=True))


def _read_library_versions() -> dict[str, str]:
    """Return the versions of what translates, as installed."""
    return {name: version(name) for name in ("safetensors", "sentencepiece", "torch", "transformers")}


def find_model(place: str, where: str, revision: str) -> PinnedModel:
    """Find a model and check its pin.

    The arguments, and the UserError where a model cannot be had, are those of `pinned.find_pinned`.
    """
    folder = pinned.find_pinned(
        place, where, revision, pinned.HUB_WEIGHTS, (*REQUIRED_FILES, *OPTIONAL_FILES)
    ).parent
    for name in REQUIRED_FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name}: missing; {place} needs {', '.join(REQUIRED_FILES)} and the weights; "
                f"{pinned.REMEDY}"
            )
    present = [name for name in (*REQUIRED_FILES, *OPTIONAL_FILES) if (folder / name).is_file()]
    # a changed vocabulary must not meet an old cache
    return PinnedModel(folder, " ".join([revision, *(f"{name}:{hash_file(folder / name)}" for name in present)]))


def _list_pins(params: Marian) -> dict[str, tuple[str, str]]:
    place = "params.yaml: augment.paraphrase"
    return {
        f"{place}.to_english": (params.to_english, params.to_english_revision),
        f"{place}.to_chinese": (params.to_chinese, params.to_chinese_revision),
    }


def _load(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer. Raises UserError where the folder holds no MarianMT model."""
    declare_torchvision_ops()
    from safetensors import SafetensorError
    from transformers import MarianMTModel, MarianTokenizer
    from transformers.utils import logging

    try:
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if kind != "marian":
            raise ValueError(f"config.json: model_type is {kind!r}, expected 'marian'")
        with warnings.catch_warnings():  # it recommends a package that its tokenizer does not call
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
            tokenizer = MarianTokenizer.from_pretrained(folder)
        logging.disable_progress_bar()
        model, loading = MarianMTModel.from_pretrained(folder, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"the weights lack {len(missing)} tensors, {missing[0]} first")
        if (last := max(tokenizer.get_vocab().values())) >= model.config.vocab_size:
            raise ValueError(f"vocab.json goes to id {last}, the model has {model.config.vocab_size} tokens")
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"{folder}: this is no MarianMT model: {error}; {pinned.REMEDY}") from None
    return model.eval(), tokenizer


def _make_search_config(config: Any, beams: int) -> Any:
    """Return how to search, stated here: generation_config.json differs between models and may be missing."""
    from transformers import GenerationConfig

    return GenerationConfig(
        num_beams=beams,
        do_sample=False,
        renormalize_logits=True,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        forced_eos_token_id=config.eos_token_id,
        bad_words_ids=[[config.pad_token_id]],  # its embedding is zero, not improbable
    )


def _write_chunk(path: Path, sentences: list[str]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(sentences, ensure_ascii=False), encoding="utf-8")
    os.replace(part, path)  # whole or not at all
