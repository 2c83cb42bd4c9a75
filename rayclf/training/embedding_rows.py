"""The rows of the word embeddings that training has read so far, as a parameter of their own.

A row whose token no text has had yet has neither gradient nor moments, and embeddings are not decayed: AdamW does
nothing to it. So a step, and a sum of gradients over workers, take as long as the texts' words ask for and not the
whole vocabulary; what comes out is the same. Half of MiniLM's weights are word embeddings, of which 15,000 short
questions touch a sixth. (PyTorch's SparseAdam is another algorithm: it leaves out the momentum of rows that a step does
not touch.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

_MOMENTS = ("exp_avg", "exp_avg_sq")


class EmbeddingRows:
    """Rows ``[n, width]`` of an embedding ``[V, width]``: ``parameter`` is what an optimizer updates in its place.

    ``whole`` is the embedding's own weight, which is right after each :meth:`write_back`.
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        embedding.sparse = True  # gradients of the tokens that were read, instead of a matrix of zeros for each pass
        self.whole = embedding.weight
        self._tokens = torch.empty(0, dtype=torch.long)
        self._place = torch.full((len(self.whole),), -1)  # of a token among those that were read
        # Memory that nobody has written to takes no room, so that there need not be a guess at n.
        self._weights = torch.empty_like(self.whole.detach())
        self._moments = {key: torch.empty_like(self._weights) for key in _MOMENTS}
        self._step = torch.zeros(())
        self.parameter = nn.Parameter(self._weights[:0])

    @property
    def state(self) -> dict[str, Tensor]:
        """AdamW's state of ``parameter``: views, which it updates in place."""
        return {"step": self._step} | {key: moment[: len(self._tokens)] for key, moment in self._moments.items()}

    def collect(self) -> None:
        """Move the gradient of ``whole`` to ``parameter``, and take in the tokens that are new to any worker."""
        grad, self.whole.grad = self.whole.grad, None
        if grad is None:  # of a worker without rows
            tokens, values = self._tokens[:0], self._weights[:0]
        elif grad.is_sparse:
            grad = grad.coalesce()
            tokens, values = grad.indices()[0], grad.values()
        else:  # the backbone also reads the matrix as a whole
            tokens, values = torch.arange(len(grad)), grad
        self._take_in(self._of_all_workers(tokens))
        self.parameter.grad = torch.zeros_like(self.parameter)
        self.parameter.grad[self._place[tokens]] = values

    def write_back(self) -> None:
        """Give ``whole`` its rows after an update."""
        self.whole.data[self._tokens] = self.parameter.data

    def whole_state(self) -> dict[str, Tensor]:
        """AdamW's state of ``whole``; empty before the first step."""
        if not self._step:
            return {}
        state = {"step": self._step}
        for key, moment in self._moments.items():
            state[key] = torch.zeros_like(moment)
            state[key][self._tokens] = moment[: len(self._tokens)]
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up AdamW's state of ``whole``: rows with moments are those that were read."""
        self._step.copy_(state["step"])
        moments = {key: state[key].to(moment) for key, moment in self._moments.items()}
        read = torch.stack([moment.any(dim=1) for moment in moments.values()]).any(dim=0)
        self._take_in(read.nonzero()[:, 0])
        for key, moment in moments.items():
            self._moments[key][: len(self._tokens)] = moment[self._tokens]

    def _of_all_workers(self, tokens: Tensor) -> Tensor:
        """The tokens that any worker has met, in order: all must have the same rows at the same places."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return tokens
        anywhere = torch.zeros(len(self.whole), dtype=torch.uint8)
        anywhere[tokens] = 1
        dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
        return anywhere.nonzero()[:, 0]

    def _take_in(self, tokens: Tensor) -> None:
        new = tokens[self._place[tokens] < 0]
        old, count = len(self._tokens), len(self._tokens) + len(new)
        self._place[new] = torch.arange(old, count)
        self._weights[old:count] = self.whole.detach()[new]
        for moment in self._moments.values():
            moment[old:count] = 0
        self._tokens = torch.cat([self._tokens, new])
        self.parameter.data = self._weights[:count]


def find_rows(network: nn.Module) -> dict[str, EmbeddingRows]:
    """The rows of each embedding that is trained, by the name of its weight; on a CPU.

    On a GPU, which is not to wait for the number of rows, embeddings are trained as a whole.
    """
    named = dict(network.named_parameters())  # of a weight that two embeddings share, the first name alone
    return {
        f"{name}.weight": EmbeddingRows(module)
        for name, module in network.named_modules()
        if type(module) is nn.Embedding
        and f"{name}.weight" in named
        and module.weight.requires_grad
        and module.weight.device.type == "cpu"
        and not (module.max_norm or module.scale_grad_by_freq)
    }
