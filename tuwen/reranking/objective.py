"""What a re-ranker learns by a step: a cross encoder over the tokens of a dual encoder, and the towers with it.

The pairs of a batch are judged beside hard negatives (FGR). Where words are hidden, they are hidden in the texts
of positives and negatives alike, or [MASK] itself would tell a match; and the pass that judges the positives is
also the one that finds the words (R2D2's enhanced training, Xie et al. 2022). Towers that are trained read the
texts as they are shown, for their contrastive loss (GCPR) too; a momentum teacher of both reads them whole.
Shapes: b pairs of this process, N negatives each, L tokens of a text, P of an image, Q = (1 + 2N) b pairs.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from tuwen.core.progress import say
from tuwen.model.cross_encoder import CrossEncoder, CrossOutput
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.precision import set_attention, set_precision
from tuwen.reranking import losses
from tuwen.reranking.encoded import Encoded, JudgedPairs, encode_batch, join_negatives
from tuwen.reranking.joint import JointModel, split_model
from tuwen.reranking.lengths import read_by_length
from tuwen.reranking.negatives import compute_hardness
from tuwen.reranking.regions import OBJECTIVES, MaskedRegions
from tuwen.training import distributed
from tuwen.training.dataset import make_generator
from tuwen.training.distillation.guidance import Guidance, Taught
from tuwen.training.distillation.hidden_words import HiddenWords, hide_words
from tuwen.training.engines.loss_scale import LossScale
from tuwen.training.engines.replicas import Alone, GradientEngine, make_replicas
from tuwen.training.loss import compute_guided_loss
from tuwen.training.objective import EpochRecord
from tuwen.training.optim import Teacher
from tuwen.training.step import clamp_temperature, compare_rows, find_positives, move_weights, prepare_torch

if TYPE_CHECKING:  # pydantic is not needed to step on tensors
    from tuwen.core.params import Rerank
    from tuwen.training.loader import Batch

ALARM = 0.005  # nats below what a re-ranker that tells nothing apart would have, or less: it has learned nothing


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
        self._trained = settings.towers == "trained"
        self._regions = MaskedRegions(settings)
        self._teacher: Teacher | None = None
        self._guidance: Guidance | None = None
        self._taught: Taught | None = None  # of the step under way
        self._engine, self._sums = cast(GradientEngine, Alone()), dict[str, Tensor]()
        self._scale, self._steps = LossScale(settings.fit.precision), 0  # of the whole training

    def prepare(self, model: CrossEncoder | JointModel, steps_per_epoch: int) -> None:
        """Move both models to the device, a dual encoder that is not trained frozen, and begin the teacher."""
        assert isinstance(model, JointModel) == self._trained
        settings, self._steps = self._settings, self._settings.fit.epochs * steps_per_epoch
        prepare_torch(settings.fit, self.group)
        if not self._trained:
            self._dual.to(choose_device()).eval().requires_grad_(False)
        self._engine = make_replicas(model.to(choose_device()))
        if settings.teacher:
            self._teacher = Teacher(model, settings.teacher.momentum)
            self._regions.keep_all_patches(model)
        if settings.tgd:
            self._guidance = Guidance(settings.tgd, self._dual.config["dim"], steps_per_epoch)

    def take_step(
        self,
        model: CrossEncoder | JointModel,
        optimizers: list[torch.optim.Optimizer],
        batch: "Batch",
        factor: float,
        done: int,
    ) -> float:
        """Take a step, and let the teacher and its queue follow."""
        loss = self.compute_gradients(model, batch, done)
        value = move_weights(model, optimizers, loss, factor, self._settings.fit, self._scale)
        if isinstance(model, JointModel):
            clamp_temperature(model.dual)
        if self._teacher and value == value:  # not NaN
            self._teacher.update(model)
            if self._guidance and self._taught:
                self._guidance.put(self._taught)
        return value

    def compute_gradients(self, model: CrossEncoder | JointModel, batch: "Batch", done: int) -> Tensor:
        """Give every parameter the gradient of the whole batch's loss, in all processes; return that loss.

        done: steps before this one; seed and `done` decide what is drawn and hidden.
        """
        model.train()
        with set_attention(choose_device()):
            loss = self._engine.run(partial(self._add_terms, model, batch, done))
            torch.autograd.backward(self._scale.multiply(loss))
        self._engine.finish_gradients()
        self._scale.divide_gradients(model.parameters())
        return distributed.average_over_ranks(loss.detach())

    def _add_terms(self, model: CrossEncoder | JointModel, batch: "Batch", done: int) -> Tensor:
        with set_precision(self._settings.fit.precision):
            terms = self.compute_terms(model, batch, done)
        self._add({name: term.detach() for name, term in terms.items()} | {"steps": torch.ones(())})
        return torch.stack([self._weights[name] * term for name, term in terms.items()]).sum()

    def compute_terms(self, model: CrossEncoder | JointModel, batch: "Batch", done: int) -> dict[str, Tensor]:
        """Return the loss of every objective that has a weight, without the weights."""
        pixels, ids_bL, mask_bL, *names = (column.to(choose_device(), non_blocking=True) for column in batch[:5])
        (dual, cross), rows, ids_b2 = split_model(model, self._dual), len(ids_bL), torch.stack(names, dim=1)
        positive_bB, draws = find_positives(ids_b2), self._draw(cross, rows, ids_bL.shape[1], done)
        shown_ids_bL, hidden_bL = self._hide_words(ids_bL, draws)
        whole = not self._trained or not self._weights.keys().isdisjoint({"recovery", *OBJECTIVES})
        with torch.set_grad_enabled(self._trained):
            encoded = encode_batch(dual, pixels, ids_bL, mask_bL, shown_ids_bL, whole=whole)
        hard = self._settings.hardness
        hardness = compute_hardness(hard.first, hard.last, hard.ramp, done, self._steps)
        pairs = join_negatives(encoded, hardness * dual.scale, positive_bB, draws.negatives)
        out = read_by_length(cross, pairs.tokens, pairs.text, pairs.mask, pairs.image)
        terms = {"fgr": self._judge(out, pairs, rows)}
        if "mlm" in self._weights:
            found_MV = cross.predict_tokens(out.text[:rows, : hidden_bL.shape[1]][hidden_bL])
            terms["mlm"] = losses.compute_word_loss(found_MV, ids_bL[hidden_bL], distributed.average_over_ranks)
        if "recovery" in self._weights:
            recovered_bD = cross.recover_text(out.feature[:rows])
            terms["recovery"] = losses.compute_recovery_loss(recovered_bD, encoded.text.detach())
        taught = self._teach(encoded, pixels, ids_bL, mask_bL)
        if "fgd" in self._weights:
            terms["fgd"] = compute_guided_loss(out.feature[:rows], self._guide(taught))
        terms |= self._regions.compute_terms(cross, encoded, taught.tokens, draws.patches)
        if "gcpr" in self._weights:
            self._taught = Taught(taught.image, taught.text, ids_b2)
            terms["gcpr"] = self._contrast(dual, encoded, positive_bB, done)
        return terms

    def _draw(self, model: CrossEncoder, rows: int, length: int, done: int) -> Draws:
        """Draw for the rows of all processes, and keep those of this one."""
        generator = make_generator(self._settings.seed, done + 1)
        # of texts the longest there may be, since their padding is each process's own
        longest = self._dual.config["text"]["max_tokens"]
        columns = (2 * self._settings.negatives, longest, model.config["image"]["tokens"])
        drawn = [distributed.draw_rows(rows, count, generator) for count in columns]
        return Draws(drawn[0], drawn[1][:, :length], drawn[2])

    def _hide_words(self, ids_bL: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        if self._weights.keys().isdisjoint({"mlm", "fgd"}):
            return ids_bL, torch.zeros_like(ids_bL, dtype=torch.bool)
        return hide_words(ids_bL, draws.words, self._settings.hidden_share, self._words)

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
    def _teach(self, encoded: Encoded, pixels: Tensor, ids_bL: Tensor, mask_bL: Tensor) -> Encoded:
        """Return what the teacher's towers say of the whole pairs: of towers that stay, what is known already."""
        if self._teacher is None or not self._trained:
            return encoded
        return encode_batch(self._teacher.model.dual, pixels, ids_bL, mask_bL, ids_bL)

    @torch.no_grad()
    def _guide(self, taught: Encoded) -> Tensor:
        """Return the teacher's [CLS] feature [b, W] of the whole pairs."""
        assert self._teacher
        cross = split_model(self._teacher.model, self._dual).cross
        own_b = torch.arange(len(taught.tokens), device=taught.tokens.device)
        return read_by_length(cross, taught.tokens, taught.whole, taught.mask, own_b).feature

    def _contrast(self, dual: DualEncoder, encoded: Encoded, positive_bB: Tensor, done: int) -> Tensor:
        """Return the contrastive loss of the towers, of the texts as they are shown; in fp32 as everywhere."""
        with torch.autocast(choose_device(), enabled=False):
            if self._guidance is None:
                return compare_rows(dual, encoded.image, encoded.seen, positive_bB)
            assert self._taught
            rows = (encoded.image, encoded.seen, positive_bB, dual.scale, done)
            return self._guidance.compute_loss(self._taught, *rows)

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.float()

    def describe_epoch(self, model: CrossEncoder | JointModel) -> EpochRecord:
        """Return the mean loss of each objective, and how often a pair was judged above all of its negatives.

        Of trained towers the temperature too, and how many pairs a queue is worth. Prints a warning where the loss
        of matching sits where a re-ranker stays that tells nothing apart.
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
        record |= {"fgr_accuracy": won / max(1.0, judged), "fgr_skipped": skipped * ranks}
        if isinstance(model, JointModel):
            record |= {"temperature": 1 / model.dual.scale.item()}
        return record | (self._guidance.describe() if self._guidance else {})

    def get_state(self) -> Mapping[str, Any]:
        """Return the teacher, its queue, the clusters, the sums and the factor of the loss."""
        teacher = self._teacher.model.state_dict() if self._teacher else None
        queue = self._guidance.queue.get_state() if self._guidance else None
        own = {"teacher": teacher, "queue": queue, "loss_scale": self._scale.get_state()}
        return own | {"centres": self._regions.centres, "sums": self._sums}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self._scale.set_state(state["loss_scale"])
        if self._teacher:
            self._teacher.model.load_state_dict(state["teacher"])
        if self._guidance:
            self._guidance.queue.set_state(state["queue"])
        self._regions.centres = None if state["centres"] is None else state["centres"].to(choose_device())
        self._sums = {name: value.to(choose_device()) for name, value in state["sums"].items()}
