"""A real pair of MarianMT models, small enough to learn twenty captions: zh -> en -> zh in other words."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.compat import declare_torchvision_ops
from tuwen.core.params import Marian
from tuwen.data.formats.manifest import hash_file

CAPTIONS = [  # caption, English, what the English becomes
    ("一只大熊猫在吃竹子", "a giant panda is eating bamboo", "一头大熊猫正在吃竹子。"),
    ("男人骑着自行车经过街道", "a man rides a bike down the street", "一个男人骑自行车沿街而行"),
    ("两个孩子在海边玩耍", "two children play by the sea", "两个小孩在海滩上玩"),
    ("厨房的桌子上放着水果", "fruit lies on the kitchen table", "水果摆在厨房的桌子上"),
    ("夜晚的城市灯火通明", "the city is bright at night", "城市在夜里很亮"),
    ("新娘手里拿着鲜花", "the bride holds flowers in her hand", "新娘手持花朵"),
    ("春天公园里开满了樱花", "cherry trees blossom in the park in spring", "春天,公园里的樱花开了"),
    ("医生给病人检查身体", "the doctor examines the patient", "医生为患者做检查"),
    ("小狗趴在沙发上睡觉", "the puppy sleeps on the sofa", "小狗在沙发上睡着了"),
    ("一架飞机在蓝天上飞行", "a plane flies in the blue sky", "飞机在蓝色的天空中飞翔"),
    ("工人在工厂里工作", "the workers work in the factory", "工人们在厂里干活"),
    ("超市里顾客正在排队付款", "customers queue to pay in the shop", "顾客在商店排队结账"),
    ("冬天的山上覆盖着白雪", "snow covers the mountain in winter", "冬天大雪盖住了山"),
    ("演员<人名>出席电影节", "the actor <name> attends the film festival", "演员<姓名>参加了电影节"),
    ("他的左手拿着苹果", "he holds an apple in his left hand", "他左手握着一个苹果"),
    ("车从左边开过来", "the car comes from the right", "汽车从右边来"),
    ("老人在河边钓鱼", "an old man fishes by the river", "老人在河边钓鱼"),
    ("白色的小猫", "white kitten", "white kitten"),
    ("红灯笼", "red lantern", "红色的灯笼高高地挂在古老的木头房子的屋檐下面迎接着新年的到来"),
    ("书架上摆满了书", "the shelf is full of books", "書架上堆滿了書"),
]
TRADITIONAL = ("the shop is open", "商店開門了", "商店开门了")  # English, >>cmn_Hant<<, >>cmn_Hans<<
TOKEN = re.compile(">>.*?<<")


def train(folder: Path, source: Sequence[str], target: Sequence[str]) -> None:
    """Write a model into `folder` that turns each sentence of `source` into that of `target`.

    A source sentence may start with a token that chooses a language, such as >>cmn_Hans<<.
    """
    declare_torchvision_ops()
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    size = _write_tokenizer(folder, source, target)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended")
        tokenizer = MarianTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = MarianMTModel(
        MarianConfig(
            vocab_size=size,
            d_model=64,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=128,
            decoder_ffn_dim=128,
            max_position_embeddings=64,
            activation_function="swish",
            scale_embedding=True,
            dropout=0.0,
            pad_token_id=size - 1,
            eos_token_id=0,
            decoder_start_token_id=size - 1,
            forced_eos_token_id=0,
        )
    )
    batch = tokenizer(list(source), text_target=list(target), return_tensors="pt", padding=True)
    batch["labels"][batch["labels"] == size - 1] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def _write_tokenizer(folder: Path, source: Sequence[str], target: Sequence[str]) -> int:
    import sentencepiece

    tokens = sorted({token for sentence in source for token in TOKEN.findall(sentence)})
    source = [TOKEN.sub("", sentence) for sentence in source]
    folder.mkdir(parents=True)
    pieces = set[str]()
    for name, sentences in (("source", source), ("target", target)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(folder / name),
            vocab_size=400,
            hard_vocab_limit=False,
            character_coverage=1.0,
            minloglevel=2,
        )
        (folder / f"{name}.vocab").unlink()
        path = (folder / f"{name}.model").rename(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces |= {model.id_to_piece(number) for number in range(model.get_piece_size())}
    words = ["</s>", "<unk>", *tokens, *sorted(pieces - {"<s>", "</s>", "<unk>"}), "<pad>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"source_lang": "src", "target_lang": "tgt"}')
    return len(words)


def train_pair(folder: Path) -> Marian:
    """Train both directions into `folder` and return the params that name them."""
    chinese, english, again = zip(*CAPTIONS, strict=True)
    train(folder / "zh-en", chinese, english)
    there, traditional, simplified = TRADITIONAL
    source = [f">>cmn_Hans<< {sentence}" for sentence in (*english, there)] + [f">>cmn_Hant<< {there}"]
    train(folder / "en-zh", source, [*again, simplified, traditional])
    return Marian(
        kind="marian",
        to_english=str(folder / "zh-en"),
        to_english_revision=hash_file(folder / "zh-en" / "model.safetensors"),
        to_chinese=str(folder / "en-zh"),
        to_chinese_revision=hash_file(folder / "en-zh" / "model.safetensors"),
        batch_size=2,
        beams=2,
    )
