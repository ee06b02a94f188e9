"""What a re-ranker learns by a step: a cross encoder over the tokens of a dual encoder that stays as it is.

The pairs of a batch are judged beside hard negatives (FGR). Where words are hidden, they are hidden in the texts
of positives and negatives alike, or [MASK] itself would tell a match; and the pass that judges the positives is
also the one that finds the words (R2D2's enhanced training, Xie et al. 2022).
Shapes: b pairs of this process, N negatives each, L tokens of a text, P of an image, Q = (1 + 2N) b pairs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from tuwen.core.progress import say
from tuwen.model.cross_encoder import CrossEncoder, CrossOutput
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.reranking import losses, masking
from tuwen.reranking.clusters import find_clusters
from tuwen.reranking.encoded import Encoded, JudgedPairs, encode_batch, join_negatives
from tuwen.training import distributed
from tuwen.training.dataset import make_generator
from tuwen.training.objective import EpochRecord
from tuwen.training.optim import Teacher
from tuwen.training.step import find_positives, move_weights, prepare_torch, set_attention, set_precision

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Rerank
    from tuwen.training.loader import Batch

FIRST_PATCH = 1  # the token before stands for the whole image
ALARM = 0.005  # nats below what a re-ranker that tells nothing apart would have, or less: it has learned nothing
CLUSTERED = 20_000  # patches of the first batch that clusters are found among, at the most


class HiddenWords(NamedTuple):
    """The token that stands for a hidden word, and those that are never hidden."""

    mask: int
    special: tuple[int, ...]


class Draws(NamedTuple):
    """The random numbers of a step, [b, …]: the same for a row whichever process has it."""

    negatives: Tensor  # [b, 2N]
    words: Tensor  # [b, L]
    patches: Tensor  # [b, P]


class Matching:
    """The re-ranker's objectives by their weights, the momentum teacher, and the sums for the epoch's record."""

    group = "rerank.fit"

    def __init__(self, dual: DualEncoder, settings: "Rerank", words: HiddenWords) -> None:
        self._dual, self._settings, self._words = dual, settings, words
        self._weights = {name: weight for name, weight in settings.objectives if weight}
        self._teacher: Teacher | None = None
        self._centres: Tensor | None = None
        self._sums: dict[str, Tensor] = {}

    def prepare(self, model: CrossEncoder, steps_per_epoch: int) -> None:
        """Move both models to the device, the dual encoder frozen, and begin the teacher."""
        prepare_torch(self._settings.fit, self.group)
        self._dual.to(choose_device()).eval().requires_grad_(False)
        model.to(choose_device())
        if self._settings.teacher:
            self._teacher = Teacher(model, self._settings.teacher.momentum)

    def take_step(
        self,
        model: CrossEncoder,
        optimizers: list[torch.optim.Optimizer],
        batch: "Batch",
        factor: float,
        done: int,
    ) -> float:
        """Take a step, and let the teacher follow."""
        loss = self.compute_gradients(model, batch, done)
        value = move_weights(model, optimizers, loss, factor, self._settings.fit)
        if self._teacher and value == value:  # not NaN
            self._teacher.update(model)
        return value

    def compute_gradients(self, model: CrossEncoder, batch: "Batch", done: int) -> Tensor:
        """Give every parameter the gradient of the whole batch's loss, in all processes; return that loss.

        done: steps before this one; seed and `done` decide what is drawn and hidden.
        """
        model.train()
        with set_attention(choose_device()):
            with set_precision(self._settings.fit):
                terms = self.compute_terms(model, batch, done)
            loss = torch.stack([self._weights[name] * term for name, term in terms.items()]).sum()
            torch.autograd.backward(loss)
        distributed.average_gradients(model.parameters())
        self._add({name: term.detach() for name, term in terms.items()} | {"steps": torch.ones(())})
        return distributed.average_over_ranks(loss.detach())

    def compute_terms(self, model: CrossEncoder, batch: "Batch", done: int) -> dict[str, Tensor]:
        """Return the loss of every objective that has a weight, without the weights."""
        pixels, ids_bL, mask_bL, *names = (column.to(choose_device(), non_blocking=True) for column in batch[:5])
        rows, positive_bB = len(ids_bL), find_positives(torch.stack(names, dim=1))
        draws = self._draw(model, rows, ids_bL.shape[1], done)
        shown_ids_bL, hidden_bL = self._hide_words(ids_bL, draws)
        encoded = encode_batch(self._dual, pixels, ids_bL, mask_bL, shown_ids_bL)
        pairs = join_negatives(encoded, self._dual.scale, positive_bB, draws.negatives)
        out = model(model.compress_image(pairs.tokens), pairs.text, pairs.mask, pairs.image)
        terms = {"fgr": self._judge(out, pairs, rows)}
        if "mlm" in self._weights:
            found_MV = model.predict_tokens(out.text[:rows, : hidden_bL.shape[1]][hidden_bL])
            terms["mlm"] = losses.compute_word_loss(found_MV, ids_bL[hidden_bL], distributed.average_over_ranks)
        if "recovery" in self._weights:
            terms["recovery"] = losses.compute_recovery_loss(model.recover_text(out.feature[:rows]), encoded.text)
        if self._teacher:
            terms["fgd"] = losses.compute_guided_loss(out.feature[:rows], self._guide(encoded))
        return terms | self._model_regions(model, encoded, draws.patches)

    def _draw(self, model: CrossEncoder, rows: int, length: int, done: int) -> Draws:
        """Draw for the rows of all processes, and keep those of this one."""
        generator, rank = make_generator(self._settings.seed, done + 1), distributed.get_rank()
        # of texts the longest there may be, since their padding is each process's own
        columns = (2 * self._settings.negatives, self._dual.config["text"]["max_tokens"])
        drawn = [
            torch.rand(rows * distributed.count_ranks(), count, generator=generator)[rank * rows :][:rows]
            for count in (*columns, model.config["image"]["tokens"])
        ]
        return Draws(drawn[0], drawn[1][:, :length], drawn[2])

    def _hide_words(self, ids_bL: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        if "mlm" not in self._weights and self._teacher is None:
            return ids_bL, torch.zeros_like(ids_bL, dtype=torch.bool)
        special = torch.tensor(self._words.special, device=ids_bL.device)
        uniform_bL = draws.words.to(ids_bL.device)
        return masking.hide_words(ids_bL, uniform_bL, self._settings.hidden_share, special, self._words.mask)

    def _judge(self, out: CrossOutput, pairs: JudgedPairs, rows: int) -> Tensor:
        settings, counted_b = self._settings, pairs.counted[:rows]
        with torch.no_grad():
            logit_Q = out.match[:, 1].float() - out.match[:, 0].float()
            best_b = logit_Q[rows:].view(2, rows, -1).amax((0, 2))
            won_b = counted_b & (logit_Q[:rows] > best_b)
            self._add({"fgr_won": won_b.sum(), "fgr_rows": counted_b.sum(), "fgr_skipped": (~counted_b).sum()})
        return losses.compute_match_loss(
            out.heads, pairs.label, pairs.counted, settings.class_weights, distributed.average_over_ranks
        )

    @torch.no_grad()
    def _guide(self, encoded: Encoded) -> Tensor:
        """Return the teacher's [CLS] feature [b, W] of the whole pairs."""
        assert self._teacher
        teacher = self._teacher.model
        feature: Tensor = teacher(teacher.compress_image(encoded.tokens), encoded.whole, encoded.mask).feature
        return feature

    def _model_regions(self, model: CrossEncoder, encoded: Encoded, uniform_bP: Tensor) -> dict[str, Tensor]:
        """Return the losses of masked region modelling, from a pass of its own: the texts are whole in it."""
        names = [name for name in ("mrfr", "mrc", "mrc_kl") if name in self._weights]
        if not names:
            return {}
        share, total = self._settings.hidden_share, distributed.average_over_ranks
        shown, hidden_bP = masking.hide_patches(
            encoded.tokens, uniform_bP.to(encoded.tokens.device), share, FIRST_PATCH
        )
        states = model(shown, encoded.whole, encoded.mask).image
        assert states is not None  # core/params/rerank.py
        found_MC, true_MC = model.predict_patches(states[hidden_bP]), encoded.tokens[hidden_bP]
        terms = {}
        if "mrfr" in names:
            terms["mrfr"] = losses.compute_feature_loss(found_MC, true_MC, total)
        for name in set(names) - {"mrfr"}:
            centres = self._find_centres(encoded.tokens)
            terms[name] = losses.compute_cluster_loss(found_MC, true_MC, centres, name == "mrc_kl", total)
        return terms

    def _find_centres(self, tokens_bPC: Tensor) -> Tensor:
        """Return the clusters' centres, found in the first step among the patches of all processes."""
        if self._centres is None:
            patches_NC = distributed.gather_rows(tokens_bPC[:, FIRST_PATCH:].contiguous()).flatten(0, 1)
            patches_NC = patches_NC[:: -(-len(patches_NC) // CLUSTERED)]
            found = None
            if distributed.is_first():
                found = find_clusters(patches_NC, self._settings.clusters, self._settings.seed)
            centres = distributed.broadcast_first(found)
            assert centres is not None
            self._centres = centres.to(tokens_bPC.device)
        return self._centres

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.float()

    def describe_epoch(self, model: CrossEncoder) -> EpochRecord:
        """Return the mean loss of each objective, and how often a pair was judged above all of its negatives.

        Prints a warning where the loss of matching sits where a re-ranker stays that tells nothing apart.
        """
        sums = {n: distributed.average_over_ranks(v).item() for n, v in sorted(self._sums.items())}
        self._sums = {}
        steps, ranks = max(1.0, sums.pop("steps", 0.0)), distributed.count_ranks()
        won, judged, skipped = (sums.pop(f"fgr_{name}", 0.0) for name in ("won", "rows", "skipped"))
        record = {name: value / steps for name, value in sums.items()}
        never = losses.compute_never_loss(2 * self._settings.negatives, self._settings.class_weights)
        if distributed.is_first() and record.get("fgr", 0.0) > never - ALARM:
            say(
                f"warning: the loss of matching is {record['fgr']:.4f}, and {never:.4f} is that of a re-ranker "
                "that tells nothing apart; try another rerank.fit.lr or more warmup_steps, or show it more pairs",
                error=True,
            )
        return record | {"fgr_accuracy": won / max(1.0, judged), "fgr_skipped": skipped * ranks}

    def get_state(self) -> Mapping[str, Any]:
        """Return the teacher, the clusters and the sums."""
        teacher = self._teacher.model.state_dict() if self._teacher else None
        return {"teacher": teacher, "centres": self._centres, "sums": self._sums}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        device = choose_device()
        if self._teacher:
            self._teacher.model.load_state_dict(state["teacher"])
        self._centres = None if state["centres"] is None else state["centres"].to(device)
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
